import { expect } from "vitest";
import type { MessageQueueManager } from "../../lib/index.ts";
import { inOrder, type Model, type ModelMessage } from "./model.ts";

/**
 * A claim may bury what it meets on its way, and a claim that meets much that has expired sweeps all mailboxes. One
 * that wanted more than there was has met every candidate.
 */
export async function buried(
  model: Model,
  queue: MessageQueueManager,
  to: string,
  all: boolean,
): Promise<void> {
  // The end of a head makes the next one a candidate, which may be doomed as well.
  for (let found = true; found; ) {
    found = false;
    for (const message of model.messages) {
      const reason = message.place === "live" && !model.leased(message) && model.doom(message);
      if (!reason) continue;
      const state = await queue.getMessage(message.id);
      if (state?.state === "dead") {
        expect(state.reason).toBe(reason);
        model.bury(message, reason);
        found = true;
      }
    }
  }
  // Of a concurrency key one at a time is met.
  const met = model
    .candidates(to)
    .filter((one) => one.concurrencyKey === undefined && model.doom(one) !== null);
  if (all)
    expect(
      met.map(({ id }) => id),
      "were not buried",
    ).toEqual([]);
}

/** What was taken is the best of what there is, and as much as was asked for. */
export function complete(
  model: Model,
  to: string,
  wanted: readonly ModelMessage[],
  taken: readonly ModelMessage[],
  most: number,
): void {
  expect(taken.length).toBeLessThanOrEqual(Math.max(0, most));
  expect([...taken].sort(inOrder)).toEqual(taken);
  const leased = model.live(to).filter((one) => model.leased(one));
  const busy = [...leased, ...taken].flatMap(({ concurrencyKey }) => concurrencyKey ?? []);
  expect(new Set(busy).size, "two of one concurrency key").toBe(busy.length);
  const left = wanted.filter(
    (one) =>
      !taken.includes(one) &&
      (one.concurrencyKey === undefined || !busy.includes(one.concurrencyKey)),
  );
  const doomed = model.candidates(to).some((one) => model.doom(one) !== null);
  if (taken.length < most) {
    if (!doomed)
      expect(
        left.map(({ id }) => id),
        "were left",
      ).toEqual([]);
    return;
  }
  // Of a concurrency key the one goes first that came first when the key was free.
  const last = taken.at(-1);
  if (last === undefined) return;
  const better = left.filter((one) => one.concurrencyKey === undefined && inOrder(one, last) < 0);
  if (!doomed)
    expect(
      better.map(({ id }) => id),
      "should have been first",
    ).toEqual([]);
}
