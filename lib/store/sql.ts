import { setTimeout as sleep } from "node:timers/promises";
import type { Knex } from "knex";
import { AgentCommunicationError, PermissionDenied, ServiceUnavailable } from "../errors.ts";
import { type Bindings, constantStatement } from "./constant.ts";
import type { Db, Dialect, DriverFault } from "./dialect.ts";

export type { Bindings } from "./constant.ts";

export type Row = Record<string, unknown>;

/**
 * Runs one constant statement with named bindings and returns its rows, whatever shape the driver gives.
 * Casts are written CAST(x AS type): knex would take the name out of `::type`.
 */
export async function query<R = Row>(db: Db, text: string, bindings: Bindings = {}): Promise<R[]> {
  return rows<R>(await constantStatement(db, text, bindings));
}

/** As node-postgres answers. */
export interface Answer {
  rows?: unknown;
}

/** node-postgres answers `{ rows }`; sqlite3 and tedious, through knex, an array. */
export function rows<R = Row>(answer: unknown): R[] {
  if (Array.isArray(answer)) return answer as R[];
  const result = answer as Answer | undefined;
  const inner = result?.rows;
  if (!Array.isArray(inner)) return [];
  // The driver keeps its last answer until the next one, and with it all that its rows refer to.
  if (result !== undefined) result.rows = [];
  return inner as R[];
}

/** BIGINT arrives as text from PostgreSQL and SQL Server. All of ours are below 2^53. */
export function int(value: unknown): number {
  return typeof value === "number" ? value : Number(value);
}

export function intOrNull(value: unknown): number | null {
  return value === null || value === undefined ? null : int(value);
}

/** The database's clock, in milliseconds since the epoch. */
export async function readClock(db: Db, { now }: Pick<Dialect, "now">): Promise<number> {
  const [row] = await query(db, `SELECT ${now} AS now`);
  return int(row?.now);
}

export function isTransaction(db: Db): db is Knex.Transaction {
  return (db as { isTransaction?: boolean }).isTransaction === true;
}

const RETRIED: readonly DriverFault[] = ["deadlock", "serialization", "busy", "lock_timeout"];
/** Of a transaction of our own. */
const BEGUN_ANEW: readonly DriverFault[] = [...RETRIED, "unique"];
const MOST_TRIES = 6;

/**
 * Runs statements that must happen together. In a caller's transaction they join it and are never retried (the
 * caller's earlier statements could not be repeated); in one of our own, deadlocks, serialization failures and
 * a locked SQLite file are tried again a few times, after a random pause that grows. So are unique violations:
 * our statements look before they insert, so one means that another sender was faster, and the next look sees it.
 */
export async function transaction<T>(
  dialect: Dialect,
  db: Db,
  run: (trx: Db) => Promise<T>,
): Promise<T> {
  if (isTransaction(db)) return run(db);
  return retried(dialect, () => begun(dialect, db, run), BEGUN_ANEW);
}

/** How long a statement of `impatient` waits for somebody's lock. */
const PATIENCE_MS = 100;

/** Somebody holds a lock for longer than is waited for it. Nothing was written. */
export class Held extends Error {}

/**
 * As `transaction`, of our own, which waits for nobody for long.
 *
 * @throws Held
 */
export async function impatient<T>(
  dialect: Dialect,
  db: Db,
  run: (trx: Db) => Promise<T>,
): Promise<T> {
  try {
    return await retried(
      dialect,
      () =>
        begun(dialect, db, async (trx) => {
          await dialect.impatient?.(trx, PATIENCE_MS);
          return run(trx);
        }),
      BEGUN_ANEW.filter((fault) => fault !== "lock_timeout"),
    );
  } catch (error) {
    throw faultOf(dialect, error) === "lock_timeout" ? new Held("held", { cause: error }) : error;
  }
}

function begun<T>(dialect: Dialect, db: Db, run: (trx: Db) => Promise<T>): Promise<T> {
  return db.transaction(async (trx) => {
    await dialect.beginWrite(trx);
    return run(trx);
  }, dialect.transactionConfig);
}

/** A single statement outside any transaction, tried again like a transaction of our own. */
export async function retried<T>(
  dialect: Dialect,
  run: () => Promise<T>,
  faults: readonly DriverFault[] = RETRIED,
): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await run();
    } catch (error) {
      if (attempt >= MOST_TRIES || !faults.includes(faultOf(dialect, error))) throw error;
      await sleep(Math.random() * 10 * 2 ** attempt);
    }
  }
}

/** What failed; of an error that was translated inside the transaction, what it was before. */
function faultOf(dialect: Dialect, error: unknown): DriverFault {
  const translatedBefore = error instanceof AgentCommunicationError && error.cause !== undefined;
  return dialect.classify(translatedBefore ? error.cause : error);
}

/** A driver's error as one of ours, with the driver's as its cause. Errors of ours pass as they are. */
export function translate(dialect: Dialect, error: unknown): unknown {
  if (error instanceof AgentCommunicationError || !(error instanceof Error)) return error;
  const options = { cause: error };
  const said = driverMessage(error);
  switch (dialect.classify(error)) {
    case "connection":
    case "busy":
    case "lock_timeout":
      return new ServiceUnavailable(`the database did not answer: ${said}`, options);
    case "deadlock":
    case "serialization":
      return new ServiceUnavailable(`the database gave up a conflict: ${said}`, options);
    case "permission":
      return new PermissionDenied(`the database refused: ${said}`, options);
    case "disk_full":
      return new AgentCommunicationError(
        "STORAGE_FULL",
        `the database has no room: ${said}`,
        options,
      );
    case "missing_database":
      return new AgentCommunicationError("INVALID_CONFIGURATION", said, {
        ...options,
        recoverySuggestion: "Create the database, or correct its name in DATABASE_URL.",
      });
    case "missing_table":
      return new AgentCommunicationError(
        "NOT_MIGRATED",
        "the tables of agent-outbox are not in this database",
        options,
      );
    default:
      // A programming error (TypeError and the like) is not the database's: leave it as it is.
      return isDriverError(error)
        ? new AgentCommunicationError("DATABASE_ERROR", said, options)
        : error;
  }
}

/** knex puts the whole statement before the driver's words; the cause still has it. */
function driverMessage(error: Error): string {
  // tedious hides what each address answered behind "Could not connect (sequence)".
  const group = [error, error.cause].find((one) => one instanceof AggregateError);
  const inner = group === undefined ? error : (group.errors[0] as Error | undefined);
  const message = inner?.message || error.message || error.name;
  return message.slice(message.lastIndexOf(" - ") + 1).replace(/^- /, "");
}

function isDriverError(error: Error): boolean {
  return "code" in error || "errno" in error || "number" in error || "severity" in error;
}

/** Runs a store call and translates what the driver throws. */
export async function translated<T>(dialect: Dialect, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    throw translate(dialect, error);
  }
}
