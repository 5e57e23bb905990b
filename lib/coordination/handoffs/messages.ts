import { randomBytes } from "node:crypto";
import { AlreadyExists } from "../../errors.ts";
import { type Handoff, handoffWire } from "../../protocol/handoffs.ts";
import { type TaskRequest, taskRequest } from "../../protocol/payloads.ts";
import type { Task } from "../../protocol/tasks.ts";
import { MessageType } from "../../protocol/types.ts";
import { afterCommit } from "../../store/after-commit.ts";
import { derivedId, type Parts, TELLING, type Tx } from "../parts.ts";

/** Random, because an id may be used again once it was purged, and its messages are still known. */
export function newMessageId(id: string, suffix: string): string {
  return derivedId("", id, `:${suffix}:${randomBytes(8).toString("hex")}`);
}

function envelope(handoff: Handoff) {
  return {
    priority: handoff.priority,
    ...(handoff.taskId === null ? {} : { taskId: handoff.taskId }),
    correlationId: handoff.correlationId ?? handoff.handoffId,
    ...(handoff.contextId === null ? {} : { contextId: handoff.contextId }),
    // A chain of handoffs is no loop of messages: each begins anew.
    hops: 0,
  };
}

/** Tells the target that something is offered to it. */
export async function sendOffer(parts: Parts, trx: Tx, handoff: Handoff): Promise<void> {
  const sent = await parts.queue.sendMessage(
    {
      ...envelope(handoff),
      messageId: handoff.messageId,
      messageType: MessageType.AGENT_HANDOFF,
      fromAgent: handoff.from,
      toAgent: handoff.to,
      content: handoffWire(handoff),
    },
    { tx: trx },
  );
  refuseDuplicate(sent.duplicate, handoff.messageId);
}

const ANSWERS = {
  accepted: MessageType.HANDOFF_ACCEPTED,
  rejected: MessageType.HANDOFF_REJECTED,
  returned: MessageType.HANDOFF_RETURNED,
  completed: MessageType.HANDOFF_COMPLETED,
  withdrawn: MessageType.HANDOFF_WITHDRAWN,
} as const;

/** Tells the giver what became of its offer; where that was withdrawn, the target. */
export async function sendAnswer(
  parts: Parts,
  trx: Tx,
  handoff: Handoff,
  more: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  const { state } = handoff;
  if (state === "offered" || state === "active") return;
  const withdrawn = state === "withdrawn";
  await parts.queue.sendMessage(
    {
      ...envelope(handoff),
      messageId: derivedId("", handoff.messageId, `:${state}`),
      messageType: ANSWERS[state],
      fromAgent: withdrawn ? handoff.from : handoff.to,
      toAgent: withdrawn ? handoff.to : handoff.from,
      causationId: handoff.messageId,
      content: {
        handoff_id: handoff.handoffId,
        state,
        from_agent: handoff.from,
        to_agent: handoff.to,
        ...(handoff.taskId === null ? {} : { task_id: handoff.taskId }),
        ...(handoff.assignment === null ? {} : { assignment: handoff.assignment }),
        ...(handoff.note === null ? {} : { note: handoff.note }),
        ...(handoff.outcome === null ? {} : { outcome: handoff.outcome }),
        ...more,
      },
    },
    { tx: trx, flow: TELLING },
  );
}

/** The message of an assignment that a handoff made, with the sheet on it. */
export async function sendAssignment(
  parts: Parts,
  trx: Tx,
  task: Task,
  handoff: Handoff,
): Promise<void> {
  const content: TaskRequest = {
    task_id: task.taskId,
    task_type: task.taskType,
    description: task.description,
    parameters: task.parameters as Record<string, unknown>,
    required_capabilities: [...task.requiredCapabilities],
    assignment: task.assignment,
    ...(task.deadlineAt === null ? {} : { deadline: new Date(task.deadlineAt).toISOString() }),
    ...(task.progress === null ? {} : { progress: task.progress }),
    handoff: handoffWire(handoff),
  };
  const messageId = task.messageId as string;
  const sent = await parts.queue.sendMessage(
    taskRequest(
      {
        // The answer goes to the supervisor that was given the task.
        fromAgent: task.supervisorId,
        toAgent: task.agentId as string,
        messageId,
        priority: task.priority,
        correlationId: task.correlationId ?? undefined,
        contextId: task.contextId ?? undefined,
        expiresAt: task.deadlineAt ?? undefined,
        hops: 0,
      },
      content,
    ),
    // Its agent has the slot, or has had it all the time.
    { tx: trx, flow: TELLING },
  );
  refuseDuplicate(sent.duplicate, messageId);
}

/** Rolls all of it back: without the message nobody would hear of it. */
function refuseDuplicate(duplicate: boolean, messageId: string): void {
  if (duplicate) throw new AlreadyExists(`a message with the id "${messageId}" was sent before`);
}

/** Tells observers of a handoff, once the transaction has committed. */
export function tellHandoff(
  { observers }: Pick<Parts, "observers">,
  trx: Tx,
  handoff: Handoff,
  more: Readonly<Record<string, unknown>> = {},
): void {
  if (!observers.active) return;
  afterCommit(trx, () =>
    observers.emit([
      {
        type: "agent",
        event: `handoff_${handoff.state}`,
        agentId: handoff.from,
        at: Date.now(),
        data: {
          handoff_id: handoff.handoffId,
          to_agent: handoff.to,
          ...(handoff.taskId === null ? {} : { task_id: handoff.taskId }),
          reason: handoff.reason,
          ...(handoff.note === null ? {} : { note: handoff.note }),
          ...(handoff.warnings.length === 0 ? {} : { warnings: handoff.warnings }),
          ...more,
        },
      },
    ]),
  );
}
