import type { Answer } from "./sql.ts";

/** What knex marks a connection with, whatever the driver. */
export interface Marked {
  readonly __knexUid?: string;
  readonly __knexTxId?: string;
  /** Why it is of no use any more: then the pool hands it out no more. */
  __knex__disposed?: unknown;
}

/** What is used of knex's client. */
export interface Pool {
  readonly config: { readonly asyncStackTraces?: boolean };
  /** tarn's; a transaction has none, but its connection. */
  readonly pool?: Tarn;
  acquireConnection(): Promise<Marked>;
  releaseConnection(connection: Marked): Promise<void>;
  emit(event: string, ...told: unknown[]): void;
}

interface Tarn {
  on(event: "acquireRequest" | "poolDestroyRequest", call: () => void): void;
  numPendingAcquires(): number;
}

/** A connection stays with us for so long, and what the pool checks of one is checked as often. */
const KEPT_MS = 1_000;

interface KeptConnection {
  readonly connection: Marked;
  readonly until: number;
}

/**
 * Connections of a pool that we used a moment ago. To ask the pool for one takes two timers and a dozen promises, a
 * tenth of the time of a lone send. They go back as soon as anybody else asks the pool for any, so that nobody waits
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
    const ended = kept.connection.__knex__disposed !== undefined;
    if (wanted || ended || kept.until <= performance.now()) {
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

const kepts = new WeakMap<Tarn, Kept>();

function keptOf(pool: Pool, tarn: Tarn): Kept {
  let kept = kepts.get(tarn);
  if (kept === undefined) {
    kept = new Kept(pool, tarn);
    kepts.set(tarn, kept);
  }
  return kept;
}

/**
 * Runs on a connection of the pool, or on the transaction's. `ends`: whether a connection has ended with an error.
 */
export async function onConnection<C extends Marked, T>(
  pool: Pool,
  run: (connection: C) => Promise<T>,
  ends: (error: unknown) => boolean,
): Promise<T> {
  const tarn = pool.pool;
  if (tarn === undefined) {
    const connection = await pool.acquireConnection();
    try {
      return await run(connection as C);
    } finally {
      void pool.releaseConnection(connection);
    }
  }
  const ours = keptOf(pool, tarn);
  const kept = ours.take() ?? {
    connection: await pool.acquireConnection(),
    until: performance.now() + KEPT_MS,
  };
  try {
    return await run(kept.connection as C);
  } catch (error) {
    // That it has ended while it was in use is otherwise known only some turns later.
    if (ends(error)) kept.connection.__knex__disposed ??= error;
    throw error;
  } finally {
    ours.keep(kept);
  }
}

/** What runs past knex' runner, with the events that knex' own statements have. */
export async function told<T extends Answer | readonly unknown[]>(
  pool: Pool,
  { __knexUid, __knexTxId }: Marked,
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
