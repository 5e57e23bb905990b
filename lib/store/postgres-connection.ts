import { type Marked, onConnection, type Pool } from "./connection.ts";
import { faultOfPostgres } from "./faults.ts";
import type { Answer } from "./sql.ts";

/** What is used of node-postgres' client. */
export interface Connection extends Marked {
  /** Statements of others may be on their way. */
  readonly pipeline?: unknown;
  readonly connection?: Partial<Wire>;
  /** Of the server process that greeted it. */
  readonly processID?: number | null;
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

/** What takes what is not a plain query; undefined over other drivers, and where other statements may be under way. */
export function wireOf({ pipeline, connection }: Connection): Partial<Wire> | undefined {
  return pipeline ? undefined : connection;
}

/** As `onConnection`, of node-postgres or another driver for PostgreSQL. */
export function onPostgres<T>(pool: Pool, run: (connection: Connection) => Promise<T>): Promise<T> {
  return onConnection(pool, run, (error) => faultOfPostgres(error) === "connection");
}
