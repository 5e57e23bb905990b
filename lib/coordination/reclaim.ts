import type { Task, TaskFailure } from "../protocol/tasks.ts";
import { cancelMessage, derivedId, type Parts, type Tx, takeAway } from "./parts.ts";

/** `answered`: its agent is done with it, and its supervisor has only to read that. `over`: somebody was faster. */
export type Reclaimed = "taken" | "answered" | "over";

/** Whether the agent's answer to this assignment waits for its supervisor. */
export async function isAnswered(parts: Parts, trx: Tx, { messageId }: Task): Promise<boolean> {
  if (messageId === null) return false;
  return parts.tasks.anyWaiting(trx, [
    derivedId("response-", messageId),
    derivedId("error-", messageId),
  ]);
}

/**
 * Holds an assignment until the transaction ends, and takes its message back. An answer and the end of its message are
 * one commit: so where the message was still there, no answer comes any more, and where it was not, one that was given
 * is found.
 */
async function hold(parts: Parts, trx: Tx, task: Task): Promise<Reclaimed> {
  const { agentId, assignment } = task;
  const now = await parts.tasks.lock(trx, task.taskId);
  if (now === undefined || now.finishedAt !== null) return "over";
  if (now.agentId !== agentId || now.assignment !== assignment) return "over";
  if (await cancelMessage(parts, trx, task)) return "taken";
  return (await isAnswered(parts, trx, task)) ? "answered" : "taken";
}

/**
 * Takes an assignment away from an agent that does not go on with it, unless it has answered: what is done would be
 * done again.
 */
export async function reclaim(
  parts: Parts,
  trx: Tx,
  task: Task,
  error: TaskFailure,
): Promise<Reclaimed> {
  const held = await hold(parts, trx, task);
  if (held !== "taken") return held;
  return (await takeAway(parts, trx, task, error)) === undefined ? "over" : "taken";
}

/** Parks a paused task without the word of its agent, and without that counting as a failed assignment. */
export async function reclaimPaused(parts: Parts, trx: Tx, task: Task): Promise<Task | undefined> {
  if ((await hold(parts, trx, task)) !== "taken") return undefined;
  const { taskId, assignment, agentId } = task;
  return parts.tasks.park(trx, { taskId, assignment, agentId }, "submitted", 0);
}
