import { randomBytes } from "node:crypto";
import { AgentCommunicationError, AlreadyExists } from "../../errors.ts";
import { taskRequest } from "../../protocol/payloads.ts";
import type { Task } from "../../protocol/tasks.ts";
import { derivedId, type Parts, type Tx, tellTask } from "../parts.ts";

/** Random, because a task's id may be used again when the task was purged, and its messages are still known. */
export function assignmentId(taskId: string, assignment: number): string {
  return derivedId("", taskId, `:${assignment}:${randomBytes(8).toString("hex")}`);
}

export function describe(task: Task): Record<string, unknown> {
  return { task_type: task.taskType, required_capabilities: task.requiredCapabilities };
}

/**
 * Sends each agent its task, all in one statement, and tells of it. With `chain` the messages go on from the one that
 * is handled here; otherwise they begin chains of their own.
 *
 * @throws AlreadyExists, which rolls the assignments back: without a message an agent would never hear of its task
 */
export async function sendAssignments(
  parts: Parts,
  trx: Tx,
  tasks: readonly Task[],
  { chain }: { readonly chain: boolean },
): Promise<void> {
  if (tasks.length === 0) return;
  const messages = tasks.map((task) => assignmentMessage(task, chain));
  const sent = await parts.queue.sendMessages(messages, { tx: trx });
  const twice = sent.find(({ duplicate }) => duplicate);
  if (twice !== undefined) {
    throw new AlreadyExists(`a message with the id "${twice.messageId}" was sent before`);
  }
  for (const task of tasks) {
    tellTask(parts, trx, task.assignment === 1 ? "assigned" : "reassigned", task, {
      ...describe(task),
      ...(task.previousAgentId === null ? {} : { previous_agent: task.previousAgentId }),
    });
  }
}

function assignmentMessage(task: Task, chain: boolean): ReturnType<typeof taskRequest> {
  return taskRequest(
    {
      // Whoever places it: the answer goes to the supervisor that was given the task.
      fromAgent: task.supervisorId,
      toAgent: task.agentId as string,
      messageId: task.messageId as string,
      priority: task.priority,
      correlationId: task.correlationId ?? undefined,
      contextId: task.contextId ?? undefined,
      expiresAt: task.deadlineAt ?? undefined,
      ...(chain ? {} : { hops: 0 }),
    },
    {
      task_id: task.taskId,
      task_type: task.taskType,
      description: task.description,
      parameters: task.parameters,
      required_capabilities: [...task.requiredCapabilities],
      assignment: task.assignment,
      deadline: task.deadlineAt === null ? undefined : new Date(task.deadlineAt).toISOString(),
      progress: task.progress ?? undefined,
    },
  );
}

/** Trying again would fail again: the message itself cannot be sent. */
export function unsendable(error: unknown): error is AgentCommunicationError {
  return (
    error instanceof AgentCommunicationError &&
    (error.code === "PAYLOAD_TOO_LARGE" || error.code === "VALIDATION_FAILED")
  );
}
