import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import type { Knex } from "knex";
import { LockLost, LockTaken } from "../errors.ts";
import { given, noMore } from "../protocol/given.ts";
import {
  type AcquireOptions,
  type AcquireSettings,
  acquireSchema,
  type ListLocksOptions,
  type Lock,
  listLocksSchema,
  lockSchema,
  lockTtlMs,
  MOST_LOCK_METADATA_BYTES,
  resourceIdOf,
  resourceIds,
} from "../protocol/locks.ts";
import { jsonDocument, parse } from "../protocol/validate.ts";
import type { TxOption } from "../queue/claimed.ts";
import { hubOf } from "../queue/wake/wake.ts";
import type { Db, Dialect } from "../store/dialect.ts";
import { databaseIdentity, joined } from "../store/identity.ts";
import { LockStore, type Taken } from "../store/locks.ts";
import type { SchemaCheck } from "../store/migrate.ts";
import { transaction, translated } from "../store/sql.ts";
import { HeldLocks } from "./held-lock.ts";

type Tx = NonNullable<TxOption["tx"]>;

/** What the work under a lock gets. */
export interface LockContext {
  /** Aborts when the lock is lost, or can no longer be confirmed, or the caller's own signal aborts. */
  readonly signal: AbortSignal;
  /** Of the lock, or of the first of several: what to give to resources outside the database. */
  readonly fencingToken: number;
  /** In the order of their resource ids. */
  readonly locks: readonly Lock[];
  /** @throws LockLost at once, also where the process was frozen and the signal could not abort yet */
  check(): void;
  /**
   * A transaction in which nobody else can take the locks: what it writes was written by their owner.
   *
   * @throws LockLost
   */
  tx<T>(run: (trx: Tx) => Promise<T>): Promise<T>;
}

export interface HeldOptions extends TxOption {}

/** Pauses between two looks of one who waits, in milliseconds; drawn at random between a half and the whole. */
const FIRST_PAUSE_MS = 20;
const LONGEST_PAUSE_MS = 1_000;
/** A database that does not answer must not keep whoever has finished. */
const LONGEST_RELEASE_MS = 5_000;

const PROCESS = `${hostname()}:${process.pid}:${randomBytes(4).toString("hex")}`
  .replace(/[^\w.:-]/g, "-")
  .slice(-128);

/**
 * Locks for agents: one owner at a time, for as long as it renews, with fencing tokens that grow for ever. All
 * times are those of the database's clock.
 */
export class Locks {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #schema: SchemaCheck;
  readonly #store: LockStore;
  readonly #prefix: string;

  /** @internal Use Outbox.locks. */
  constructor(knex: Knex, dialect: Dialect, schema: SchemaCheck, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#schema = schema;
    this.#prefix = prefix;
    this.#store = new LockStore(knex, dialect, prefix);
  }

  /**
   * Takes a lock, or returns null when somebody else holds it and did not let go of it within `waitMs`. Not
   * reentrant: an owner that holds it already does not get it twice.
   *
   * @throws ValidationFailed, PayloadTooLarge (metadata above 16 kB), the reason of an aborted signal
   */
  async acquire(resourceId: string, options: AcquireOptions = {}): Promise<Lock | null> {
    const settings = parse(acquireSchema, given(options), "options");
    const locks = await this.#acquire([resourceIdOf(resourceId)], settings);
    return Array.isArray(locks) ? (locks[0] as Lock) : null;
  }

  /**
   * Takes all of these locks in one transaction, or none of them: whoever waits holds nothing, so two who want the
   * same ones never wait for each other. Sorted by their resource ids; null as for `acquire`.
   *
   * @throws as acquire
   */
  async acquireAll(
    resources: readonly string[],
    options: AcquireOptions = {},
  ): Promise<Lock[] | null> {
    const settings = parse(acquireSchema, given(options), "options");
    const locks = await this.#acquire(parse(resourceIds, resources, "resourceIds"), settings);
    return Array.isArray(locks) ? locks : null;
  }

