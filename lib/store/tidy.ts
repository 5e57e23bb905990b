import type { Knex } from "knex";
import type { Dialect, KeyRef } from "./dialect.ts";
import { WHILE_IT_LIVES } from "./flow.ts";
import type { Limit } from "./gate-rows.ts";
import { limitOf } from "./gate-rows.ts";
import { distinct, KeyStore } from "./keys.ts";
import { int, intOrNull, type Row, transaction, translated } from "./sql.ts";

/** Keys that one step looks at. */
const KEYS = 200;
/** Slots, or messages, that one step looks at. */
const STEP = 500;

/** Where a walk over the keys goes on. */
export type KeyCursor = Pick<KeyRef, "to_agent" | "name"> & { readonly kind: string };

/** A key as a walk sees it, before anything is locked. */
export interface SeenKey extends KeyRef {
  /** Nothing of it can move on by itself; for a turn: it says nothing any more. */
  readonly idle: boolean;
  /** The dead letter that halts it, where there is no such dead letter. */
  readonly haltedByNothing: number | null;
}

export interface SlotCursor {
  readonly name: string;
  readonly seq: number;
}

/**
 * Takes away what nobody needs and nobody else takes away, and mends what an outsider's DELETE left behind. What a
 * walk finds is decided again under the lock; every step is bounded.
 */
