import type { Task } from "../../protocol/tasks.ts";
import { cancelMessage, fenceOf, type Parts, recall, type Tx, tellTask } from "../parts.ts";
import { isAnswered } from "../reclaim.ts";

/** What the agent of a task that was paused is told; it marks that this is no end. */
export const PAUSED = "paused";

/**
 * Keeps a task from being given to an agent. One that an agent has begun stays its own until it stops: it is told,
 * and may store how far it came. Undefined when it is paused already, has ended, or is not there.
 */
export async function pauseTask(parts: Parts, trx: Tx, taskId: string): Promise<Task | undefined> {
  const paused = await parts.tasks.pause(trx, taskId);
  if (paused === undefined) return undefined;
  tellTask(parts, trx, "paused", paused);
  if (paused.agentId === null) return paused;
  if (paused.startedAt !== null) {
    await recall(parts, trx, paused, PAUSED);
    return paused;
  }
  const back = await cancelMessage(parts, trx, paused);
  if (!back && (await isAnswered(parts, trx, paused))) return paused;
  // One that acknowledged it in silence may have begun.
  if (!back) await recall(parts, trx, paused, PAUSED);
  return (await parts.tasks.park(trx, fenceOf(paused), "submitted", 0)) ?? paused;
}

/** Takes a paused task from its agent without counting that as a failed assignment. */
export async function parkPaused(parts: Parts, trx: Tx, task: Task): Promise<Task | undefined> {
  const parked = await parts.tasks.park(trx, fenceOf(task), "submitted", 0);
  if (parked !== undefined) await cancelMessage(parts, trx, task);
  return parked;
}

/** Lets a paused task go on. Undefined when it is not paused. */
export async function resumeTask(parts: Parts, trx: Tx, taskId: string): Promise<Task | undefined> {
  const resumed = await parts.tasks.resume(trx, taskId);
  if (resumed !== undefined) tellTask(parts, trx, "resumed", resumed);
  return resumed;
}
