import { AgentCommunicationError } from "../../errors.ts";
import type { Handoff } from "../../protocol/handoffs.ts";
import { isEnd } from "../../protocol/states.ts";
import type { Task } from "../../protocol/tasks.ts";
import { afterCommit } from "../../store/after-commit.ts";
import type { StoredHandoff } from "../../store/handoff-row.ts";
import type { HandoffStore } from "../../store/handoffs.ts";
import { cancelMessage, fenceOf, type Parts, recall, type Tx, tellTask } from "../parts.ts";
import { isAnswered } from "../reclaim.ts";
import { parkPaused } from "../tasks/pauses.ts";
import { wrongState } from "./look-up.ts";
import { newMessageId, sendAnswer, sendAssignment, tellHandoff } from "./messages.ts";

/** What moves of handoffs share. */
export interface Moving {
  readonly parts: Parts;
  readonly store: HandoffStore;
}

/** Where a task went when it was given back. */
type Whereabouts = "assigned" | "parked" | "kept" | "moved_on" | "ended";

/** Why a task was parked when its giver had no room for it. */
const HANDED_BACK = "TASK_HANDED_BACK";

/** Why an offer is withdrawn that nobody can accept any more. */
export const GONE_ON = "its task has gone on without it";

/**
 * Takes an offer: the task's owner, its lease and the new assignment change together, or not at all. The target's
 * row is locked first, then the task, then the handoff. Undefined when the offer is over, or its time has passed.
 */
export async function take(
  { parts, store }: Moving,
  trx: Tx,
  offer: StoredHandoff,
  note: string | undefined,
): Promise<StoredHandoff | undefined> {
  if (offer.taskId === null) return store.move(trx, offer.handoffId, "accepted", { note });
  const cost = (await parts.tasks.get(offer.taskId, trx))?.cost;
  const room = await parts.slots.reserve(trx, offer.to, cost);
  if (room !== "reserved") throw noRoom(offer.to, room);
  const before = await parts.tasks.lock(trx, offer.taskId);
  if (before !== undefined && before.pausedAt !== null) throw notNow(offer.to);
  // Also one that was taken from a giver who died meanwhile, as long as nobody else has it.
  if (before === undefined || !isOffered(before, offer)) return undefined;
  if (await isAnswered(parts, trx, before)) return undefined;
  const assignment = before.assignment + 1;
  // Before anything else changes, so that a caller's transaction that goes on after "undefined" has changed nothing.
  const taken = await store.move(trx, offer.handoffId, "accepted", { note, assignment });
  if (taken === undefined) return undefined;
  for (const { handoffId } of await store.liveOf(offer.taskId, trx)) {
    if (handoffId === offer.handoffId) continue;
    const passed = await store.move(trx, handoffId, "completed", { outcome: "handed_on" });
    if (passed !== undefined) await announce(parts, trx, passed);
  }
  const task = await reassign(store, trx, before, offer.to);
  const why = `handed over to "${offer.to}"`;
  await withdrawAssignment(parts, trx, before, { handoff: taken, why });
  await sendAssignment(parts, trx, task, taken);
  tellTask(parts, trx, "reassigned", task, {
    task_type: task.taskType,
    previous_agent: offer.from,
    handoff_id: offer.handoffId,
  });
  afterCommit(trx, parts.freed);
  return taken;
}

/**
 * Ends an offer that was not taken. Where the giver's run ended with the offer, it gets the task anew; otherwise
 * it has gone on all the time. Undefined when the offer is over.
 */
export async function dropOffer(
  { parts, store }: Moving,
  trx: Tx,
  offer: StoredHandoff,
  to: "rejected" | "returned" | "withdrawn",
  note: string,
): Promise<StoredHandoff | undefined> {
  const before =
    offer.taskId === null || !offer.detached
      ? undefined
      : await parts.tasks.lock(trx, offer.taskId);
  const dropped = await store.move(trx, offer.handoffId, to, { note });
  if (dropped === undefined) return undefined;
  let whereabouts: Whereabouts = "kept";
  if (before !== undefined) {
    whereabouts = isEnd(before.state) ? "ended" : "moved_on";
    // No slot is to be taken: the task has been the giver's all the time.
    if (isOffered(before, offer) && before.agentId !== null) {
      if (before.pausedAt === null) {
        await giveAnew({ parts, store }, trx, before, before.agentId, dropped);
        whereabouts = "assigned";
      } else {
        await parkPaused(parts, trx, before);
        afterCommit(trx, parts.freed);
        whereabouts = "parked";
      }
    }
  }
  // Who rejects it may be about to acknowledge it.
  const unread =
    to !== "rejected" &&
    (await parts.queue.cancelMessage(offer.messageId, { toAgent: offer.to, tx: trx }));
  // The target need not hear that what it never saw is no longer offered.
  if (to !== "withdrawn" || !unread) await announce(parts, trx, dropped, { task: whereabouts });
  else tellHandoff(parts, trx, dropped, { task: whereabouts });
  return dropped;
}

/**
 * Gives back what was taken: the task goes to the giver, or is parked for any agent where the giver has no room or
 * is away. Undefined when the handoff is over.
 */
