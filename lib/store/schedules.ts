import type { Knex } from "knex";
import type { CatchUp, Firing, Timing } from "../protocol/schedules.ts";
import type { Db, Dialect, DialectName } from "./dialect.ts";
import { parseText } from "./rows.ts";
import {
  int,
  intOrNull,
  query,
  type Row,
  readClock,
  retried,
  transaction,
  translated,
} from "./sql.ts";

/** What a schedule is made of, as it is set. */
export interface ScheduleDefinition extends Timing {
  readonly message: Readonly<Record<string, unknown>>;
  readonly catchUp: CatchUp;
  readonly maxCatchUp: number;
}

export interface ScheduleRow extends ScheduleDefinition {
  readonly name: string;
  readonly nextRunAt: number | null;
  readonly lastRunAt: number | null;
  readonly lastFiredAt: number | null;
  readonly lastMessageId: string | null;
  readonly runs: number;
  readonly skipped: number;
  readonly pausedAt: number | null;
  readonly pauseReason: string | null;
  readonly failures: number;
  readonly lastError: { readonly code: string; readonly message: string } | null;
  readonly createdAt: number;
  readonly updatedAt: number;
  /** The database's clock when the row was read. */
  readonly now: number;
}

/** A schedule that is due, or will be. */
export interface DueSchedule {
  readonly name: string;
  readonly nextRunAt: number;
  /** Milliseconds until it is to be looked at; 0 or less: it is due. */
  readonly dueInMs: number;
  readonly failures: number;
}

/** What `set` and the like change. */
export interface ScheduleChange {
  readonly definition?: ScheduleDefinition;
  readonly nextRunAt: number | null;
  /** Undefined: as it is. */
  readonly paused?: { readonly reason: string | null } | false | undefined;
}

/** Takes the row of a schedule that is due still; one that another transaction holds is not waited for. */
const TAKE: Record<DialectName, (table: string, now: string) => string> = {
  postgres: (table, now) =>
    `SELECT s.*, ${now} AS now FROM ${table} s WHERE name = :name AND due_at <= ${now} FOR UPDATE SKIP LOCKED`,
  // Differs from PostgreSQL: the hints are those of a claim, for the same reasons. A pooled connection keeps the
  // isolation level of the transaction before, and READPAST is refused under SERIALIZABLE.
  mssql: (table, now) => `
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    SELECT s.*, ${now} AS now FROM ${table} s WITH (UPDLOCK, READPAST, ROWLOCK, READCOMMITTEDLOCK)
    WHERE name = :name AND due_at <= ${now}`,
  // Differs from PostgreSQL: the transaction holds the file's only write lock already.
  sqlite: (table, now) =>
    `SELECT s.*, ${now} AS now FROM ${table} s WHERE name = :name AND due_at <= ${now}`,
};

/** Rolls back a firing that another process has done meanwhile. */
class Overtaken extends Error {}

