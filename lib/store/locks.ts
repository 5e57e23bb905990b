import type { Knex } from "knex";
import type { Lock, LockFilter } from "../protocol/locks.ts";
import type { Db, Dialect } from "./dialect.ts";
import { type LockStatements, lockStatements } from "./lock-statements.ts";
import { parseText } from "./rows.ts";
import { int, query, type Row, retried, transaction, translated } from "./sql.ts";

/** What whoever wants a lock says. */
export interface LockRequest {
  readonly ownerId: string;
  readonly ttlMs: number;
  /** JSON text, or null. */
  readonly metadata: string | null;
  /** Reads first, because most likely it is taken: a write that changes nothing costs more than a look. */
  readonly look: boolean;
}

export interface Taken {
  readonly resourceId: string;
  readonly expiresAt: number;
}

/** Names one holding of a lock. */
export interface LockKey {
  readonly resourceId: string;
  readonly fencingToken: number;
}

/** How long rows of locks that nobody holds are kept: for `locks show`, nothing depends on it. */
const KEPT_MS = 86_400_000;
const PURGED = 200;

/** All locks not had at once: what was taken already is given back with the transaction. */
class NotAll extends Error {
  readonly taken: Taken;
  constructor(taken: Taken) {
    super("taken");
    this.taken = taken;
  }
}

