import type { Index, KnownClaim, Settle } from "./index-of.ts";
import type { Moment } from "./types.ts";

/** A time in which a claim was held for certain, whatever the network did to its answers. */
export interface Held {
  readonly claim: KnownClaim;
  readonly from: Moment;
  readonly until: Moment;
}

/** The database's clock tells whole milliseconds, and is steered against the machine's monotonic one. */
const certain = (leaseMs: number) => leaseMs - 5 - leaseMs / 100;

/**
 * From when the claim was answered to when the first call that could end it was sent, and no longer than the
 * lease counted from when it was asked for. Of a worker's claims nobody knows when they were asked for: the
 * database's journal speaks for them.
 */
export function certainlyHeld(index: Index): Held[] {
  return index.claims.flatMap((claim) => {
    if (claim.askedAt === undefined || claim.leaseMs === undefined) return [];
    const cancelled = index.cancelledAt.get(claim.messageId) ?? Number.POSITIVE_INFINITY;
    const settles = (index.settlesOf.get(claim.seq) ?? [])
      .filter(({ receipt }) => receipt === claim.receipt)
      .sort((a, b) => a.askedAt - b.askedAt);
    return segments(claim, claim.askedAt + certain(claim.leaseMs), settles)
      .map(({ from, until }) => ({ claim, from, until: Math.min(until, cancelled) }))
      .filter(({ from, until }) => from < until);
  });
}

function segments(claim: KnownClaim, leaseEnd: Moment, settles: readonly Settle[]) {
  const held = [{ from: claim.at, until: leaseEnd }];
  const noLaterThan = (end: Moment) => {
    for (const segment of held) segment.until = Math.min(segment.until, end);
  };
  for (const settle of settles) {
    if (settle.kind !== "extend") {
      noLaterThan(settle.askedAt);
      return held;
    }
    // An extension may also make the lease shorter, and one whose answer is lost may have.
    const extended = settle.askedAt + certain(settle.leaseMs ?? 0);
    noLaterThan(extended);
    if (settle.outcome === "extended" && settle.answeredAt !== undefined) {
      held.push({ from: settle.answeredAt, until: extended });
    }
  }
  return held;
}