/** Schedules. Only the database's clock says what is due. */
export class ScheduleStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #table: string;
  readonly #take: string;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#table = `${prefix}schedules`;
    this.#take = TAKE[dialect.name](this.#table, dialect.now);
  }

  async get(db: Db, name: string): Promise<ScheduleRow | undefined> {
    return translated(this.#dialect, async () => {
      const row = (await this.#select(db).where({ name }).first()) as Row | undefined;
      return row === undefined ? undefined : scheduleRow(row);
    });
  }

  /** By name, from after a name on. */
  async list(limit: number, after: string): Promise<ScheduleRow[]> {
    return translated(this.#dialect, async () => {
      const rows = (await this.#select(this.#knex)
        .where("name", ">", after)
        .orderBy("name")
        .limit(limit)) as Row[];
      return rows.map(scheduleRow);
    });
  }

  /**
   * Changes a schedule, or makes it, by what `decide` makes of the row as it is; nothing, where that is
   * undefined. Two callers take turns, and a firing under way is waited for. Returns the row as it is then.
   */
  async change(
    db: Db,
    name: string,
    decide: (row: ScheduleRow | undefined, now: number) => ScheduleChange | undefined,
  ): Promise<ScheduleRow> {
    return translated(this.#dialect, () =>
      transaction(this.#dialect, db, async (trx) => {
        const held = (await this.#select(trx).where({ name }).forUpdate().first()) as
          | Row
          | undefined;
        const before = held === undefined ? undefined : scheduleRow(held);
        const now = before?.now ?? (await this.#now(trx));
        const change = decide(before, now);
        if (change !== undefined) await this.#write(trx, name, { before, now }, change);
        return (await this.get(trx, name)) as ScheduleRow;
      }),
    );
  }

  async #write(
    trx: Db,
    name: string,
    { before, now }: { before: ScheduleRow | undefined; now: number },
    { definition, nextRunAt, paused }: ScheduleChange,
  ): Promise<void> {
    const pausedNow = paused === undefined ? (before?.pausedAt ?? null) !== null : paused !== false;
    const values = {
      ...(definition === undefined ? {} : columnsOf(definition)),
      next_run_at: nextRunAt,
      due_at: pausedNow ? null : nextRunAt,
      updated_at: now,
      // What was wrong may be right now.
      ...(pausedNow ? {} : { failures: 0, last_error: null }),
      ...(paused === undefined
        ? {}
        : paused === false
          ? { paused_at: null, pause_reason: null }
          : { paused_at: before?.pausedAt ?? now, pause_reason: paused.reason }),
    };
    if (before !== undefined) {
      await trx(this.#table).where({ name }).update(values);
      return;
    }
    const fresh = { name, runs: 0, skipped: 0, failures: 0, created_at: now };
    await trx(this.#table).insert({ ...values, ...fresh });
  }

  async remove(db: Db, name: string): Promise<boolean> {
    const remove = () => db(this.#table).where({ name }).del();
    return translated(this.#dialect, async () => (await retried(this.#dialect, remove)) > 0);
  }

  /** The schedules that come next, those that are due first. */
  async upcoming(limit: number): Promise<DueSchedule[]> {
    return translated(this.#dialect, async () => {
      const rows = (await this.#knex(this.#table)
        .select("name", "next_run_at", "failures")
        .select(this.#knex.raw(`due_at - ${this.#dialect.now} AS due_in_ms`))
        .whereNotNull("due_at")
        .orderBy("due_at")
        .limit(limit)) as Row[];
      return rows.map((row) => ({
        name: String(row.name),
        nextRunAt: int(row.next_run_at),
        dueInMs: int(row.due_in_ms),
        failures: int(row.failures),
      }));
    });
  }

  /**
   * Fires a schedule that is due, in one transaction: `send` stores its messages and says which due times they
   * were for. Undefined when it is not due any more, or another process has it at this moment.
   */
  async fire(
    name: string,
    send: (trx: Db, row: ScheduleRow) => Promise<Firing & { readonly messageId: string | null }>,
  ): Promise<(Firing & { readonly now: number }) | undefined> {
    const fire = () =>
      transaction(this.#dialect, this.#knex, async (trx) => {
        const [found] = await query(trx, this.#take, { name });
        if (found === undefined) return undefined;
        const row = scheduleRow(found);
        const fired = await send(trx, row);
        const last = fired.dues.at(-1);
        // The row is locked; but whether a due time is sent twice is not left to a lock alone.
        const moved = await trx(this.#table)
          .where({ name, next_run_at: row.nextRunAt })
          .update({
            next_run_at: fired.next,
            due_at: fired.next,
            failures: 0,
            last_error: null,
            runs: row.runs + fired.dues.length,
            skipped: row.skipped + fired.skipped,
            ...(last === undefined
              ? {}
              : {
                  last_run_at: last,
                  last_fired_at: trx.raw(this.#dialect.now),
                  last_message_id: fired.messageId,
                }),
          });
        if (moved === 0) throw new Overtaken();
        return { ...fired, now: row.now };
      });
    return translated(this.#dialect, async () => {
      try {
        return await fire();
      } catch (error) {
        if (error instanceof Overtaken) return undefined;
        throw error;
      }
    });
  }

  /** Puts off a schedule whose firing failed, unless another process got it done. */
  async postpone(due: DueSchedule, errorText: string, delayMs: number): Promise<void> {
    await translated(this.#dialect, () =>
      retried(this.#dialect, () =>
        this.#knex(this.#table)
          .where({ name: due.name, next_run_at: due.nextRunAt })
          .whereRaw(`due_at <= ${this.#dialect.now}`)
          .update({
            due_at: this.#knex.raw(`${this.#dialect.now} + CAST(? AS bigint)`, [delayMs]),
            failures: due.failures + 1,
            last_error: errorText,
          }),
      ),
    );
  }

  #select(db: Db): Knex.QueryBuilder {
    return db(this.#table).select("*", db.raw(`${this.#dialect.now} AS now`));
  }

  async #now(db: Db): Promise<number> {
    return readClock(db, this.#dialect);
  }
}

function columnsOf(definition: ScheduleDefinition): Record<string, string | number | null> {
  return {
    cron: definition.cron,
    time_zone: definition.timeZone,
    every_ms: definition.everyMs,
    start_at: definition.startAt,
    end_at: definition.endAt,
    message: JSON.stringify(definition.message),
    catch_up: definition.catchUp,
    max_catch_up: definition.maxCatchUp,
  };
}

const text = (value: unknown): string | null => (value as string | null) ?? null;

function scheduleRow(row: Row): ScheduleRow {
  return {
    name: String(row.name),
    cron: text(row.cron),
    timeZone: text(row.time_zone),
    everyMs: intOrNull(row.every_ms),
    startAt: intOrNull(row.start_at),
    endAt: intOrNull(row.end_at),
    message: parseText(row.message) as ScheduleDefinition["message"],
    catchUp: row.catch_up as CatchUp,
    maxCatchUp: int(row.max_catch_up),
    nextRunAt: intOrNull(row.next_run_at),
    lastRunAt: intOrNull(row.last_run_at),
    lastFiredAt: intOrNull(row.last_fired_at),
    lastMessageId: text(row.last_message_id),
    runs: int(row.runs),
    skipped: int(row.skipped),
    pausedAt: intOrNull(row.paused_at),
    pauseReason: text(row.pause_reason),
    failures: int(row.failures),
    lastError: parseText(row.last_error) as ScheduleRow["lastError"],
    createdAt: int(row.created_at),
    updatedAt: int(row.updated_at),
    now: int(row.now),
  };
}
