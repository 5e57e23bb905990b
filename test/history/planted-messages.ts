import type { Story } from "./story.ts";
import type { Rule } from "./types.ts";

/** A guarantee as two stories: one in which it holds, one in which it is broken. */
export interface Planted {
  readonly rule: Rule;
  readonly title: string;
  readonly holds: (story: Story) => Story;
  readonly breaks: (story: Story) => Story;
}

export const PLANTED_MESSAGES: readonly Planted[] = [
  {
    rule: "lost",
    title: "a committed message is somewhere; an uncertain one may be",
    holds: (s) => s.lives(1).sends(["m2"], "unknown").sends(["m3"]).ends(3, "live"),
    breaks: (s) => s.lives(1).sends(["m2"]),
  },
  {
    rule: "lost",
    title: "a cancelled or dead message is not lost",
    holds: (s) => s.sends(["m1", "m2"]).ends(1, "cancelled").ends(2, "dead"),
    breaks: (s) => s.sends(["m1", "m2"]).ends(1, "cancelled"),
  },
  {
    rule: "never_sent",
    title: "what was rolled back is nowhere",
    holds: (s) => s.sends(["m1"], "not_sent").lives(2),
    breaks: (s) => s.sends(["m1"], "not_sent").ends(1, "live"),
  },
  {
    rule: "never_sent",
    title: "nobody claims what nobody sent",
    holds: (s) => s.sends(["m1"], "unknown").claims(1, 1).ends(1, "live"),
    breaks: (s) => s.lives(2).claims(1, 1),
  },
  {
    rule: "never_sent",
    title: "a dedupe key's second message is not stored",
    holds: (s) => s.lives(1).sends(["m2"], "sent", { stored: [false] }),
    breaks: (s) =>
      s
        .lives(1)
        .sends(["m2"], "sent", { stored: [false] })
        .ends(2, "live"),
  },
  {
    rule: "torn_batch",
    title: "an uncertain batch is there or not",
    holds: (s) =>
      s
        .sends(["m1", "m2"], "unknown")
        .sends(["m3"], "unknown")
        .sends(["m4", "m5"], "unknown", { dedupeKey: "d" })
        .ends(1, "live")
        .ends(2, "live")
        .ends(4, "live"),
    breaks: (s) => s.sends(["m1", "m2"], "unknown").ends(1, "live"),
  },
  {
    rule: "stored_twice",
    title: "a message lies in one place",
    holds: (s) => s.lives(1),
    breaks: (s) => s.lives(1).ends(1, "dead"),
  },
  {
    rule: "stored_twice",
    title: "a message is stored once per mailbox",
    holds: (s) => s.lives(1, 2),
    breaks: (s) => s.lives(1).ends(2, "live", { messageId: "m1" }),
  },
  {
    rule: "dead_without_reason",
    title: "the dead have a reason",
    holds: (s) => s.sends(["m1"]).ends(1, "dead"),
    breaks: (s) => s.sends(["m1"]).ends(1, "dead", { reason: null }),
  },
  {
    rule: "two_leases",
    title: "a receipt is given once",
    holds: (s) => s.sends(["m1"]).claims(1, 1).begins(1, 2).ends(1, "live"),
    breaks: (s) => s.sends(["m1"]).claims(1, 1).begins(1, 1).ends(1, "live"),
  },
  {
    rule: "two_leases",
    title: "the next claim comes when the lease has passed",
    holds: (s) =>
      s.sends(["m1"]).claims(1, 1, { leaseMs: 500 }).passes(500).claims(1, 2).ends(1, "live"),
    breaks: (s) =>
      s.sends(["m1"]).claims(1, 1, { leaseMs: 500 }).passes(100).claims(1, 2).ends(1, "live"),
  },
  {
    rule: "two_leases",
    title: "a longer lease counts as long as it was extended",
    holds: (s) =>
      s
        .sends(["m1"])
        .claims(1, 1, { leaseMs: 500 })
        .settles("extend", 1, 1, undefined, 5_000)
        .passes(600)
        .claims(1, 2)
        .ends(1, "live"),
    breaks: (s) =>
      s
        .sends(["m1"])
        .claims(1, 1, { leaseMs: 500 })
        .settles("extend", 1, 1, "extended", 5_000)
        .passes(600)
        .claims(1, 2)
        .ends(1, "live"),
  },
  {
    rule: "two_leases",
    title: "what ends an extended lease ends all of it",
    holds: (s) =>
      s
        .sends(["m1"])
        .claims(1, 1)
        .settles("extend", 1, 1, "extended", 5_000)
        .settles("nack", 1, 1, "retried")
        .claims(1, 3)
        .ends(1, "live"),
    breaks: (s) =>
      s
        .sends(["m1"])
        .claims(1, 1)
        .settles("extend", 1, 1, "extended", 5_000)
        .claims(1, 3)
        .ends(1, "live"),
  },
  {
    rule: "two_leases",
    title: "a lease whose end was asked for may have ended",
    holds: (s) => s.sends(["m1"]).claims(1, 1).settles("nack", 1, 1).claims(1, 3).ends(1, "live"),
    breaks: (s) => s.sends(["m1"]).claims(1, 1).claims(1, 3).ends(1, "live"),
  },
  {
    rule: "two_leases",
    title: "the journal knows of a claim too early",
    holds: (s) =>
      s.lives(9).changes(1, {}).leases(1, 1, 100).passes(100).leases(1, 2, 100).changes(1, null),
    breaks: (s) => s.lives(9).changes(1, {}).leases(1, 1, 100).passes(50).leases(1, 2, 100),
  },
  {
    rule: "receipt_order",
    title: "receipts grow",
    holds: (s) =>
      s.sends(["m1"]).claims(1, 2, { leaseMs: 60 }).passes(90).claims(1, 3).ends(1, "live"),
    breaks: (s) =>
      s.sends(["m1"]).claims(1, 3, { leaseMs: 60 }).passes(90).claims(1, 2).ends(1, "live"),
  },
  {
    rule: "receipt_order",
    title: "receipts grow in the journal",
    holds: (s) => s.changes(1, {}).changes(1, { receipt: 1 }),
    breaks: (s) => s.changes(1, { receipt: 2 }).changes(1, { receipt: 1 }),
  },
  {
    rule: "settled_unclaimed",
    title: "nobody settles what he has not claimed",
    holds: (s) => s.lives(1).settles("ack", 1, 7, "gone"),
    breaks: (s) => s.sends(["m1"]).claims(1, 1).acks(1, 2).ends(1, "processed"),
  },
  {
    rule: "settled_unclaimed",
    title: "what is processed was claimed by somebody",
    holds: (s) => s.sends(["m1"]).begins(1, 1).ends(1, "processed"),
    breaks: (s) => s.sends(["m1"]).ends(1, "processed"),
  },
  {
    rule: "settled_stale",
    title: "only the last claim acknowledges",
    holds: (s) =>
      s
        .sends(["m1"])
        .claims(1, 1, { leaseMs: 60 })
        .passes(90)
        .claims(1, 2)
        .settles("ack", 1, 1, "stale")
        .acks(1, 2)
        .ends(1, "processed"),
    breaks: (s) =>
      s
        .sends(["m1"])
        .claims(1, 1, { leaseMs: 60 })
        .passes(90)
        .claims(1, 2)
        .acks(1, 1)
        .ends(1, "processed"),
  },
  {
    rule: "settled_stale",
    title: "nobody extends what another holds",
    holds: (s) =>
      s
        .sends(["m1"])
        .claims(1, 1, { leaseMs: 60 })
        .settles("extend", 1, 1, "extended", 60)
        .passes(90)
        .claims(1, 2)
        .ends(1, "live"),
    breaks: (s) =>
      s
        .sends(["m1"])
        .claims(1, 1, { leaseMs: 60 })
        .passes(90)
        .claims(1, 2)
        .settles("extend", 1, 1, "extended", 60)
        .ends(1, "live"),
  },
  {
    rule: "settled_stale",
    title: "an effect of a claim that was lost is not kept",
    holds: (s) => s.sends(["m1"]).begins(1, 1).begins(1, 2).effect(1, 2).ends(1, "processed"),
    breaks: (s) => s.sends(["m1"]).begins(1, 1).begins(1, 2).effect(1, 1).ends(1, "processed"),
  },
  {
    rule: "settled_twice",
    title: "a claim ends once",
    holds: (s) => s.lives(1).settles("nack", 1, 1, "gone"),
    breaks: (s) => s.lives(1).settles("nack", 1, 1, "retried"),
  },
  {
    rule: "settled_twice",
    title: "a message is acknowledged once",
    holds: (s) => s.lives(1).claims(2, 2).sends(["m2"], "unknown"),
    breaks: (s) => s.lives(1).claims(1, 2).acks(1, 2),
  },
  {
    rule: "effect_twice",
    title: "an effect is there once",
    holds: (s) => s.sends(["m1"]).begins(1, 1).effect(1, 1).ends(1, "processed"),
    breaks: (s) => s.sends(["m1"]).begins(1, 1).effect(1, 1).effect(1, 1).ends(1, "processed"),
  },
  {
    rule: "effect_twice",
    title: "no effect without the acknowledgement",
    holds: (s) => s.sends(["m1"]).begins(1, 1).ends(1, "live"),
    breaks: (s) => s.sends(["m1"]).begins(1, 1).effect(1, 1).ends(1, "live"),
  },
  {
    rule: "attempts",
    title: "runs stay within maxAttempts",
    holds: (s) => s.sends(["m1"]).claims(1, 5, { attempt: 3 }).ends(1, "dead", { attempt: 3 }),
    breaks: (s) => s.sends(["m1"]).claims(1, 4, { attempt: 4 }).ends(1, "dead", { attempt: 3 }),
  },
  {
    rule: "attempts",
    title: "runs stay within maxAttempts in the journal",
    holds: (s) => s.changes(1, {}).leases(1, 3, 10),
    breaks: (s) => s.changes(1, {}).leases(1, 4, 10),
  },
  {
    rule: "journal_gap",
    title: "every change begins where the last one ended",
    holds: (s) => s.changes(1, {}).leases(1, 1, 10).changes(1, null),
    breaks: (s) =>
      s
        .changes(1, {})
        .leases(1, 1, 10)
        .changes(1, null, {
          before: { receipt: 1, worker: "another", visibleAt: 1, attempt: 1 },
        }),
  },
];
