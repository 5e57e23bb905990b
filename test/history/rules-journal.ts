import { limitGroup, rate } from "./rules-flow.ts";
import type { Change, History, Hold, Limit, Violation } from "./types.ts";

interface Row {
  readonly change: Change;
  readonly hold: Hold;
}

/**
 * The same rules by the database's own journal: exact where clients can only be careful, and it knows the claims
 * that nobody lived to report.
 */
export function journalRules({ journal = [], limits = [], buckets = [] }: History): Violation[] {
  const replay = new Replay(limits);
  const claims: Change[] = [];
  for (const change of journal) if (replay.next(change)) claims.push(change);
  const rates = buckets.flatMap((bucket) => {
    const ofBucket = claims.filter((change) => limitGroup(bucket, change) === "");
    return [
      ...rate(
        bucket,
        ofBucket.map(({ now, cost }) => ({ at: now, cost })),
        "journal",
      ),
    ];
  });
  return [...replay.violations, ...rates];
}

class Replay {
  readonly violations: Violation[] = [];
  readonly #limits: readonly Limit[];
  readonly #live = new Map<number, Row>();
  /** Live rows per mailbox and ordering key. */
  readonly #keys = new Map<string, Set<number>>();
  /** Leased rows, those whose lease has passed among them. */
  readonly #held = new Set<number>();

  constructor(limits: readonly Limit[]) {
    this.#limits = limits;
  }

  /** Returns whether it was a claim that hands the message out. */
  next(change: Change): boolean {
    const { seq, before, after, now } = change;
    const known = this.#live.get(seq)?.hold;
    if (!same(known ?? null, before)) {
      this.#report("journal_gap", change, `was ${said(before)}, not ${said(known ?? null)}`);
    }
    const key = keyOf(change);
    if (after === null) {
      this.#live.delete(seq);
      this.#held.delete(seq);
      if (key !== undefined) this.#keys.get(key)?.delete(seq);
      return false;
    }
    // A receipt that grows while the lease stays in the past makes an old claim void, and is no new one.
    const claimed =
      isHeld(after) && after.receipt > (before?.receipt ?? 0) && after.visibleAt > now;
    if (before !== null && after.receipt < before.receipt) {
      this.#report("receipt_order", change, `${before.receipt} became ${after.receipt}`);
    }
    this.#live.set(seq, { change, hold: after });
    if (key !== undefined) {
      const ofKey = this.#keys.get(key) ?? new Set();
      this.#keys.set(key, ofKey.add(seq));
    }
    if (isHeld(after)) this.#held.add(seq);
    else this.#held.delete(seq);
    // A lease that had passed and is made longer is held anew.
    const revived = !claimed && isHeld(after) && before !== null && before.visibleAt <= now;
    if (claimed) this.#claimed(change, before, after);
    if (claimed || revived) this.#together(change);
    return claimed;
  }

  #claimed(change: Change, before: Hold | null, after: Hold): void {
    if (before !== null && isHeld(before) && before.visibleAt > change.now) {
      this.#report("two_leases", change, `claimed ${before.visibleAt - change.now} ms too early`);
    }
    if (change.expiresAt !== null && change.expiresAt <= change.now) {
      this.#report("expired", change, `claimed ${change.now - change.expiresAt} ms too late`);
    }
    if (after.attempt > change.maxAttempts) {
      this.#report("attempts", change, `run ${after.attempt} of ${change.maxAttempts}`);
    }
    const ofKey = this.#keys.get(keyOf(change) ?? "");
    const earlier = [...(ofKey ?? [])].find((seq) => seq < change.seq);
    if (earlier !== undefined) {
      this.#report("key_order", change, `claimed while ${earlier} of ${keyOf(change)} was waiting`);
    }
  }

  /** What is leased beside a claim that begins. */
  #together(change: Change): void {
    const others = [...this.#held]
      .map((seq) => this.#live.get(seq) as Row)
      .filter(({ hold }) => hold.visibleAt > change.now)
      .map((row) => row.change)
      .filter(({ seq }) => seq !== change.seq);
    const key = keyOf(change);
    const other = key === undefined ? undefined : others.find((one) => keyOf(one) === key);
    if (other !== undefined) {
      this.#report("key_overlap", change, `leased together with ${other.seq} of ${key}`);
    }
    for (const limit of this.#limits) {
      const group = limitGroup(limit, change);
      if (group === undefined) continue;
      const count = 1 + others.filter((one) => limitGroup(limit, one) === group).length;
      if (count > limit.max) {
        this.#report("limit", change, `${count} in flight under ${JSON.stringify(limit)} ${group}`);
      }
    }
  }

  #report(rule: Violation["rule"], { id, seq, messageId }: Change, what: string): void {
    this.violations.push({ rule, what: `journal ${id}: ${messageId} (${seq}): ${what}` });
  }
}

/** Leased to a worker; a name with "!" is the reason that ends the message. */
function isHeld({ worker }: Hold): boolean {
  return worker !== null && !worker.startsWith("!");
}

function keyOf({ mailbox, orderingKey }: Change): string | undefined {
  return orderingKey === null ? undefined : `${orderingKey} of ${mailbox}`;
}

function same(a: Hold | null, b: Hold | null): boolean {
  if (a === null || b === null) return a === b;
  return a.receipt === b.receipt && a.worker === b.worker && a.visibleAt === b.visibleAt;
}

function said(hold: Hold | null): string {
  return hold === null ? "absent" : `${hold.receipt} of ${hold.worker} until ${hold.visibleAt}`;
}
