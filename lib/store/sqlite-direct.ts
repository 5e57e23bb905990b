import { type Marked, onConnection, type Pool, told } from "./connection.ts";
import { type Bindings, bound } from "./constant.ts";
import type { Db } from "./dialect.ts";
import { isTransaction, query, type Row, rows } from "./sql.ts";
import { isOwn } from "./sqlite-begin.ts";
import { logOf } from "./sqlite-log.ts";
import { answerOf, charactersOf, type SqliteConnection } from "./sqlite-statements.ts";

type Connection = SqliteConnection & Marked;

/** Runs one constant statement within something that was begun. */
export type RunWithin = <R = Row>(text: string, bindings?: Bindings) => Promise<R[]>;

/**
 * As `query`, but on a connection of our own past knex' runner and its pool, which take a fifth of the work of a small
 * statement.
 */
export async function direct<R = Row>(db: Db, text: string, bindings: Bindings): Promise<R[]> {
  if (isTransaction(db) || !isOwn(db)) return query<R>(db, text, bindings);
  return onOwn(db, (run) => run<R>(text, bindings));
}

/**
 * Runs a few constant statements in a transaction that holds the write lock from its beginning, on a connection of our
 * own: the whole knex that `knex.transaction` makes for each costs more than a small statement.
 */
export async function ownTransaction<T>(db: Db, work: (run: RunWithin) => Promise<T>): Promise<T> {
  return onOwn(db, async (run, connection) => {
    await run("BEGIN IMMEDIATE;");
    try {
      const result = await work(run);
      await run("COMMIT;");
      return result;
    } catch (error) {
      await run("ROLLBACK").catch((failed: Error) => {
        // After some failures SQLite has rolled back itself. One that may be in a transaction still is used no more.
        if (!/no transaction is active/.test(failed.message)) {
          connection.__knex__disposed = failed;
        }
      });
      throw error;
    }
  });
}

function onOwn<T>(
  db: Db,
  work: (run: RunWithin, connection: Connection) => Promise<T>,
): Promise<T> {
  const pool = db.client as Pool;
  const log = logOf(pool);
  return onConnection<Connection, T>(
    pool,
    (connection) => {
      const run: RunWithin = async <R>(text: string, bindings: Bindings = {}) => {
        const { sql, values } = bound(db, text, bindings);
        if (sql === undefined) throw new Error("a statement that only knex can read");
        const answer = await told(pool, connection, sql, values, () =>
          answerOf(connection, sql, values),
        );
        await log?.wrote(connection, charactersOf(values), answer.length);
        return rows<R>(answer);
      };
      return work(run, connection);
    },
    () => false,
  );
}
