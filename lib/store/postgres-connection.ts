import { faultOfPostgres } from "./faults.ts";
import type { Answer } from "./sql.ts";

/** What is used of node-postgres' client. */
export interface Connection {
  readonly __knexUid?: string;
  readonly __knexTxId?: string;
  /** Why it is of no use any more: then the pool hands it out no more. */
  __knex__disposed?: unknown;
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
  /** tarn's; a transaction has none, but its connection. */
  readonly pool?: Tarn;
  acquireConnection(): Promise<Connection>;
  releaseConnection(connection: Connection): Promise<void>;
  emit(event: string, ...told: unknown[]): void;
}

interface Tarn {
  on(event: "acquireRequest" | "poolDestroyRequest", call: () => void): void;
  numPendingAcquires(): number;
}

/** A connection stays with us for so long, and what the pool checks of one is checked as often. */
const KEPT_MS = 1_000;

interface KeptConnection {
  readonly connection: Connection;
  readonly until: number;
}

/**
 * Connections of a pool that we used a moment ago. To ask the pool for one takes two timers and a dozen promises, a
 * fifth of the time of a lone send. They go back as soon as anybody else asks the pool for any, so that nobody waits
 * for them.
 */
class Kept {
  readonly #pool: Pool;
  readonly #tarn: Tarn;
  #free: KeptConnection[] = [];
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(pool: Pool, tarn: Tarn) {
    this.#pool = pool;
    this.#tarn = tarn;
    tarn.on("acquireRequest", () => this.#giveBack(Number.POSITIVE_INFINITY));
    tarn.on("poolDestroyRequest", () => {
      this.#closed = true;
      this.#giveBack(Number.POSITIVE_INFINITY);
    });
  }

  take(): KeptConnection | undefined {
    const kept = this.#free.pop();
    if (kept === undefined || kept.connection.__knex__disposed === undefined) return kept;
    void this.#pool.releaseConnection(kept.connection);
    return this.take();
  }

  keep(kept: KeptConnection): void {
    const wanted = this.#closed || this.#tarn.numPendingAcquires() > 0;
    if (wanted || kept.until <= performance.now()) {
      void this.#pool.releaseConnection(kept.connection);
      return;
    }
    this.#free.push(kept);
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#giveBack(performance.now());
    }, KEPT_MS).unref();
  }

  #giveBack(now: number): void {
    const all = this.#free;
    this.#free = [];
    for (const kept of all) {
      if (kept.until <= now) void this.#pool.releaseConnection(kept.connection);
      else this.keep(kept);
    }
  }
}

const keptOf = new WeakMap<Tarn, Kept>();

/** Runs on a connection of the pool, or on the transaction's. */
export async function onConnection<T>(
  pool: Pool,
  run: (connection: Connection) => Promise<T>,
): Promise<T> {
  const tarn = pool.pool;
  if (tarn === undefined) {
    const connection = await pool.acquireConnection();
    try {
      return await run(connection);
    } finally {
      void pool.releaseConnection(connection);
    }
  }
  let ours = keptOf.get(tarn);
  if (ours === undefined) {
    ours = new Kept(pool, tarn);
    keptOf.set(tarn, ours);
  }
  const kept = ours.take() ?? {
    connection: await pool.acquireConnection(),
    until: performance.now() + KEPT_MS,
  };
  try {
    return await run(kept.connection);
  } catch (error) {
    // That it has ended while it was in use is otherwise known only some turns later.
    if (faultOfPostgres(error) === "connection") kept.connection.__knex__disposed ??= error;
    throw error;
  } finally {
    ours.keep(kept);
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