  async #acquire(resources: readonly string[], settings: AcquireSettings): Promise<Lock[] | Taken> {
    const { ownerId = PROCESS, ttlMs, waitMs, signal, metadata } = settings;
    const what = "options.metadata";
    const request = {
      ownerId,
      ttlMs,
      metadata:
        metadata === undefined ? null : jsonDocument(metadata, what, MOST_LOCK_METADATA_BYTES),
    };
    await this.#schema.ensure();
    const until = performance.now() + waitMs;
    for (let pause = FIRST_PAUSE_MS, look = false; ; look = true) {
      signal?.throwIfAborted();
      const release = this.#listen(resources);
      try {
        const answer = await this.#store.take(resources, { ...request, look });
        if (Array.isArray(answer)) return answer;
        const left = until - performance.now();
        if (left <= 0) return answer;
        await release.heard(Math.min(pause * (0.5 + Math.random() / 2), left), signal);
        pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
      } finally {
        release.end();
      }
    }
  }

  /** Hears of releases in this process from before the look on, so that none is missed. */
  #listen(resources: readonly string[]) {
    const heard = new AbortController();
    const ends = resources.map((id) =>
      this.#hub().subscribe(this.#channel(id), () => heard.abort()),
    );
    return {
      heard: (ms: number, signal: AbortSignal | undefined) =>
        new Promise<void>((resolve) => {
          const done = () => {
            clearTimeout(timer);
            heard.signal.removeEventListener("abort", done);
            signal?.removeEventListener("abort", done);
            resolve();
          };
          const timer = setTimeout(done, ms);
          if (heard.signal.aborted || signal?.aborted) return done();
          heard.signal.addEventListener("abort", done, { once: true });
          signal?.addEventListener("abort", done, { once: true });
        }),
      end: () => {
        for (const end of ends) end();
      },
    };
  }

  #hub() {
    return hubOf(databaseIdentity(this.#knex));
  }

  /** No mailbox is called so: ids have no spaces. */
  #channel(resourceId: string): string {
    return ` lock ${this.#prefix} ${resourceId}`;
  }

  /**
   * Makes a lock last `ttlMs` (default 60,000) from now. The lock that it returns is the one to renew and release.
   *
   * @throws LockLost when it has expired, or was released, or somebody else holds it
   */
  async renew(lock: Lock, ttlMs = 60_000): Promise<Lock> {
    const key = parse(lockSchema, lock, "lock");
    const ttl = parse(lockTtlMs, ttlMs, "ttlMs");
    await this.#schema.ensure();
    const renewed = await this.#store.renew(key, ttl);
    if (renewed === undefined) throw lost(lock);
    return renewed;
  }

  /** Lets go of a lock. `stale` when it had expired or was somebody else's: then nothing changed. */
  async release(lock: Lock): Promise<"released" | "stale"> {
    const key = parse(lockSchema, lock, "lock");
    await this.#schema.ensure();
    const released = await this.#store.release(key);
    if (released) this.#hub().wake([this.#channel(key.resourceId)]);
    return released ? "released" : "stale";
  }

  /**
   * Takes a lock away from whoever holds it: for an operator who knows that the owner is gone. The owner's renewals
   * and its `assertHeld` fail from then on. Returns what was held, or null.
   */
  async forceRelease(resourceId: string): Promise<Lock | null> {
    const id = resourceIdOf(resourceId);
    await this.#schema.ensure();
    const held = await this.#store.forceRelease(id);
    if (held !== undefined) this.#hub().wake([this.#channel(id)]);
    return held ?? null;
  }

  /**
   * Within the transaction `tx`: the lock is still this owner's, and nobody else can take it until the transaction
   * ends. Call it before the first write that the lock protects.
   *
   * @throws LockLost, FOREIGN_TRANSACTION
   */
  async assertHeld(lock: Lock, options: HeldOptions): Promise<void> {
    const key = parse(lockSchema, lock, "lock");
    const { tx, ...rest } = given(options);
    noMore(rest);
    const trx = joined(this.#knex, tx ?? null);
    await this.#schema.ensure(tx);
    if (!(await this.#store.hold(trx, key))) throw lost(lock);
  }

  /** Who holds it; null when nobody does. */
  async get(resourceId: string): Promise<Lock | null> {
    const id = resourceIdOf(resourceId);
    await this.#schema.ensure();
    return (await this.#store.get(id)) ?? null;
  }

  /** The locks that somebody holds now, in the order of their resource ids. */
  async list(options: ListLocksOptions = {}): Promise<Lock[]> {
    const filter = parse(listLocksSchema, given(options), "options");
    await this.#schema.ensure();
    return this.#store.list(filter);
  }

  /** Deletes up to 200 rows of locks that nobody has held for a day; supervisors call it. Tokens go on growing. */
  async purge(): Promise<number> {
    await this.#schema.ensure();
    return this.#store.purge();
  }

  /**
   * Runs a function while the lock, or all of these locks, are held. They are renewed every third of `ttlMs`; when
   * one is lost, or cannot be confirmed before its end, the signal aborts. They are released however it ends.
   *
   * @throws LockTaken when they were not had within `waitMs`, LockLost when they were lost before the function ended
   */
  async withLock<T>(
    resources: string | readonly string[],
    options: AcquireOptions,
    run: (context: LockContext) => Promise<T> | T,
  ): Promise<T> {
    const settings = parse(acquireSchema, given(options), "options");
    const wanted = typeof resources === "string" ? [resources] : resources;
    const ids = parse(resourceIds, wanted, "resourceIds");
    const { locks, asked } = await this.#had(ids, settings);
    const held = new HeldLocks(locks, asked, {
      ttlMs: settings.ttlMs,
      renew: (lock, ttlMs) => this.#store.renew(lock, ttlMs),
    });
    try {
      const result = await run(this.#context(held, settings.signal));
      held.check();
      return result;
    } catch (error) {
      // Whatever the work ended with: that it was not the owner any more is what the caller has to know.
      if (held.signal.aborted && !(error instanceof LockLost)) {
        throw lost(locks[0] as Lock, { cause: error });
      }
      throw error;
    } finally {
      await held.end();
      await this.#letGo(held.locks);
    }
  }

  async #had(
    ids: readonly string[],
    settings: AcquireSettings,
  ): Promise<{ locks: Lock[]; asked: number }> {
    const before = performance.now();
    const answer = await this.#acquire(ids, settings);
    if (!Array.isArray(answer)) {
      const { resourceId, expiresAt } = answer;
      throw new LockTaken(`somebody else holds "${resourceId}"`, {
        details: { resourceId, ...(expiresAt === 0 ? {} : { expiresAt }) },
      });
    }
    if (settings.waitMs === 0) return { locks: answer, asked: before };
    // After a wait nobody knows when the last look began: confirmed anew, from a moment that is known.
    const asked = performance.now();
    const locks: Lock[] = [];
    for (const lock of answer) locks.push(await this.renew(lock, settings.ttlMs));
    return { locks, asked };
  }

  #context(held: HeldLocks, signal: AbortSignal | undefined): LockContext {
    const [first] = held.locks;
    return {
      signal: signal === undefined ? held.signal : AbortSignal.any([held.signal, signal]),
      fencingToken: (first as Lock).fencingToken,
      get locks() {
        return held.locks;
      },
      check: () => held.check(),
      tx: (run) =>
        translated(this.#dialect, () =>
          transaction(this.#dialect, this.#knex as Db, async (trx) => {
            for (const lock of held.locks) {
              if (!(await this.#store.hold(trx, lock))) {
                held.lose("somebody else may hold the lock");
                throw lost(lock);
              }
            }
            return run(trx as Tx);
          }),
        ),
    };
  }

  /** What cannot be released expires. */
  async #letGo(locks: readonly Lock[]): Promise<void> {
    const released = Promise.all(locks.map((lock) => this.release(lock))).catch(() => undefined);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise((resolve) => {
      timer = setTimeout(resolve, LONGEST_RELEASE_MS);
    });
    await Promise.race([released, late]);
    clearTimeout(timer);
  }
}

function lost(lock: Lock, options: { cause?: unknown } = {}): LockLost {
  const { resourceId, fencingToken, ownerId } = lock;
  return new LockLost(`"${resourceId}" is no longer held with the token ${fencingToken}`, {
    ...options,
    details: { resourceId, fencingToken, ownerId },
  });
}
