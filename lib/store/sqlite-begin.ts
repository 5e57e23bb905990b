import type { Knex } from "knex";
import type { Db } from "./dialect.ts";

interface KnexTransaction {
  readOnly?: boolean;
  trxClient?: object;
  begin(connection: unknown): Promise<unknown>;
  query(connection: unknown, sql: string): Promise<unknown>;
}

/** knex's client, as far as it is used here; it has no types of its own for it. */
interface Client {
  transaction(...args: unknown[]): KnexTransaction;
  acquireConnection(): Promise<object>;
  releaseConnection(connection: object): Promise<void>;
  query(connection: object, sql: string): Promise<unknown>;
  raw(...args: unknown[]): unknown;
}

/** Clients whose connections are our own. */
const own = new WeakSet<object>();
/** The clients of transactions that hold the write lock from their beginning. */
const writing = new WeakSet<object>();

/**
 * Makes the transactions of our own SQLite connections take the write lock when they begin. knex begins them
 * DEFERRED: one that reads and then writes fails at once, without any waiting, if another process wrote in
 * between (https://www.sqlite.org/lang_transaction.html).
 */
export function beginImmediate(knex: Knex): void {
  const client = knex.client as Client;
  own.add(client);
  const make = client.transaction.bind(client);
  client.transaction = (...args) => {
    const transaction = make(...args);
    if (transaction.readOnly !== true) {
      transaction.begin = (connection) => {
        if (transaction.trxClient !== undefined) writing.add(transaction.trxClient);
        return transaction.query(connection, "BEGIN IMMEDIATE;");
      };
    }
    return transaction;
  };
}

/** Whether a transaction holds the write lock already. */
export function beganImmediate(trx: Db): boolean {
  return writing.has(trx.client as object);
}

/** Whether `ownTransaction` can be used. */
export function isOwn(db: Db): boolean {
  return own.has(db.client as object);
}

/**
 * Runs a few constant statements in a transaction on a connection of our own, as `knex.transaction` does, but without
 * the whole knex that it makes for each: that costs more than a small statement.
 */
export async function ownTransaction<T>(db: Db, run: (trx: Db) => Promise<T>): Promise<T> {
  const client = db.client as Client;
  const connection = await client.acquireConnection();
  try {
    await client.query(connection, "BEGIN IMMEDIATE;");
    try {
      const result = await run(within(client, connection));
      await client.query(connection, "COMMIT;");
      return result;
    } catch (error) {
      await client.query(connection, "ROLLBACK").catch((failed: Error) => {
        // After some failures SQLite has rolled back itself. One that may be in a transaction still is used no more.
        if (!/no transaction is active/.test(failed.message)) dispose(connection, failed);
      });
      throw error;
    }
  } finally {
    await client.releaseConnection(connection);
  }
}

/** What runs statements through one connection. */
function within(client: Client, connection: object): Db {
  const bound = Object.create(client, {
    transacting: { value: true },
    acquireConnection: { value: async () => connection },
    releaseConnection: { value: async () => undefined },
  }) as Client;
  const raw = (...args: unknown[]) => bound.raw(...args);
  return { client: bound, isTransaction: true, raw } as unknown as Db;
}

/** As knex marks what its pool is to close. */
function dispose(connection: { __knex__disposed?: unknown }, reason: Error): void {
  connection.__knex__disposed = reason;
}