export async function giveBack(
  { parts, store }: Moving,
  trx: Tx,
  handoff: StoredHandoff,
  note: string,
): Promise<StoredHandoff | undefined> {
  const { taskId } = handoff;
  // The agent's row before the task's, as everywhere.
  const cost = taskId === null ? undefined : (await parts.tasks.get(taskId, trx))?.cost;
  const room = cost === undefined ? undefined : await parts.slots.reserve(trx, handoff.from, cost);
  const before = taskId === null ? undefined : await parts.tasks.lock(trx, taskId);
  if (before !== undefined && isTaken(before, handoff) && (await isAnswered(parts, trx, before))) {
    return undefined;
  }
  const returned = await store.move(trx, handoff.handoffId, "returned", { note });
  if (returned === undefined) return undefined;
  let whereabouts: Whereabouts = taskId === null ? "kept" : "moved_on";
  if (before !== undefined && isTaken(before, handoff)) {
    if (room === "reserved" && before.pausedAt === null) {
      await giveAnew({ parts, store }, trx, before, handoff.from, returned);
      whereabouts = "assigned";
    } else {
      await park(parts, trx, before, note);
      whereabouts = "parked";
    }
    await withdrawAssignment(parts, trx, before, { handoff: returned, why: note });
    afterCommit(trx, parts.freed);
  }
  await announce(parts, trx, returned, { task: whereabouts });
  return returned;
}

async function giveAnew(
  { parts, store }: Moving,
  trx: Tx,
  before: Task,
  agentId: string,
  handoff: Handoff,
): Promise<void> {
  const task = await reassign(store, trx, before, agentId);
  await sendAssignment(parts, trx, task, handoff);
  tellTask(parts, trx, "reassigned", task, {
    task_type: task.taskType,
    ...(before.agentId === null ? {} : { previous_agent: before.agentId }),
    handoff_id: handoff.handoffId,
  });
}

/** The task is locked and was looked at, so this cannot fail but for a fault of ours: then all is rolled back. */
async function reassign(
  store: HandoffStore,
  trx: Tx,
  before: Task,
  agentId: string,
): Promise<Task> {
  const messageId = newMessageId(before.taskId, String(before.assignment + 1));
  const task = await store.reassign(trx, fenceOf(before), { agentId, messageId });
  if (task === undefined) throw new Error(`the task ${before.taskId} changed under its lock`);
  return task;
}

async function park(parts: Parts, trx: Tx, before: Task, message: string): Promise<void> {
  if (before.agentId === null) return;
  const error = { code: HANDED_BACK, message, agentId: before.agentId };
  const parked = await parts.tasks.giveBack(trx, fenceOf(before), error);
  if (parked !== undefined) tellTask(parts, trx, "submitted", parked, { reason: HANDED_BACK });
}

/** The lease of who had the task ends: what it still says of it changes nothing. One that runs is told to stop. */
async function withdrawAssignment(
  parts: Parts,
  trx: Tx,
  before: Task,
  { handoff, why }: { handoff: StoredHandoff; why: string },
): Promise<void> {
  const back = await cancelMessage(parts, trx, before);
  // At this very moment: then all of this is rolled back.
  if (!back && (await isAnswered(parts, trx, before))) {
    throw wrongState(handoff, `the task "${before.taskId}" was answered by "${before.agentId}"`);
  }
  const overWithOffer = handoff.detached && handoff.state === "accepted";
  if (!overWithOffer && (!back || before.startedAt !== null)) await recall(parts, trx, before, why);
}

/** The task is what was offered: the giver's, in the assignment that it had then. */
function isOffered(task: Task, offer: Handoff): boolean {
  return isHeldBy(task, offer, offer.from);
}

/** The task is with the target still, in the assignment that the handoff made. */
function isTaken(task: Task, handoff: Handoff): boolean {
  return isHeldBy(task, handoff, handoff.to);
}

/** With that agent, or just taken from it and with nobody else; not what waits for an answer, or is paused. */
function isHeldBy(task: Task, { assignment }: Handoff, agentId: string): boolean {
  if (isEnd(task.state) || task.assignment !== assignment) return false;
  if (task.agentId !== null) return task.agentId === agentId;
  return task.state === "submitted" && task.waitsFor === 0 && task.pausedAt === null;
}

/** Tells the other side, and observers. */
export async function announce(
  parts: Parts,
  trx: Tx,
  handoff: Handoff,
  more: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  await sendAnswer(parts, trx, handoff, more);
  tellHandoff(parts, trx, handoff, more);
}

function notNow(agentId: string): AgentCommunicationError {
  return new AgentCommunicationError(
    "HANDOFF_NO_ROOM",
    "the task is paused: no agent gets it before it is resumed",
    { details: { agentId, room: "paused" } },
  );
}

function noRoom(agentId: string, room: "full" | "unavailable"): AgentCommunicationError {
  return new AgentCommunicationError(
    "HANDOFF_NO_ROOM",
    room === "full"
      ? `the agent "${agentId}" has as many tasks as it may have`
      : `the agent "${agentId}" takes no tasks now: it is not registered, draining, away or silent`,
    { details: { agentId, room } },
  );
}
