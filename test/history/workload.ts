import { setTimeout as sleep } from "node:timers/promises";
import type { ClaimedMessage } from "../../lib/index.ts";
import type { Random } from "./random.ts";
import type { Input, Recorder } from "./recorder.ts";

/** Nothing lasts long, so that faults of a second meet every state. */
export interface Pace {
  readonly leaseMs: number;
  readonly delayMs: number;
}

export interface Mailbox {
  readonly name: string;
  /** What its messages bear: none, an ordering key of a few, or a concurrency key of a few. */
  readonly keys: "none" | "ordering" | "concurrency";
  /** Whether its messages have a cost. */
  readonly metered?: boolean;
}

const TYPES = ["ORDER", "NOTE", "INVOICE"];
const KEYS = ["a", "b", "c", "d", "e"];

/** A message as any sender might send it. */
export function randomMessage(
  random: Random,
  mailboxes: readonly Mailbox[],
  messageId: string,
  pace: Pace,
): Input {
  const mailbox = random.pick(mailboxes);
  const key = random.chance(0.9) ? random.pick(KEYS) : undefined;
  return {
    toAgent: mailbox.name,
    messageId,
    messageType: random.pick(TYPES),
    content: { text: "x".repeat(random.int(0, 200)) },
    priority: random.pick([10, 20, 30, 40, 55]),
    maxAttempts: random.pick([1, 2, 5, 1_000, 1_000]),
    ...(mailbox.metered ? { cost: random.int(1, 3) } : {}),
    ...(random.chance(0.15) ? { delayMs: random.int(1, pace.delayMs) } : {}),
    ...(random.chance(0.1) ? { ttlMs: random.int(1, 4 * pace.leaseMs) } : {}),
    ...(random.chance(0.05) ? { dedupeKey: random.pick(KEYS), dedupeWindowMs: 500 } : {}),
    ...(mailbox.keys === "ordering" && key !== undefined ? { orderingKey: key } : {}),
    ...(mailbox.keys === "concurrency" && key !== undefined ? { concurrencyKey: key } : {}),
  };
}

/** How a sender sends: in the caller's transaction or not, which may roll back. */
export function randomWay(random: Random): "plain" | "tx" | "rollback" {
  return random.weighted({ plain: 6, tx: 3, rollback: 1 });
}

/** One look into a mailbox, and what becomes of what was found. Returns how many were found. */
export async function pollOnce(
  recorder: Recorder,
  random: Random,
  mailbox: string,
  pace: Pace,
): Promise<number> {
  const leaseMs = random.int(Math.ceil(pace.leaseMs / 4), pace.leaseMs);
  const claims = await recorder.claim(mailbox, { limit: random.int(1, 8), leaseMs });
  if (random.chance(0.5)) {
    // As a batch: all at once, at the end.
    if (random.chance(0.2)) await sleep(random.int(0, leaseMs));
    if (claims.length > 0) await recorder.ack(claims);
    return claims.length;
  }
  for (const claim of claims) await settle(recorder, random, claim, leaseMs, pace);
  return claims.length;
}

async function settle(
  recorder: Recorder,
  random: Random,
  claim: ClaimedMessage,
  leaseMs: number,
  pace: Pace,
): Promise<void> {
  const soon = () => (random.chance(0.3) ? 0 : random.int(1, pace.delayMs));
  switch (
    random.weighted({
      ack: 50,
      nack: 12,
      defer: 10,
      extend: 10,
      bury: 4,
      drop: 6,
      late: 4,
      twice: 4,
    })
  ) {
    case "ack":
      return recorder.ack([claim]);
    case "nack":
      return recorder.nack(claim, soon());
    case "defer":
      return recorder.defer(claim, soon());
    case "extend":
      await recorder.extend(claim, random.int(1, pace.leaseMs));
      return recorder.ack([claim]);
    case "bury":
      return recorder.deadLetter(claim);
    case "drop":
      return;
    case "late":
      await sleep(leaseMs + 5);
      if (random.chance(0.3)) await recorder.extend(claim, pace.leaseMs);
      return recorder.ack([claim]);
    case "twice":
      await recorder.ack([claim]);
      return recorder.nack(claim, soon());
  }
}
