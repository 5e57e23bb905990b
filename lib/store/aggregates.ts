import type { Knex } from "knex";
import type { StoredEvent } from "../protocol/event-store.ts";
import type { Db, Dialect, DialectName } from "./dialect.ts";
import { type LockOrMake, lockOrMake } from "./make-row.ts";
import { parseText } from "./rows.ts";
import { int, intOrNull, query, type Row, transaction, translated } from "./sql.ts";

/** An event as the insert takes it: JSON columns as text. */
export interface EventRow {
  readonly event_id: string;
  readonly event_type: string;
  readonly data: string;
  readonly metadata: string | null;
  readonly agent_id: string | null;
  readonly correlation_id: string | null;
}

export interface Aggregate {
  readonly version: number;
  readonly aggregateType: string | null;
}

/** Eleven parameters a row, of SQL Server's 2,100. */
const ROWS = 100;
/** Events that get their positions in one step. */
const STEP = 500;

/**
 * Gives committed events their positions, in the order in which they were made. One at a time does so, by the lock
 * on the cursor's row; what has not committed is not seen, and gets a later position.
 */
const NUMBER: Record<DialectName, (events: string) => string> = {
  postgres: (events) => `
    WITH fresh AS MATERIALIZED (
      SELECT seq, row_number() OVER (ORDER BY seq) AS n
      FROM (SELECT seq FROM ${events} WHERE position IS NULL ORDER BY seq LIMIT ${STEP}) f)
    UPDATE ${events} e SET position = CAST(:last AS bigint) + fresh.n FROM fresh WHERE e.seq = fresh.seq
    RETURNING e.position AS position`,
  sqlite: (events) => `
    WITH fresh AS (
      SELECT seq, row_number() OVER (ORDER BY seq) AS n
      FROM (SELECT seq FROM ${events} WHERE position IS NULL ORDER BY seq LIMIT ${STEP}) f)
    UPDATE ${events} SET position = :last + fresh.n FROM fresh WHERE ${events}.seq = fresh.seq
    RETURNING position`,
  // READPAST: what an open transaction has inserted is locked, and must not be waited for, as a scan for `e` would.
  mssql: (events) => `
    UPDATE e SET position = :last + f.n
    OUTPUT inserted.position
    FROM (
      SELECT seq, ROW_NUMBER() OVER (ORDER BY seq) AS n
      FROM (SELECT TOP (${STEP}) seq FROM ${events} WITH (READPAST, ROWLOCK, READCOMMITTEDLOCK)
            WHERE position IS NULL ORDER BY seq) s) f, ${events} e WITH (ROWLOCK)
    WHERE e.seq = f.seq
    OPTION (LOOP JOIN, FORCE ORDER)`,
};

/**
 * Differs on SQL Server: looks past what open transactions have inserted. A pooled connection keeps the isolation level
 * of the transaction before, and READPAST is refused under SERIALIZABLE.
 */
const ANY_NEW: Record<DialectName, (events: string) => string> = {
  postgres: (events) => `SELECT seq FROM ${events} WHERE position IS NULL ORDER BY seq LIMIT 1`,
  sqlite: (events) => `SELECT seq FROM ${events} WHERE position IS NULL ORDER BY seq LIMIT 1`,
  mssql: (events) =>
    `SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SELECT TOP (1) seq FROM ${events} WITH (READPAST, ROWLOCK, READCOMMITTEDLOCK) WHERE position IS NULL ORDER BY seq`,
};

