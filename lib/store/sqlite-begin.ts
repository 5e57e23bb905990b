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
  readonly driverName?: string;
  readonly config?: { readonly asyncStackTraces?: boolean };
  transaction(...args: unknown[]): KnexTransaction;
}

/** Clients whose connections are our own, and may be used past knex. */
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
  // Traces of where a statement was made are knex' own; and `better-sqlite3` is another driver, called in another way.
  if (client.driverName === "sqlite3" && client.config?.asyncStackTraces !== true) own.add(client);
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

/** Whether its connections are our own, and may be used past knex. */
export function isOwn(db: Db): boolean {
  return own.has(db.client as object);
}