export class TidyStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #messages: string;
  readonly #mailboxes: string;
  readonly #dead: string;
  readonly #keys: string;
  readonly #slots: string;
  readonly #limits: string;
  readonly #keyStore: KeyStore;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#messages = `${prefix}messages`;
    this.#mailboxes = `${prefix}mailboxes`;
    this.#dead = `${prefix}dead_letters`;
    this.#keys = `${prefix}keys`;
    this.#slots = `${prefix}slots`;
    this.#limits = `${prefix}limits`;
    this.#keyStore = new KeyStore(knex, dialect, prefix);
  }

  /** The next keys after the cursor, in their order; fewer than 200: that were the last. */
  async keys(after: KeyCursor): Promise<{ keys: SeenKey[]; more: boolean }> {
    const { to_agent, kind, name } = after;
    // Each a range of the primary key: one condition for all of them would be none to an optimizer.
    const ranges: ((found: Knex.QueryBuilder) => Knex.QueryBuilder)[] = [
      (found) => found.where({ "k.to_agent": to_agent, "k.kind": kind }).where("k.name", ">", name),
      (found) => found.where({ "k.to_agent": to_agent }).where("k.kind", ">", kind),
      (found) => found.where("k.to_agent", ">", to_agent),
    ];
    return translated(this.#dialect, async () => {
      const keys: SeenKey[] = [];
      for (const range of ranges) {
        if (keys.length >= KEYS) break;
        const found = this.#knex(`${this.#keys} as k`)
          .select("k.to_agent", "k.kind", "k.name", "k.halted_by")
          .select(this.#knex.raw(`${this.#idle()} AS idle`))
          .select(
            this.#knex.raw(
              `(SELECT d.seq FROM ${this.#dead} d WHERE d.seq = k.halted_by) AS dead_letter`,
            ),
          )
          .orderBy(["k.to_agent", "k.kind", "k.name"])
          .limit(KEYS - keys.length);
        keys.push(...((await range(found)) as Row[]).map(seenKey));
      }
      return { keys, more: keys.length >= KEYS };
    });
  }

  #idle(): string {
    const ordered = "m.to_agent = k.to_agent AND m.ordering_key = k.name";
    const shared = "m.to_agent = k.to_agent AND m.concurrency_key = k.name";
    const head = `(SELECT MIN(m.seq) FROM ${this.#messages} m WHERE ${ordered})`;
    const share = (which: string) =>
      `(SELECT MIN(m.state) FROM ${this.#messages} m WHERE ${shared}${which})`;
    return `CASE
      WHEN k.kind = 'order' AND COALESCE((SELECT h.state FROM ${this.#messages} h WHERE h.seq = ${head}), 2) = 2 THEN 1
      WHEN k.kind = 'share' AND ${share(" AND m.state = 0")} IS NULL
        AND (${share(" AND m.state = 2")} IS NOT NULL OR ${share("")} IS NULL) THEN 1
      WHEN k.kind LIKE 'turn%' AND ${this.#noneOfTurn("k.to_agent", "k.last_rank")} THEN 1
      ELSE 0 END`;
  }

  /** The least of a range, which only the index of the ready ones gives: EXISTS may read the table for it. */
  #noneOfTurn(agent: string, rank: string): string {
    return `(SELECT MIN(m.rank) FROM ${this.#messages} m
        WHERE m.to_agent = ${agent} AND m.lane = '' AND m.state = 0 AND m.rank >= ${rank} AND m.rank <= ${rank}) IS NULL`;
  }

  /**
   * Lets the next message of keys that stand still through, and forgets keys without messages; keys that somebody
   * holds are left alone. Returns the mailboxes that got something, one entry per message.
   */
  async openIdle(keys: readonly KeyRef[]): Promise<string[]> {
    const { gates } = this.#dialect;
    return translated(this.#dialect, () =>
      transaction(this.#dialect, this.#knex, async (trx) => {
        const locked = await gates.lockKeys(trx, distinct(keys), false);
        return locked.length === 0 ? [] : gates.openKeys(trx, locked);
      }),
    );
  }

  /**
   * Blocks again what concurrency keys let through beyond their limit: senders whose transactions were open when it
   * was lowered went by the old one.
   */
  async closeSurplus(keys: readonly KeyRef[]): Promise<void> {
    const { gates } = this.#dialect;
    await translated(this.#dialect, () =>
      transaction(this.#dialect, this.#knex, async (trx) => {
        const locked = await gates.lockKeys(trx, distinct(keys), false);
        if (locked.length > 0) await gates.closeKeys(trx, locked);
      }),
    );
  }

  /** Goes on with keys that were halted by dead letters which are no more. */
  async freeHalted(seqs: readonly number[]): Promise<void> {
    await translated(this.#dialect, () =>
      transaction(this.#dialect, this.#knex, (trx) => this.#keyStore.free(trx, seqs)),
    );
  }

  /**
   * Forgets contexts whose last turn was served: without its row a context begins with the turn that is being
   * served. A sender who holds the row is not waited for.
   */
  async forgetTurns(turns: readonly KeyRef[]): Promise<number> {
    return translated(this.#dialect, () =>
      transaction(this.#dialect, this.#knex, async (trx) => {
        const locked = await this.#dialect.gates.lockKeys(trx, distinct(turns), false);
        let forgotten = 0;
        for (const { to_agent, kind, name } of locked) {
          forgotten += await trx(this.#keys)
            .where({ to_agent, kind, name })
            .whereRaw(this.#noneOfTurn("?", "last_rank"), [to_agent])
            .del();
        }
        return forgotten;
      }),
    );
  }

  /** Frees slots of messages that ended or are in other hands; claims free only those of their own limits. */
  async freeOrphans(
    after: SlotCursor,
  ): Promise<{ freed: number; last: SlotCursor | undefined; more: boolean }> {
    return translated(this.#dialect, async () => {
      const ranges: ((found: Knex.QueryBuilder) => Knex.QueryBuilder)[] = [
        (found) => found.where({ "s.name": after.name }).where("s.seq", ">", after.seq),
        (found) => found.where("s.name", ">", after.name),
      ];
      const seen: Row[] = [];
      for (const range of ranges) {
        if (seen.length >= STEP) break;
        const found = this.#knex(`${this.#slots} as s`)
          .select("s.name", "s.seq", "s.receipt")
          // Each by its key: of a join PostgreSQL makes one walk over all messages up to the last of them.
          .select(
            this.#knex.raw(
              `(SELECT m.receipt FROM ${this.#messages} m WHERE m.seq = s.seq) AS current_receipt`,
            ),
          )
          .orderBy(["s.name", "s.seq"])
          .limit(STEP - seen.length);
        seen.push(...((await range(found)) as Row[]));
      }
      const orphans = seen.filter((row) =>
        int(row.receipt) === WHILE_IT_LIVES
          ? row.current_receipt === null
          : intOrNull(row.current_receipt) !== int(row.receipt),
      );
      let freed = 0;
      for (const name of new Set(orphans.map((row) => String(row.name)))) {
        const seqs = orphans.filter((row) => row.name === name).map((row) => int(row.seq));
        freed += await this.#knex(this.#slots)
          .where({ name })
          .whereIn("seq", seqs)
          .whereRaw(
            `NOT EXISTS (SELECT 1 FROM ${this.#messages} m WHERE m.seq = ${this.#slots}.seq AND ${this.#slots}.receipt IN (m.receipt, ${WHILE_IT_LIVES}))`,
          )
          .del();
      }
      const last = seen.at(-1);
      return {
        freed,
        last: last && { name: String(last.name), seq: int(last.seq) },
        more: seen.length >= STEP,
      };
    });
  }

  /** Limits that were removed longer ago than `ageMs`: nobody can be sending under them any more. */
  async removedLimits(ageMs: number): Promise<{ removed: Limit[]; others: Limit[] }> {
    return translated(this.#dialect, async () => {
      const removed = (await this.#knex(this.#limits)
        .whereRaw(`removed_at <= ${this.#dialect.now} - CAST(? AS bigint)`, [ageMs])
        .orderBy("removed_at")
        .limit(20)) as Row[];
      if (removed.length === 0) return { removed: [], others: [] };
      const names = removed.map((row) => String(row.name));
      const others = (await this.#knex(this.#limits).whereNotIn("name", names)) as Row[];
      return { removed: removed.map(limitOf), others: others.map(limitOf) };
    });
  }

  /** Mailboxes whose claims should ask limits and do not: their rows were deleted, or a removal crossed a new limit. */
  async ungated(): Promise<string[]> {
    return translated(this.#dialect, async () => {
      const rows = (await this.#knex(`${this.#limits} as l`)
        .joinRaw(`LEFT JOIN ${this.#mailboxes} b ON b.agent_id = COALESCE(l.agent_id, '')`)
        .whereNull("l.removed_at")
        .whereRaw("COALESCE(b.gated, 0) <> 1")
        .distinct("l.agent_id")
        .limit(STEP)) as Row[];
      return rows.map((row) => String(row.agent_id ?? ""));
    });
  }

  /** Brings messages of a lane back among the others, but for these mailboxes. Returns how many, at most 500. */
  async emptyLane(lane: string, agentId: string | undefined, except: string[]): Promise<number> {
    return translated(this.#dialect, () =>
      transaction(this.#dialect, this.#knex, async (trx) => {
        const found = trx(this.#messages).select("seq").where({ lane }).limit(STEP);
        if (agentId !== undefined) found.where({ to_agent: agentId });
        if (except.length > 0) found.whereNotIn("to_agent", except);
        const seqs = ((await found) as Row[]).map(({ seq }) => int(seq));
        if (seqs.length > 0) {
          await trx(this.#messages).whereIn("seq", seqs).update({ lane: "" });
        }
        return seqs.length;
      }),
    );
  }
}

function seenKey(row: Row): SeenKey {
  const halted = intOrNull(row.halted_by);
  return {
    to_agent: String(row.to_agent),
    kind: String(row.kind) as KeyRef["kind"],
    name: String(row.name),
    idle: int(row.idle) === 1 && halted === null,
    haltedByNothing: halted !== null && row.dead_letter === null ? halted : null,
  };
}
