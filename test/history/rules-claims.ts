import { grouped, type Index, type KnownClaim, type Settle } from "./index-of.ts";
import type { Violation } from "./types.ts";

/** One message at a time: receipts, settles, attempts, expiry, effects. */
export function claimRules(index: Index): Violation[] {
  return [
    ...receipts(index),
    ...unclaimed(index),
    ...stale(index),
    ...settledTwice(index),
    ...effects(index),
    ...attempts(index),
    ...expired(index),
  ];
}

const name = ({ seq, receipt }: { seq: number; receipt: number }) => `${seq}/${receipt}`;

/** Receipts strictly grow, claim by claim. */
function* receipts({ claimsOf }: Index): Generator<Violation> {
  for (const claims of claimsOf.values()) {
    for (const same of grouped(claims, ({ receipt }) => receipt).values()) {
      const [first, ...others] = same;
      if (first === undefined || others.length === 0) continue;
      const ops = same.map(({ op }) => op).join(", ");
      yield { rule: "two_leases", what: `claim ${name(first)} was given to each of ${ops}` };
    }
    // A claim answered before another was asked for came first.
    const byAnswer = [...claims].sort((a, b) => a.at - b.at);
    let n = 0;
    let greatest: KnownClaim | undefined;
    for (const claim of [...claims].sort((a, b) => asked(a) - asked(b))) {
      for (let before = byAnswer[n]; before && before.at < asked(claim); before = byAnswer[++n]) {
        if (greatest === undefined || before.receipt > greatest.receipt) greatest = before;
      }
      if (greatest !== undefined && greatest.receipt >= claim.receipt && greatest !== claim) {
        yield {
          rule: "receipt_order",
          what: `claim ${name(claim)} (${claim.op}) came after ${name(greatest)} (${greatest.op})`,
        };
      }
    }
  }
}

/** Nobody knows when a worker asked: perhaps at the very beginning. */
function asked(claim: KnownClaim): number {
  return claim.askedAt ?? Number.NEGATIVE_INFINITY;
}

/** Whatever was settled or processed, somebody had claimed. */
function* unclaimed({ claims, settles, history }: Index): Generator<Violation> {
  const known = new Set(claims.map(name));
  for (const settle of settles) {
    if (done(settle) && !known.has(name(settle))) {
      yield { rule: "settled_unclaimed", what: `${settle.op}: nobody had claimed ${name(settle)}` };
    }
  }
  const claimed = new Set(claims.map(({ seq }) => seq));
  for (const row of history.final) {
    if (row.outcome === "processed" && !claimed.has(row.seq)) {
      yield { rule: "settled_unclaimed", what: `${row.messageId} was processed by nobody` };
    }
  }
}

function done({ outcome }: Settle): boolean {
  return outcome !== undefined && outcome !== "stale" && outcome !== "gone";
}

/** A settle succeeds only while its claim is the last one. */
function* stale({ settles, claimsOf }: Index): Generator<Violation> {
  for (const settle of settles) {
    if (!done(settle)) continue;
    const claims = claimsOf.get(settle.seq) ?? [];
    const later = claims.find(({ receipt, at }) => {
      if (receipt <= settle.receipt) return false;
      // Finished is finished: there is no claim after it. What was given back or made longer may be claimed later.
      return settle.outcome === "acked" || at < settle.askedAt;
    });
    if (later !== undefined) {
      yield {
        rule: "settled_stale",
        what: `${settle.op}: ${settle.outcome} ${name(settle)}, which ${later.op} had as ${name(later)}`,
      };
    }
  }
}

/** A claim ends once, and a message is acknowledged once. */
function* settledTwice({ settlesOf }: Index): Generator<Violation> {
  for (const settles of settlesOf.values()) {
    const ends = settles.filter((settle) => done(settle) && settle.kind !== "extend");
    for (const same of grouped(ends, ({ receipt }) => receipt).values()) {
      const [first] = same;
      if (first !== undefined && same.length > 1) {
        const told = same.map(({ op, outcome }) => `${outcome} by ${op}`).join(", ");
        yield { rule: "settled_twice", what: `claim ${name(first)} was ${told}` };
      }
    }
    const acks = ends.filter(({ outcome }) => outcome === "acked");
    const [first] = acks;
    if (first !== undefined && new Set(acks.map(({ receipt }) => receipt)).size > 1) {
      yield { rule: "settled_twice", what: `message ${first.seq} was acknowledged twice` };
    }
  }
}

/** What a handler wrote in the acknowledging transaction is there once, and its message is finished. */
function* effects({ history, claimsOf }: Index): Generator<Violation> {
  const processed = new Set(
    history.final.filter(({ outcome }) => outcome === "processed").map(({ seq }) => seq),
  );
  for (const [seq, rows] of grouped(history.effects ?? [], (effect) => effect.seq)) {
    const [first] = rows;
    if (rows.length > 1) {
      yield { rule: "effect_twice", what: `message ${seq} had its effect ${rows.length} times` };
    }
    if (!processed.has(seq)) {
      yield { rule: "effect_twice", what: `message ${seq} had its effect and is not processed` };
    }
    const later = claimsOf.get(seq)?.find(({ receipt }) => receipt > (first?.receipt ?? 0));
    if (first !== undefined && later !== undefined) {
      yield {
        rule: "settled_stale",
        what: `the effect of ${name(first)} was kept, which ${later.op} had as ${name(later)}`,
      };
    }
  }
}

function* attempts({ claims, history }: Index): Generator<Violation> {
  for (const claim of claims) {
    if (claim.attempt > claim.maxAttempts || claim.attempt < 1) {
      const run = `run ${claim.attempt} of ${claim.maxAttempts}`;
      yield { rule: "attempts", what: `claim ${name(claim)} was ${run}` };
    }
  }
  for (const row of history.final) {
    if (row.maxAttempts !== null && row.attempt > row.maxAttempts) {
      yield { rule: "attempts", what: `${row.messageId} had ${row.attempt} runs` };
    }
  }
}

/** By the database's clock, which a direct claim tells: its lease began `leaseMs` before the end. */
function* expired({ claims }: Index): Generator<Violation> {
  for (const claim of claims) {
    if (claim.leaseMs === undefined || claim.expiresAt === null) continue;
    const late = claim.leaseExpiresAt - claim.leaseMs - claim.expiresAt;
    if (late >= 0) {
      yield { rule: "expired", what: `claim ${name(claim)} came ${late} ms after the expiry` };
    }
  }
}
