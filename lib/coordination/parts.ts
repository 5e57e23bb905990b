import { createHash } from "node:crypto";
import { AgentCommunicationError, type ErrorCode, errorRecord } from "../errors.ts";
import type { Observers, TaskEventName } from "../protocol/events.ts";
import type { EndState } from "../protocol/states.ts";
import type { FinishedTask, Task, TaskFailure } from "../protocol/tasks.ts";
import { MessagePriority, MessageType } from "../protocol/types.ts";
import type { TxOption } from "../queue/claimed.ts";
import type { MessageQueueManager } from "../queue/manager.ts";
import { afterCommit } from "../store/after-commit.ts";
import type { AgentSlots } from "../store/agent-slots.ts";
import type { AgentStore } from "../store/agents.ts";
import type { Assignments } from "../store/assignments/assignments.ts";
import type { Dependencies } from "../store/assignments/dependencies.ts";
import type { Matching } from "../store/matching/matching.ts";
import type { TaskFamily } from "../store/task-family.ts";
import type { TaskInputs } from "../store/task-inputs.ts";
import type { TaskOutcome } from "../store/task-moves.ts";
import type { Fence } from "../store/task-row.ts";
import type { TaskStore } from "../store/tasks.ts";

export type Tx = NonNullable<TxOption["tx"]>;

/** What everything that coordinates on one database shares; see Coordination. */
export interface Parts {
  readonly queue: MessageQueueManager;
  readonly tasks: TaskStore;
  readonly inputs: TaskInputs;
  readonly family: TaskFamily;
  readonly agents: AgentStore;
  readonly slots: AgentSlots;
  readonly matching: Matching;
  readonly assignments: Assignments;
  readonly dependencies: Dependencies;
  readonly observers: Observers;
  /** Who is told of every task that ends, in the transaction that ends it. */
  readonly followers: TaskFollower[];
  /** Who calls for bids for a new task that is to be auctioned, in the transaction that stores it. */
  readonly auctioned: ((trx: Tx, task: Task) => Promise<void>)[];
  /** What every sweep does first. */
  readonly sweepSteps: SweepStep[];
  /** An agent may have room, or a task may be given away: to be called after the commit; parked tasks are placed soon. */
  readonly freed: () => void;
}

/** One bounded step of a sweep, before tasks are taken from lost agents; in any number of processes at once. */
export interface SweepStep {
  sweep(retentionMs: number | null): Promise<unknown>;
}

/** What goes on from the end of a task, such as the next step of a workflow: both are one commit. */
export interface TaskFollower {
  ended(trx: Tx, task: FinishedTask): Promise<void>;
}

/**
 * How it is sent what has happened, or has to: a mailbox that is full must not undo the end of a task, or keep it
 * from being canceled. It comes a little later there.
 */
export const TELLING = { window: false, whenFull: "spill" } as const;

/** The database does not answer as it should, whatever is asked. */
const AWAY: readonly ErrorCode[] = [
  "SERVICE_UNAVAILABLE",
  "STORAGE_FULL",
  "PERMISSION_DENIED",
  "NOT_MIGRATED",
  "CLOSED",
];

/** Everything would meet it now, not only what was tried. */
export function isAway(error: unknown): boolean {
  return error instanceof AgentCommunicationError && AWAY.includes(error.code);
}

/** Faults of the database, which end the transaction; any other error concerns what was tried in it. */
export function isFault(error: AgentCommunicationError): boolean {
  return isAway(error) || error.code === "DATABASE_ERROR" || error.code === "FOREIGN_TRANSACTION";
}

/** One piece of a sweep. What goes wrong with it alone is told to observers, and holds up no other. */
export async function apart<T>(
  { observers }: Pick<Parts, "observers">,
  run: () => Promise<T>,
): Promise<T | undefined> {
  try {
    return await run();
  } catch (error) {
    if (isAway(error)) throw error;
    const { code, message } = errorRecord(error);
    observers.emit([
      { type: "error", agentId: "sweep", errorType: code, errorMessage: message, at: Date.now() },
    ]);
    return undefined;
  }
}

export function fenceOf(task: Task): Fence {
  return { taskId: task.taskId, assignment: task.assignment, agentId: task.agentId };
}

const LONGEST_ID = 128;

/** `<prefix><id><suffix>`, which must stay an id: hashed where it would be too long. */
export function derivedId(prefix: string, id: string, suffix = ""): string {
  const plain = `${prefix}${id}${suffix}`;
  if (plain.length <= LONGEST_ID) return plain;
  return `${prefix}${createHash("sha256").update(plain).digest("hex")}${suffix}`;
}

