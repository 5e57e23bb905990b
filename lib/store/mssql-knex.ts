import type { Knex } from "knex";

interface Connection {
  readonly state: { readonly name: string };
  readonly inTransaction?: boolean;
  execSql(request: object): void;
}

interface Client {
  _chomp(connection: Connection): void;
  _enqueueRequest(request: object, connection: Connection): void;
  _query(connection: Connection, query: object): Promise<unknown>;
}

const mended = new WeakSet<object>();
const queues = new WeakMap<Connection, object[]>();

/**
 * Gives each connection a queue of its own. In knex 3.3 the queue of waiting requests stands on the prototype of
 * the SQL Server client: one stack for all connections of the process. Two transactions that each send several
 * statements at once then run some of them on each other's connection, outside their own transaction.
 * Transactions make their clients from the prototype, so it is mended there, for the caller's knex as well.
 */
export function separateQueues(knex: Knex): void {
  const prototype = (knex.client as { constructor: { prototype: Client } }).constructor.prototype;
  if (mended.has(prototype)) return;
  mended.add(prototype);
  prototype._enqueueRequest = function (request, connection) {
    const queue = queues.get(connection) ?? [];
    queues.set(connection, queue);
    queue.push(request);
    this._chomp(connection);
  };
  prototype._chomp = (connection) => {
    if (connection.state.name !== "LoggedIn") return;
    const next = queues.get(connection)?.shift();
    if (next !== undefined) connection.execSql(next);
  };
  const query = prototype._query;
  prototype._query = function (connection, statement) {
    // knex goes on with the queue only after a success.
    return query.call(this, connection, statement).catch((error: unknown) => {
      setImmediate(() => this._chomp(connection));
      throw error;
    });
  };
}

/** False when the server has rolled the transaction back on its own, which knex does not notice. */
export async function stillOpen(trx: Knex): Promise<boolean> {
  const connection = (await trx.client.acquireConnection()) as Connection;
  return connection.inTransaction !== false;
}