/** Locks as rows: who holds one is the owner in its row, as long as the database's clock says so. */
export class LockStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #table: string;
  readonly #statements: LockStatements;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#table = `${prefix}locks`;
    this.#statements = lockStatements(dialect.name, prefix, dialect.now);
  }

  /** All of these, which come sorted, or none. */
  async take(resourceIds: readonly string[], request: LockRequest): Promise<Lock[] | Taken> {
    if (request.look) {
      for (const resourceId of resourceIds) {
        const bindings = { resource: resourceId };
        const [row] = await translated(this.#dialect, () =>
          query(this.#knex, this.#statements.look, bindings),
        );
        if (row !== undefined && int(row.free) === 0) {
          return { resourceId, expiresAt: int(row.expires_at) };
        }
      }
    }
    return this.#takeAll(resourceIds, request);
  }

  async #takeAll(resourceIds: readonly string[], request: LockRequest): Promise<Lock[] | Taken> {
    try {
      return await translated(this.#dialect, async () => {
        const [only, ...others] = resourceIds;
        if (only !== undefined && others.length === 0) {
          const lock = await retried(this.#dialect, () => this.#take(this.#knex, only, request), [
            "deadlock",
            "serialization",
            "busy",
            "unique",
          ]);
          return "ownerId" in lock ? [lock] : lock;
        }
        return transaction(this.#dialect, this.#knex, async (trx) => {
          const locks: Lock[] = [];
          for (const resourceId of resourceIds) {
            const lock = await this.#take(trx, resourceId, request);
            if (!("ownerId" in lock)) throw new NotAll(lock);
            locks.push(lock);
          }
          return locks;
        });
      });
    } catch (error) {
      if (error instanceof NotAll) return error.taken;
      throw error;
    }
  }

  /** Each statement decides alone, so the first two need no transaction. */
  async #take(db: Db, resourceId: string, request: LockRequest): Promise<Lock | Taken> {
    const { over, look, make } = this.#statements;
    const bindings = {
      resource: resourceId,
      owner: request.ownerId,
      ttl: request.ttlMs,
      metadata: request.metadata,
    };
    const [free] = await query(db, over, bindings);
    if (free !== undefined) return lockOf(free);
    const [held] = await query(db, look, { resource: resourceId });
    if (held !== undefined) return { resourceId, expiresAt: int(held.expires_at) };
    const [made] = await query(db, make, bindings);
    // Otherwise somebody else made it between the look and this.
    return made === undefined ? { resourceId, expiresAt: 0 } : lockOf(made);
  }

  /** Undefined when the lock is no longer this holding's. */
  async renew(key: LockKey, ttlMs: number): Promise<Lock | undefined> {
    return translated(this.#dialect, async () => {
      const [row] = await retried(this.#dialect, () =>
        query(this.#knex, this.#statements.renew, {
          resource: key.resourceId,
          token: key.fencingToken,
          ttl: ttlMs,
        }),
      );
      return row && lockOf(row);
    });
  }

  /** False when the lock was no longer this holding's. */
  async release({ resourceId, fencingToken }: LockKey): Promise<boolean> {
    const bindings = { resource: resourceId, token: fencingToken };
    return translated(this.#dialect, async () => {
      const rows = await retried(this.#dialect, () =>
        query(this.#knex, this.#statements.release, bindings),
      );
      return rows.length > 0;
    });
  }

  /** Whoever held it, undefined when nobody did. */
  async forceRelease(resourceId: string): Promise<Lock | undefined> {
    return translated(this.#dialect, () =>
      transaction(this.#dialect, this.#knex, async (trx) => {
        const lock = await this.get(resourceId, trx);
        if (lock === undefined) return undefined;
        const bindings = { resource: resourceId, token: lock.fencingToken };
        const rows = await query(trx, this.#statements.release, bindings);
        return rows.length > 0 ? lock : undefined;
      }),
    );
  }

  /** Keeps others from taking the lock until the transaction ends. False when it is no longer this holding's. */
  async hold(trx: Db, { resourceId, fencingToken }: LockKey): Promise<boolean> {
    return translated(this.#dialect, async () => {
      const rows = await query(trx, this.#statements.hold, {
        resource: resourceId,
        token: fencingToken,
      });
      return rows.length > 0;
    });
  }

  /** The lock, while somebody holds it. */
  async get(resourceId: string, db: Db = this.#knex): Promise<Lock | undefined> {
    return translated(this.#dialect, async () => {
      const row = (await this.#held(db).where("resource_id", resourceId).first()) as
        | Row
        | undefined;
      return row && lockOf(row);
    });
  }

  async list({ ownerId, limit, after }: LockFilter): Promise<Lock[]> {
    return translated(this.#dialect, async () => {
      const held = this.#held(this.#knex).where("resource_id", ">", after);
      if (ownerId !== undefined) held.where("owner_id", ownerId);
      return ((await held.orderBy("resource_id").limit(limit)) as Row[]).map(lockOf);
    });
  }

  #held(db: Db): Knex.QueryBuilder {
    return db(this.#table)
      .select("*")
      .whereNotNull("owner_id")
      .whereRaw(`expires_at > ${this.#dialect.now}`);
  }

  /** Deletes up to 200 rows of locks that nobody has held for a day. Their tokens never come again. */
  async purge(keptMs = KEPT_MS): Promise<number> {
    return translated(this.#dialect, async () => {
      const old = { kept: keptMs, limit: PURGED };
      // Without the floor's row: most looks find nothing.
      if ((await query(this.#knex, this.#statements.anyOld, { kept: keptMs })).length === 0) {
        return 0;
      }
      return transaction(this.#dialect, this.#knex, async (trx) => {
        // First, so that nobody makes a lock with a token that this purge is about to raise the floor over.
        await query(trx, this.#statements.lockFloor);
        const gone = await query(trx, this.#statements.purge, old);
        if (gone.length === 0) return 0;
        const token = Math.max(...gone.map((row) => int(row.fencing_token)));
        await query(trx, this.#statements.raiseFloor, { token });
        return gone.length;
      });
    });
  }
}

function lockOf(row: Row): Lock {
  return {
    resourceId: String(row.resource_id),
    ownerId: String(row.owner_id),
    fencingToken: int(row.fencing_token),
    lockedAt: int(row.locked_at),
    expiresAt: int(row.expires_at),
    metadata: parseText(row.metadata) as Lock["metadata"],
  };
}