/** Events, the versions of their aggregates, and what was made of them. */
export class AggregateStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #events: string;
  readonly #aggregates: string;
  readonly #cursors: string;
  readonly #snapshots: string;
  readonly #lock: LockOrMake;
  readonly #lockCursor: LockOrMake;
  readonly #number: string;
  readonly #anyNew: string;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#events = `${prefix}events`;
    this.#aggregates = `${prefix}aggregates`;
    this.#cursors = `${prefix}event_cursors`;
    this.#snapshots = `${prefix}snapshots`;
    this.#lock = lockOrMake(dialect.name, {
      table: this.#aggregates,
      keys: ["aggregate_id"],
      idle: "version",
      columns: ["version", "aggregate_type"],
      fresh: { version: "0" },
    });
    this.#lockCursor = lockOrMake(dialect.name, {
      table: this.#cursors,
      keys: ["name"],
      idle: "position",
      columns: ["position"],
      fresh: { position: "0" },
    });
    this.#number = NUMBER[dialect.name](this.#events);
    this.#anyNew = ANY_NEW[dialect.name](this.#events);
  }

  transaction<T>(run: (trx: Db) => Promise<T>, db: Db = this.#knex): Promise<T> {
    return translated(this.#dialect, () => transaction(this.#dialect, db, run));
  }

  /** The aggregate as it is until the transaction ends. */
  async lock(trx: Db, aggregateId: string): Promise<Aggregate> {
    return translated(this.#dialect, async () => {
      const row = await this.#lock(trx, { aggregate_id: aggregateId });
      return {
        version: int(row.version),
        aggregateType: (row.aggregate_type as string | null) ?? null,
      };
    });
  }

  /** Within the transaction that holds the aggregate: stores events after its version. */
  async insert(
    trx: Db,
    aggregateId: string,
    { version, aggregateType }: Aggregate,
    events: readonly EventRow[],
  ): Promise<StoredEvent[]> {
    return translated(this.#dialect, async () => {
      const now = trx.raw(this.#dialect.now);
      const rows = events.map((event, n) => ({
        ...event,
        aggregate_id: aggregateId,
        aggregate_type: aggregateType,
        version: version + n + 1,
        recorded_at: now,
      }));
      for (let from = 0; from < rows.length; from += ROWS) {
        await trx(this.#events).insert(rows.slice(from, from + ROWS));
      }
      await trx(this.#aggregates)
        .where({ aggregate_id: aggregateId })
        .update({ version: version + events.length, aggregate_type: aggregateType });
      return this.load(aggregateId, version + 1, events.length, trx);
    });
  }

  /** Those of these events that are there. */
  async byId(trx: Db, eventIds: readonly string[]): Promise<StoredEvent[]> {
    if (eventIds.length === 0) return [];
    return translated(this.#dialect, async () =>
      ((await trx(this.#events).whereIn("event_id", [...eventIds])) as Row[]).map(eventOf),
    );
  }

  async version(aggregateId: string): Promise<number> {
    return translated(this.#dialect, async () => {
      const row = (await this.#knex(this.#aggregates)
        .where({ aggregate_id: aggregateId })
        .first("version")) as Row | undefined;
      return row === undefined ? 0 : int(row.version);
    });
  }

  async load(
    aggregateId: string,
    fromVersion: number,
    limit: number,
    db: Db = this.#knex,
  ): Promise<StoredEvent[]> {
    return translated(this.#dialect, async () => {
      const rows = await db(this.#events)
        .where("aggregate_id", aggregateId)
        .where("version", ">=", fromVersion)
        .orderBy("version")
        .limit(limit);
      return (rows as Row[]).map(eventOf);
    });
  }

  /**
   * Those after a position, in their order; of each type by itself, because one index leads to each. None of them is
   * above the last position that was given when the first is read: otherwise one of the first type that got its
   * position meanwhile would be passed over by one of the second.
   */
  async after(
    position: number,
    limit: number,
    types: readonly string[] | undefined,
    db: Db = this.#knex,
  ): Promise<StoredEvent[]> {
    return translated(this.#dialect, async () => {
      const given = (await db(this.#cursors).where({ name: "" }).first("position")) as
        | Row
        | undefined;
      if (given === undefined) return [];
      const found: StoredEvent[] = [];
      for (const type of types ?? [undefined]) {
        const read = db(this.#events)
          .whereRaw("position IS NOT NULL")
          .where("position", ">", position)
          .where("position", "<=", int(given.position))
          .orderBy("position")
          .limit(limit);
        if (type !== undefined) read.where("event_type", type);
        found.push(...((await read) as Row[]).map(eventOf));
      }
      return found.sort((a, b) => (a.position ?? 0) - (b.position ?? 0)).slice(0, limit);
    });
  }

  /** Gives up to 500 new events their positions. True when there may be more. */
  async number(): Promise<boolean> {
    return translated(this.#dialect, async () => {
      if ((await query(this.#knex, this.#anyNew)).length === 0) return false;
      return transaction(this.#dialect, this.#knex, async (trx) => {
        const { position } = await this.#lockCursor(trx, { name: "" });
        const numbered = await query(trx, this.#number, { last: int(position) });
        if (numbered.length > 0) {
          const last = int(position) + numbered.length;
          await trx(this.#cursors)
            .where({ name: "" })
            .update({ position: last, updated_at: trx.raw(this.#dialect.now) });
        }
        return numbered.length === STEP;
      });
    });
  }

  /** How far a follower is; locked until the transaction ends, so that nobody else hands out the same events. */
  async cursor(trx: Db, name: string): Promise<number> {
    return translated(this.#dialect, async () =>
      int((await this.#lockCursor(trx, { name })).position),
    );
  }

  async moveCursor(trx: Db, name: string, position: number): Promise<void> {
    await translated(this.#dialect, () =>
      trx(this.#cursors)
        .where({ name })
        .update({ position, updated_at: trx.raw(this.#dialect.now) }),
    );
  }

  async snapshot(
    aggregateId: string,
    name: string,
    schemaVersion: number,
  ): Promise<{ version: number; state: unknown } | undefined> {
    return translated(this.#dialect, async () => {
      const row = (await this.#knex(this.#snapshots)
        .where({ aggregate_id: aggregateId, name, schema_version: schemaVersion })
        .first()) as Row | undefined;
      if (row === undefined) return undefined;
      // Wrapped, because a document of SQL Server's is no bare value.
      const { value } = parseText(row.state) as { readonly value: unknown };
      return { version: int(row.version), state: value };
    });
  }

  /** Keeps a snapshot, unless one of a later version is kept. `state` is JSON text of `{ value }`. */
  async saveSnapshot(
    aggregateId: string,
    key: { readonly name: string; readonly schemaVersion: number },
    { version, state }: { readonly version: number; readonly state: string },
  ): Promise<void> {
    await this.transaction(async (trx) => {
      // Whoever keeps a snapshot of this aggregate at the same time waits here.
      await this.#lock(trx, { aggregate_id: aggregateId });
      const { name, schemaVersion: schema_version } = key;
      const at = { aggregate_id: aggregateId, name, schema_version };
      const before = (await trx(this.#snapshots).where(at).first("version")) as Row | undefined;
      const row = { version, state, taken_at: trx.raw(this.#dialect.now) };
      if (before === undefined) await trx(this.#snapshots).insert({ ...at, ...row });
      else if (int(before.version) < version) await trx(this.#snapshots).where(at).update(row);
    });
  }
}

function eventOf(row: Row): StoredEvent {
  return {
    eventId: String(row.event_id),
    aggregateId: String(row.aggregate_id),
    aggregateType: (row.aggregate_type as string | null) ?? null,
    version: int(row.version),
    eventType: String(row.event_type),
    data: parseText(row.data),
    metadata: parseText(row.metadata) as StoredEvent["metadata"],
    agentId: (row.agent_id as string | null) ?? null,
    correlationId: (row.correlation_id as string | null) ?? null,
    recordedAt: int(row.recorded_at),
    position: intOrNull(row.position),
  };
}