/** Tells observers of a task, once the transaction has committed; at once where there is none. */
export function tellTask(
  { observers }: Pick<Parts, "observers">,
  trx: Tx | undefined,
  event: TaskEventName,
  task: Task,
  data: Readonly<Record<string, unknown>> = {},
): void {
  if (!observers.active) return;
  const tell = () =>
    observers.emit([
      {
        type: "task",
        event,
        taskId: task.taskId,
        agentId: task.agentId,
        at: Date.now(),
        data,
        correlationId: task.correlationId ?? undefined,
        attempt: task.assignment,
      },
    ]);
  if (trx === undefined) tell();
  else afterCommit(trx, tell);
}

/** How long a task took and how it went, as the task log has it. */
function endOf(task: Task, executionMs?: number): Record<string, unknown> {
  const since = task.startedAt ?? task.assignedAt ?? task.createdAt;
  return {
    duration_ms: executionMs ?? Math.max(0, (task.finishedAt ?? since) - since),
    success: task.state === "completed",
    ...(task.warnings.length === 0
      ? {}
      : { warnings: task.warnings.map(({ message }) => message) }),
    ...(task.lastError === null || task.state === "completed"
      ? {}
      : { error_type: task.lastError.code, error_message: task.lastError.message }),
  };
}

/**
 * Ends a task: the one place where that happens, so that whoever follows it hears of every end. Undefined when
 * the fence no longer holds, and nothing changed.
 */
export async function endTask(
  parts: Parts,
  trx: Tx,
  fence: Fence,
  state: EndState,
  { executionMs, ...outcome }: TaskOutcome & { executionMs?: number | undefined },
): Promise<Task | undefined> {
  const ended = await parts.tasks.finish(trx, fence, state, outcome);
  if (ended !== undefined) await follow(parts, trx, ended, executionMs);
  return ended;
}

/** Tells everybody of a task that has just ended. */
async function follow(parts: Parts, trx: Tx, ended: Task, executionMs?: number): Promise<void> {
  const event = ended.state === "canceled" ? "cancelled" : (ended.state as EndState);
  tellTask(parts, trx, event as TaskEventName, ended, endOf(ended, executionMs));
  if (ended.agentId !== null) afterCommit(trx, parts.freed);
  for (const follower of parts.followers) await follower.ended(trx, ended as FinishedTask);
}

/**
 * Cancels a task, whatever assignment it has; its message is taken back, and an agent that has begun is told to
 * stop. Undefined when it had ended already, or is not there.
 */
export async function cancelTask(
  parts: Parts,
  trx: Tx,
  taskId: string,
  reason: string,
): Promise<Task | undefined> {
  const error = { code: "canceled", message: reason };
  const canceled = await parts.tasks.cancel(trx, taskId, error);
  if (canceled === undefined) return undefined;
  await callOff(parts, trx, canceled, reason);
  await follow(parts, trx, canceled);
  return canceled;
}

/**
 * Takes an assignment away from its agent: parks the task for another one, or fails it after the last. The
 * message is cancelled, which also ends the lease of an agent that is only slow. Undefined when the assignment
 * was over already.
 */
export async function takeAway(
  parts: Parts,
  trx: Tx,
  task: Task,
  error: TaskFailure,
): Promise<Task | undefined> {
  const again = task.assignment < task.maxAssignments;
  const moved = again
    ? await parts.tasks.giveBack(trx, fenceOf(task), error)
    : await endTask(parts, trx, fenceOf(task), "failed", { error });
  if (moved === undefined) return undefined;
  await cancelMessage(parts, trx, task);
  if (again) {
    tellTask(parts, trx, "submitted", moved, { reason: error.code });
    afterCommit(trx, parts.freed);
  }
  return moved;
}

/** False where there is nothing to take back: it was acknowledged, or is a dead letter. */
export async function cancelMessage(parts: Parts, trx: Tx, task: Task): Promise<boolean> {
  if (task.messageId === null || task.agentId === null) return false;
  return parts.queue.cancelMessage(task.messageId, { toAgent: task.agentId, tx: trx });
}

/** Takes back the message of a task; an agent that has begun, or acknowledged it in silence, is told to stop. */
export async function callOff(parts: Parts, trx: Tx, task: Task, reason: string): Promise<void> {
  const back = await cancelMessage(parts, trx, task);
  if (!back || task.startedAt !== null) await recall(parts, trx, task, reason);
}

/** Tells the agent that has a task to stop: it goes on without it. */
export async function recall(parts: Parts, trx: Tx, task: Task, reason: string): Promise<void> {
  if (task.agentId === null) return;
  await parts.queue.sendMessage(
    {
      fromAgent: task.supervisorId,
      toAgent: task.agentId,
      messageType: MessageType.TASK_CANCEL,
      priority: MessagePriority.CRITICAL,
      content: { task_id: task.taskId, assignment: task.assignment, reason },
      taskId: task.taskId,
      correlationId: task.correlationId ?? undefined,
      contextId: task.contextId ?? undefined,
    },
    { tx: trx, flow: TELLING },
  );
}
