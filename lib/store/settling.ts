import { setTimeout as sleep } from "node:timers/promises";
import { ServiceUnavailable } from "../errors.ts";
import type { ClaimKey, Db, Dialect, KeyRef } from "./dialect.ts";
import { distinct, nameOf } from "./keys.ts";
import { int, isTransaction, type Row, retried, transaction, translated } from "./sql.ts";

export type Settled = "done" | "stale" | "gone";

/** A claim, and the key whose turn its end passes on. */
export type Turn<C extends ClaimKey> = C & { readonly key?: KeyRef | undefined };

/** The statement that settles, whatever else its claims bear; returns the sequences of the claims that were valid. */
type Statement<C> = (db: Db, claims: readonly C[]) => Promise<number[]>;

export interface Ending<C> {
  readonly run: Statement<C>;
  /** What else belongs into the same transaction, for those of keys that were valid. */
  readonly also?: ((trx: Db, done: readonly Turn<C & ClaimKey>[]) => Promise<void>) | undefined;
}

/** Rows that one look takes. */
const STEP = 1_000;

/** How long a settling call waits for a sender that holds the key in an open transaction. */
const LONGEST_HOLD_MS = 5_000;

/**
 * Settles claims. Where a claim's end lets the next message of its key through, both happen in one transaction
 * under the key's lock, so that no sender and no other finisher changes who waits meanwhile. Nobody waits for
 * that lock while holding another: a key that is taken is tried again.
 */
export class Settling {
  readonly #dialect: Dialect;
  readonly #messages: string;
  readonly #keys: string;
  readonly #opened: (db: Db, agentIds: ReadonlySet<string>) => void;

  constructor(
    dialect: Dialect,
    prefix: string,
    opened: (db: Db, agentIds: ReadonlySet<string>) => void,
  ) {
    this.#dialect = dialect;
    this.#messages = `${prefix}messages`;
    this.#keys = `${prefix}keys`;
    this.#opened = opened;
  }

  /**
   * One outcome per claim: done, stale (someone else's now), gone (finished), or, when `patienceMs` have passed,
   * held (its key is locked by a sender's open transaction; nothing was changed).
   */
  async settle<C extends ClaimKey>(
    db: Db,
    claims: readonly Turn<C>[],
    ending: Ending<C>,
    patienceMs = LONGEST_HOLD_MS,
  ): Promise<(Settled | "held")[]> {
    if (claims.length === 0) return [];
    // Of several claims of one message only the one with the greatest receipt can be valid.
    const latest = new Map<number, Turn<C>>();
    for (const claim of claims) {
      const known = latest.get(claim.seq);
      if (known === undefined || known.receipt < claim.receipt) latest.set(claim.seq, claim);
    }
    const plain = [...latest.values()].filter(({ key }) => key === undefined);
    const keyed = [...latest.values()].filter(({ key }) => key !== undefined);
    return translated(this.#dialect, async () => {
      const done = new Set<number>();
      if (plain.length > 0) {
        for (const seq of await this.#plain(db, plain, ending.run)) done.add(seq);
      }
      const held = await this.#keyed(db, keyed, ending, done, patienceMs);
      const missed = [...latest.keys()].filter((seq) => !done.has(seq) && !held.has(seq));
      const live = await this.#live(db, missed);
      return claims.map(({ seq, receipt }) => {
        const last = latest.get(seq)?.receipt === receipt;
        if (done.has(seq)) return last ? "done" : "stale";
        if (held.has(seq)) return last ? "held" : "stale";
        return live.has(seq) ? "stale" : "gone";
      });
    });
  }

  /** As `settle`, for callers that can do nothing with a key that stays held. */
  async surely<C extends ClaimKey>(
    db: Db,
    claims: readonly Turn<C>[],
    ending: Ending<C>,
  ): Promise<Settled[]> {
    const outcomes = await this.settle(db, claims, ending);
    return outcomes.map((outcome, n) => {
      if (outcome !== "held") return outcome;
      throw new ServiceUnavailable(
        `the key ${claims[n]?.key?.name} is held by an open transaction of a sender`,
        { recoverySuggestion: "Commit soon after sending under a key; then settle again." },
      );
    });
  }

  async #plain<C extends ClaimKey>(
    db: Db,
    claims: readonly Turn<C>[],
    run: Statement<C>,
  ): Promise<number[]> {
    return isTransaction(db) ? run(db, claims) : retried(this.#dialect, () => run(db, claims));
  }

  /** Adds to `done`; returns those whose keys were not to be had in time. */
  async #keyed<C extends ClaimKey>(
    db: Db,
    claims: readonly Turn<C>[],
    ending: Ending<C>,
    done: Set<number>,
    patienceMs: number,
  ): Promise<Set<number>> {
    let left = claims;
    // In a caller's transaction there is nothing to come back to later: it waits.
    let wait = isTransaction(db);
    const since = performance.now();
    for (let pause = 4; left.length > 0; pause = Math.min(pause * 2, 100)) {
      const turn = await transaction(this.#dialect, db, (trx) =>
        this.#turn(trx, left, ending, wait),
      );
      for (const seq of turn.done) done.add(seq);
      if (turn.opened.length > 0) this.#opened(db, new Set(turn.opened));
      left = left.filter(({ seq }) => !turn.tried.has(seq));
      if (left.length === 0) break;
      const missing = await this.#withoutRow(db, left);
      wait = missing;
      if (missing) continue;
      if (performance.now() - since + pause > patienceMs) break;
      await sleep(pause);
    }
    return new Set(left.map(({ seq }) => seq));
  }

  async #turn<C extends ClaimKey>(
    trx: Db,
    claims: readonly Turn<C>[],
    { run, also }: Ending<C>,
    wait: boolean,
  ): Promise<{ tried: Set<number>; done: number[]; opened: string[] }> {
    const { gates } = this.#dialect;
    const keys = distinct(claims.map(({ key }) => key));
    const locked = new Set((await gates.lockKeys(trx, keys, wait)).map(nameOf));
    const ours = claims.filter(({ key }) => key !== undefined && locked.has(nameOf(key)));
    const tried = new Set(ours.map(({ seq }) => seq));
    if (ours.length === 0) return { tried, done: [], opened: [] };
    const done = new Set(await run(trx, ours));
    const valid = ours.filter(({ seq }) => done.has(seq));
    if (valid.length === 0) return { tried, done: [], opened: [] };
    await also?.(trx, valid);
    const opened = await gates.openKeys(trx, distinct(valid.map(({ key }) => key)));
    return { tried, done: [...done], opened };
  }

  /** Whether some of these keys have no row to lock, which only an outsider's DELETE can have done. */
  async #withoutRow<C extends ClaimKey>(db: Db, claims: readonly Turn<C>[]): Promise<boolean> {
    for (const { to_agent, kind, name } of distinct(claims.map(({ key }) => key))) {
      const row = await db(this.#keys).where({ to_agent, kind, name }).first("name");
      if (row === undefined) return true;
    }
    return false;
  }

  async #live(db: Db, seqs: readonly number[]): Promise<Set<number>> {
    const live = new Set<number>();
    for (let n = 0; n < seqs.length; n += STEP) {
      const rows = await db(this.#messages)
        .select("seq")
        .whereIn("seq", seqs.slice(n, n + STEP));
      for (const row of rows as Row[]) live.add(int(row.seq));
    }
    return live;
  }
}
