import type { Answer } from "./sql.ts";

/** What is used of node-postgres' client. */
export interface Connection {
  readonly __knexUid?: string;
  readonly __knexTxId?: string;
  /** Statements of others may be on their way. */
  readonly pipeline?: unknown;
  readonly connection?: Partial<Wire>;
  query(submittable: Submittable): unknown;
  query(
    statement: { name: string; text: string; values: unknown[] },
    answered: (error: Error | null, answer: Answer) => void,
  ): unknown;
}

/** What node-postgres runs that is not a query of its own. */
export interface Submittable {
  submit(wire: Wire): void;
}

/** What is used of its connection; other drivers have none. */
export interface Wire {
  readonly stream?: { cork(): void; uncork(): void };
  readonly parsedStatements: object;
  query(text: string): void;
  sendCopyFromChunk(chunk: Buffer): void;
  endCopyFrom(): void;
}

/** What is used of knex's client. */
export interface Pool {
  readonly config: { readonly asyncStackTraces?: boolean };
  acquireConnection(): Promise<Connection>;
  releaseConnection(connection: Connection): Promise<void>;
  emit(event: string, ...told: unknown[]): void;
}

/** Runs on a connection of the pool, or on the transaction's. */
export async function onConnection<T>(
  pool: Pool,
  run: (connection: Connection) => Promise<T>,
): Promise<T> {
  const connection = await pool.acquireConnection();
  try {
    return await run(connection);
  } finally {
    void pool.releaseConnection(connection);
  }
}

/** What takes what is not a plain query; undefined over other drivers, and where other statements may be under way. */
export function wireOf({ pipeline, connection }: Connection): Partial<Wire> | undefined {
  return pipeline ? undefined : connection;
}

/** What runs past knex' runner, with the events that knex' own statements have. */
export async function told<T extends Answer>(
  pool: Pool,
  { __knexUid, __knexTxId }: Connection,
  sql: string,
  bindings: readonly unknown[],
  run: () => Promise<T>,
): Promise<T> {
  const statement = { sql, bindings, method: "raw", __knexUid, __knexTxId };
  pool.emit("query", statement);
  try {
    const answer = await run();
    pool.emit("query-response", answer, statement);
    return answer;
  } catch (error) {
    pool.emit("query-error", error, statement);
    throw error;
  }
}
