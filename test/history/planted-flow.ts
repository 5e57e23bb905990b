import type { Planted } from "./planted-messages.ts";
import { instant } from "./story.ts";

const KEYED = { orderingKey: "k" };
const TWO = { max: 2 };
const SLOW = { capacity: 2, refillPerMs: 0.001, slackMs: 0 };

export const PLANTED_FLOW: readonly Planted[] = [
  {
    rule: "key_order",
    title: "a key's messages are processed by sequence",
    holds: (s) =>
      s
        .sends(["m1", "m2"], "sent", KEYED)
        .claims(1, 1)
        .acks(1, 1)
        .claims(2, 1)
        .acks(2, 1)
        .ends(1, "processed")
        .ends(2, "processed"),
    breaks: (s) =>
      s
        .sends(["m1", "m2"], "sent", KEYED)
        .claims(2, 1)
        .acks(2, 1)
        .claims(1, 1)
        .acks(1, 1)
        .ends(1, "processed")
        .ends(2, "processed"),
  },
  {
    rule: "key_order",
    title: "a key waits for its head, by the journal",
    holds: (s) =>
      s
        .sends(["m1", "m2"], "unknown", KEYED)
        .changes(1, {})
        .changes(2, {})
        .leases(1, 1, 10)
        .changes(1, null)
        .leases(2, 1, 10),
    breaks: (s) =>
      s
        .sends(["m1", "m2"], "unknown", KEYED)
        .changes(1, {})
        .changes(2, {})
        .leases(2, 1, 10)
        .changes(2, null)
        .leases(1, 1, 10),
  },
  {
    rule: "key_overlap",
    title: "one message of a key at a time",
    holds: (s) =>
      s
        .sends(["m1", "m2"], "sent", KEYED)
        .claims(1, 1)
        .settles("deadLetter", 1, 1)
        .claims(2, 1)
        .ends(1, "dead")
        .ends(2, "live"),
    breaks: (s) =>
      s
        .sends(["m1", "m2"], "sent", KEYED)
        .claims(1, 1)
        .claims(2, 1)
        .settles("deadLetter", 1, 1)
        .ends(1, "dead")
        .ends(2, "live"),
  },
  {
    rule: "key_overlap",
    title: "another key, or none, does not wait; nor does a cancelled message's",
    holds: (s) =>
      s
        .sends(["m1", "m3"], "sent", KEYED)
        .sends(["m2"], "sent", { orderingKey: "other" })
        .claims(1, 1)
        .claims(2, 1)
        .cancels("m1")
        .claims(3, 1)
        .ends(1, "cancelled")
        .ends(2, "live")
        .ends(3, "live"),
    breaks: (s) =>
      s
        .sends(["m1", "m3"], "sent", KEYED)
        .claims(1, 1)
        .claims(3, 1)
        .cancels("m1")
        .ends(1, "cancelled")
        .ends(3, "live"),
  },
  {
    rule: "limit",
    title: "no more in flight than allowed",
    holds: (s) =>
      s
        .limit(TWO)
        .sends(["m1", "m2", "m3"], "unknown")
        .claims(1, 1)
        .claims(2, 1)
        .settles("ack", 1, 1)
        .claims(3, 1),
    breaks: (s) =>
      s.limit(TWO).sends(["m1", "m2", "m3"], "unknown").claims(1, 1).claims(2, 1).claims(3, 1),
  },
  {
    rule: "limit",
    title: "a claim that was extended counts once",
    holds: (s) =>
      s
        .limit(TWO)
        .sends(["m1", "m2"], "unknown")
        .claims(1, 1)
        .settles("extend", 1, 1, "extended", 10_000)
        .claims(2, 1),
    breaks: (s) =>
      s
        .limit(TWO)
        .sends(["m1", "m2", "m3"], "unknown")
        .claims(1, 1)
        .settles("extend", 1, 1, "extended", 10_000)
        .claims(2, 1)
        .claims(3, 1),
  },
  {
    rule: "limit",
    title: "per concurrency key, by the journal, over a lease made longer too late",
    holds: (s) =>
      s
        .limit({ max: 1, perKey: true })
        .sends(["m1", "m2"], "unknown", { concurrencyKey: "c" })
        .changes(1, {})
        .changes(2, {})
        .leases(1, 1, 10)
        .passes(10)
        .leases(2, 1, 10)
        .passes(10)
        .leases(1, 1, 10),
    breaks: (s) =>
      s
        .limit({ max: 1, perKey: true })
        .sends(["m1", "m2"], "unknown", { concurrencyKey: "c" })
        .changes(1, {})
        .changes(2, {})
        .leases(1, 1, 10)
        .passes(10)
        .leases(2, 1, 10)
        .leases(1, 1, 10),
  },
  {
    rule: "bucket",
    title: "no more than the bucket held and gained",
    holds: (s) =>
      s
        .bucket(SLOW)
        .sends(["m1", "m2", "m3"], "unknown")
        .claims(1, 1)
        .claims(2, 1)
        .passes(1_000)
        .claims(3, 1),
    breaks: (s) =>
      s
        .bucket(SLOW)
        .sends(["m1", "m2", "m3"], "unknown")
        .claims(1, 1)
        .claims(2, 1)
        .passes(900)
        .claims(3, 1),
  },
  {
    rule: "bucket",
    title: "a message may cost more than one, by the journal",
    holds: (s) =>
      s.bucket(SLOW).sends(["m1"], "unknown", { cost: 2 }).changes(1, {}).leases(1, 1, 10),
    breaks: (s) =>
      s.bucket(SLOW).sends(["m1"], "unknown", { cost: 3 }).changes(1, {}).leases(1, 1, 10),
  },
  {
    rule: "expired",
    title: "nothing is handed out at its expiry or later",
    holds: (s) =>
      s
        .sends(["m1"])
        .claims(1, 1, { expiresAt: instant(5) })
        .ends(1, "dead"),
    breaks: (s) =>
      s
        .sends(["m1"])
        .claims(1, 1, { expiresAt: instant(3) })
        .ends(1, "dead"),
  },
  {
    rule: "expired",
    title: "nothing is handed out at its expiry or later, by the journal",
    holds: (s) =>
      s
        .changes(1, {})
        .leases(1, 1, 10, { expiresAt: instant(3) })
        .passes(10)
        // Makes the old claim void.
        .changes(1, { receipt: 2 }, { expiresAt: instant(3) }),
    breaks: (s) => s.changes(1, {}).leases(1, 1, 10, { expiresAt: instant(2) }),
  },
];
