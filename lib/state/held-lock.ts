import { LockLost } from "../errors.ts";
import type { Lock } from "../protocol/locks.ts";
import { settledWithin } from "../queue/worker/pace.ts";

/** A renewal that fails is tried again after this, as long as the lock is certain to be ours. */
const RETRY_MS = 250;
/** A database that does not answer must not keep whoever has finished. */
const LONGEST_END_MS = 5_000;

export interface Keeping {
  readonly ttlMs: number;
  /** Undefined when the lock is lost. */
  renew(lock: Lock, ttlMs: number): Promise<Lock | undefined>;
}

/**
 * Keeps locks by renewing them, and tells when that is over. It believes in a lock only as long as a renewal was
 * confirmed less than a time to live before its own call, by a clock that goes on while the process is frozen: so it
 * stops believing before the database lets anybody else take the lock.
 */
export class HeldLocks {
  readonly #keeping: Keeping;
  readonly #stop = new AbortController();
  readonly #lost = new AbortController();
  #locks: readonly Lock[];
  /** Certain until then, by performance.now(). */
  #until: number;
  #timer: NodeJS.Timeout | undefined;
  #watch: NodeJS.Timeout | undefined;
  #renewing: Promise<void> | undefined;

  /** @param asked when the locks were asked for, by performance.now() */
  constructor(locks: readonly Lock[], asked: number, keeping: Keeping) {
    this.#keeping = keeping;
    this.#locks = locks;
    this.#until = asked + keeping.ttlMs;
    this.#arm();
    this.#schedule(keeping.ttlMs / 3);
  }

  get signal(): AbortSignal {
    return this.#lost.signal;
  }

  get locks(): readonly Lock[] {
    return this.#locks;
  }

  /** @throws LockLost, also when no timer has run yet since the process was frozen */
  check(): void {
    if (performance.now() >= this.#until) this.lose("the lock was not renewed in time");
    this.#lost.signal.throwIfAborted();
  }

  lose(why: string): void {
    if (this.#lost.signal.aborted || this.#stop.signal.aborted) return;
    const [lock] = this.#locks;
    this.#lost.abort(
      new LockLost(`${lock?.resourceId}: ${why}`, {
        details: {
          resourceId: lock?.resourceId,
          fencingToken: lock?.fencingToken,
          ownerId: lock?.ownerId,
        },
      }),
    );
    this.#clear();
  }

  /**
   * Ends the renewing; one under way is waited for, so that it cannot come after a release, but no longer than the
   * lock lasts: nobody knows when a silent database answers.
   */
  async end(): Promise<void> {
    this.#stop.abort();
    this.#clear();
    if (this.#renewing === undefined) return;
    await settledWithin(Math.min(LONGEST_END_MS, this.#until - performance.now()), this.#renewing);
  }

  #clear(): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#watch);
  }

  #arm(): void {
    clearTimeout(this.#watch);
    this.#watch = setTimeout(
      () => this.lose("the lock was not renewed in time"),
      Math.max(0, this.#until - performance.now()),
    );
  }

  #schedule(ms: number): void {
    this.#timer = setTimeout(() => {
      this.#renewing = this.#renew();
    }, ms);
  }

  async #renew(): Promise<void> {
    const { ttlMs } = this.#keeping;
    const asked = performance.now();
    // Thawed too late: what the database says now does not matter any more.
    if (asked >= this.#until) return this.lose("the lock was not renewed in time");
    const renewed: Lock[] = [];
    try {
      for (const lock of this.#locks) {
        const now = await this.#keeping.renew(lock, ttlMs);
        if (now === undefined) return this.lose("somebody else may hold the lock");
        renewed.push(now);
      }
    } catch {
      // The database is away. It may come back before the lock's end.
      if (!this.#over) this.#schedule(Math.min(RETRY_MS, ttlMs / 6));
      return;
    }
    if (this.#over) return;
    // It lapsed while we asked, and our work was told so.
    if (performance.now() >= this.#until) return this.lose("the lock was not renewed in time");
    this.#locks = renewed;
    this.#until = asked + ttlMs;
    this.#arm();
    this.#schedule(ttlMs / 3);
  }

  get #over(): boolean {
    return this.#stop.signal.aborted || this.#lost.signal.aborted;
  }
}
