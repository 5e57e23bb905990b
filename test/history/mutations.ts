import {
  acks,
  answerTo,
  type Draft,
  doomless,
  followed,
  inBatches,
  leases,
  some,
  stored,
  type Written,
  without,
} from "./drafts.ts";
import type { Random } from "./random.ts";
import type { Rule } from "./types.ts";

export interface Mutation {
  readonly name: string;
  readonly rule: Rule;
  /** Spoils one place; false where the history has none of its kind. */
  readonly spoil: (draft: Draft, random: Random) => boolean;
}

export const MUTATIONS: readonly Mutation[] = [
  {
    name: "a stored message vanishes",
    rule: "lost",
    spoil: (draft, random) => some(random, stored(draft), ({ row }) => without(draft.final, row)),
  },
  {
    name: "half of an uncertain batch vanishes",
    rule: "torn_batch",
    spoil: (draft, random) =>
      some(random, inBatches(draft), ({ send, row }) => {
        without(draft.final, row);
        without(draft.entries, answerTo(draft, "sent", send.op) as Written<"sent">);
      }),
  },
  {
    name: "the caller says he rolled back what is there",
    rule: "never_sent",
    spoil: (draft, random) =>
      some(random, stored(draft), ({ send }) => {
        const sent = answerTo(draft, "sent", send.op) as Written<"sent">;
        draft.entries.splice(draft.entries.indexOf(sent), 1, { ...sent, e: "not_sent" });
      }),
  },
  {
    name: "a message lies in two tables",
    rule: "stored_twice",
    spoil: (draft, random) =>
      some(random, draft.final, (row) => {
        draft.final.push({ ...row, place: row.place === "dead" ? "live" : "dead", reason: "x" });
      }),
  },
  {
    name: "a dead letter has no reason",
    rule: "dead_without_reason",
    spoil: (draft, random) =>
      some(
        random,
        draft.final.filter(({ place }) => place === "dead"),
        (row) => {
          row.reason = null;
        },
      ),
  },
  {
    name: "a claim is given to two clients",
    rule: "two_leases",
    spoil: (draft, random) =>
      some(random, acks(draft), ({ claimed, claim }) => {
        draft.entries.push({ ...claimed, op: "another", claims: [claim] });
      }),
  },
  {
    name: "a second client holds the message with the next receipt",
    rule: "two_leases",
    spoil: (draft, random) =>
      some(random, acks(draft), ({ settle, claimed, claim }) => {
        const look = answerTo(draft, "look", claimed.op) as Written<"look">;
        look.leaseMs = 60_000;
        settle.at = claimed.at + 1;
        const at = claimed.at + 0.001;
        const next = { ...claim, receipt: claim.receipt + 1 };
        draft.entries.push({ ...look, at, op: "another" });
        draft.entries.push({ ...claimed, at: at + 0.001, op: "another", claims: [next] });
      }),
  },
  {
    name: "an older receipt comes later",
    rule: "receipt_order",
    spoil: (draft, random) =>
      some(random, acks(draft), ({ claimed, claim, settled }) => {
        const look = answerTo(draft, "look", claimed.op) as Written<"look">;
        const old = { ...claim, receipt: claim.receipt - 1 };
        draft.entries.push({ ...look, at: settled.at + 1, op: "late" });
        draft.entries.push({ ...claimed, at: settled.at + 2, op: "late", claims: [old] });
      }),
  },
  {
    name: "nobody claimed what was acknowledged",
    rule: "settled_unclaimed",
    spoil: (draft, random) =>
      some(random, acks(draft), ({ claimed, claim }) => {
        claimed.claims = claimed.claims.filter((one) => one !== claim);
      }),
  },
  {
    name: "an older claim acknowledges",
    rule: "settled_stale",
    spoil: (draft, random) =>
      some(random, acks(draft), ({ claimed, claim }) => {
        const later = { ...claim, receipt: claim.receipt + 1 };
        draft.entries.push({ e: "begin", at: claimed.at + 1, op: "later", claim: later });
      }),
  },
  {
    name: "a claim is settled twice",
    rule: "settled_twice",
    spoil: (draft, random) =>
      some(random, acks(draft), ({ settle, settled }) => {
        draft.entries.push({ ...settle, kind: "nack", op: "again" });
        draft.entries.push({ ...settled, outcomes: ["retried"], op: "again" });
      }),
  },
  {
    name: "an effect happened although the message is not processed",
    rule: "effect_twice",
    spoil: (draft, random) =>
      some(
        random,
        draft.final.filter(({ outcome }) => outcome !== "processed"),
        ({ seq, messageId, mailbox }) => {
          draft.effects.push({ seq, messageId, mailbox, receipt: 1_000 });
        },
      ),
  },
  {
    name: "a message ran once too often",
    rule: "attempts",
    spoil: (draft, random) =>
      some(random, acks(draft), ({ claimed, claim }) => {
        const over = { ...claim, attempt: claim.maxAttempts + 1 };
        claimed.claims = claimed.claims.map((one) => (one === claim ? over : one));
      }),
  },
  {
    name: "a message was handed out after its expiry",
    rule: "expired",
    spoil: (draft, random) =>
      some(random, acks(draft), ({ claimed, claim }) => {
        const { leaseMs } = answerTo(draft, "look", claimed.op) as Written<"look">;
        const late = { ...claim, expiresAt: claim.leaseExpiresAt - leaseMs };
        claimed.claims = claimed.claims.map((one) => (one === claim ? late : one));
      }),
  },
  {
    name: "a key's message is done only when the next one was claimed",
    rule: "key_order",
    spoil: (draft, random) =>
      some(random, followed(draft), ({ first, next }) => {
        first.settle.at = next.claimed.at + 0.5;
        first.settled.at = next.claimed.at + 1;
      }),
  },
  {
    name: "a key's next message is claimed while one is held",
    rule: "key_overlap",
    spoil: (draft, random) =>
      some(random, followed(draft), ({ first, next }) => {
        const length = next.claimed.at - first.claimed.at + 1_000;
        for (const { claimed } of [first, next]) {
          (answerTo(draft, "look", claimed.op) as Written<"look">).leaseMs = length;
        }
        first.settle.at = next.claimed.at + 0.5;
        next.settle.at = Math.max(next.settle.at, next.claimed.at + 1);
      }),
  },
  {
    name: "the journal misses a change",
    rule: "journal_gap",
    spoil: (draft, random) =>
      some(random, leases(draft), (change) => without(draft.journal, change)),
  },
  {
    name: "the journal saw a lease taken away",
    rule: "two_leases",
    spoil: (draft, random) =>
      some(random, doomless(draft), (change) => {
        const visibleAt = change.now + 1;
        change.before = { receipt: 0, attempt: 0, ...change.before, worker: "other", visibleAt };
      }),
  },
  {
    name: "the journal saw an expired message leased",
    rule: "expired",
    spoil: (draft, random) =>
      some(random, doomless(draft), (change) => {
        change.expiresAt = change.now;
      }),
  },
  {
    name: "the journal saw a message of a key leased before an earlier one",
    rule: "key_order",
    spoil: (draft, random) =>
      some(
        random,
        doomless(draft).filter(({ orderingKey }) => orderingKey !== null),
        (change) => {
          const first = { ...change, seq: 0, before: null };
          first.after = { receipt: 0, worker: null, visibleAt: 0, attempt: 0 };
          draft.journal.unshift(first);
        },
      ),
  },
  {
    name: "the journal saw more tokens taken than there were",
    rule: "bucket",
    spoil: (draft, random) =>
      some(
        random,
        doomless(draft).filter(({ mailbox }) => mailbox === "metered"),
        (change) => {
          change.cost += 1_000;
        },
      ),
  },
  {
    name: "the journal saw two of one concurrency key in flight",
    rule: "limit",
    spoil: (draft, random) =>
      some(
        random,
        doomless(draft).filter(({ concurrencyKey }) => concurrencyKey !== null),
        (change) => {
          const hold = { receipt: 0, worker: null, visibleAt: 0, attempt: 0 };
          const leased = { receipt: 1, worker: "w", visibleAt: change.now + 9_999, attempt: 1 };
          const at = draft.journal.indexOf(change);
          const ghost = { ...change, seq: -1, expiresAt: null, before: null, after: hold };
          draft.journal.splice(at, 0, ghost, { ...ghost, before: hold, after: leased });
        },
      ),
  },
];
