import { createHash } from "node:crypto";
import { type Pool, told } from "./connection.ts";
import { type Bindings, bound, constantStatement } from "./constant.ts";
import type { Db } from "./dialect.ts";
import { type Connection, onPostgres, wireOf } from "./postgres-connection.ts";
import { type Answer, isTransaction, query, type Row, rows } from "./sql.ts";

/**
 * A pooler gave the transaction a server connection on which the statement is not prepared, or has been by another
 * client; or a migration changed what it answers. All three are found before anything is done.
 */
const REFUSED: readonly unknown[] = ["26000", "42P05", "0A000"];
function isRefusal(error: unknown): boolean {
  return REFUSED.includes((error as { code?: unknown } | null)?.code);
}

/** Somebody's DISCARD ALL is forgiven; a pooler refuses again and again. */
const MOST_REFUSALS = 3;

/** Of one pool. */
class Names {
  /** By text: they are constants. */
  readonly #names = new Map<string, string>();
  #refusals = 0;

  /** The same for the same text, so that whoever finds it on a shared connection finds this statement. */
  of(text: string): string | undefined {
    if (this.#refusals >= MOST_REFUSALS) return undefined;
    let name = this.#names.get(text);
    if (name === undefined) {
      const digest = createHash("sha256").update(text).digest("hex").slice(0, 32);
      name = `outbox_${digest}_${this.#refusals}`;
      this.#names.set(text, name);
    }
    return name;
  }

  refused(text: string, name: string): void {
    // Others of the same name were under way as well.
    if (this.#names.get(text) !== name) return;
    this.#refusals += 1;
    this.#names.clear();
  }

  /** Nothing is prepared any more. */
  leave(): void {
    this.#refusals = MOST_REFUSALS;
  }

  /** As `of`, in a transaction, which a refusal ends: after one there is no second. */
  within(text: string): string | undefined {
    return this.#refusals === 0 ? this.of(text) : undefined;
  }
}

/** Runs a statement, prepared or not. */
export type Run = <R = Row>(db: Db, text: string, bindings: Bindings) => Promise<R[]>;

const pools = new WeakMap<object, Names>();

/** Of a pool, and of the transactions on its connections, which share its configuration. */
function namesOf({ config }: Pool): Names {
  let names = pools.get(config);
  if (names === undefined) {
    names = new Names();
    pools.set(config, names);
  }
  return names;
}

/**
 * As `query`, but PostgreSQL reads the text once for each connection and not at each run, which is half of the work of a
 * statement that touches few rows; and past knex' runner, which is half of what is left of it here. A refusal costs one
 * more statement, and a pool where they come again and again (a pooler in transaction mode that knows nothing of
 * prepared statements) is left alone. In a transaction a refusal would end it: there only what nobody stands between.
 */
export async function prepared<R = Row>(db: Db, text: string, bindings: Bindings): Promise<R[]> {
  if (isTransaction(db)) return preparedWithin<R>(db, text, bindings);
  const pool = db.client as Pool;
  const names = namesOf(pool);
  const name = names.of(text);
  if (name === undefined) return query<R>(db, text, bindings);
  const { sql, values } = bound(db, text, bindings);
  if (sql === undefined) return query<R>(db, text, bindings);
  try {
    const answer = await onPostgres(pool, (connection) => {
      if (wireOf(connection)?.parsedStatements === undefined) return Promise.resolve(undefined);
      return told(pool, connection, sql, values, () => answerOf(connection, name, sql, values));
    });
    if (answer !== undefined) return rows<R>(answer);
    names.leave();
  } catch (error) {
    if (!isRefusal(error)) throw error;
    names.refused(text, name);
  }
  return query<R>(db, text, bindings);
}

async function preparedWithin<R>(db: Db, text: string, bindings: Bindings): Promise<R[]> {
  const transaction = db.client as Pool;
  const names = namesOf(transaction);
  const name = names.within(text);
  if (name === undefined || !(await leadsToServer(db, transaction))) {
    return query<R>(db, text, bindings);
  }
  try {
    return rows<R>(await constantStatement(db, text, bindings, { name }));
  } catch (error) {
    if (isRefusal(error)) names.refused(text, name);
    throw error;
  }
}

/** By connection. */
const direct = new WeakMap<Connection, boolean>();

/**
 * Whether a transaction's connection leads to one server process as long as it lasts: the one that greeted it answers.
 * Poolers greet for themselves.
 */
async function leadsToServer(db: Db, transaction: Pool): Promise<boolean> {
  const connection = (await transaction.acquireConnection()) as Connection;
  if (wireOf(connection)?.parsedStatements === undefined) return false;
  const known = direct.get(connection);
  if (known !== undefined) return known;
  const [row] = await query(db, "SELECT pg_backend_pid() AS pid");
  const leads = row?.pid === connection.processID;
  direct.set(connection, leads);
  return leads;
}

function answerOf(
  connection: Connection,
  name: string,
  text: string,
  values: unknown[],
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    connection.query({ name, text, values }, (error, answer) => {
      if (error === null || error === undefined) resolve(answer);
      else reject(error);
    });
  });
}

/**
 * A condition that is true wherever `sign`, a number that is bound, is not negative. A statement that has it is planned
 * for its values each time it runs, as if it were not prepared: the plan without values would have to count a billion
 * rows, so PostgreSQL never prefers it. It must not: that plan would be kept for minutes, and one that was right for an
 * empty table reads all of it once it is full.
 */
export function plannedAnew(sign: string): string {
  return `(CAST(${sign} AS bigint) >= 0 OR (SELECT count(*) FROM generate_series(1, 1000000000)) < 0)`;
}
