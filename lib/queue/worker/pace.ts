import { setTimeout as sleep } from "node:timers/promises";
import { ServiceUnavailable } from "../../errors.ts";

/** The longest pause between two tries to reach a database that does not answer. */
const LONGEST_BACK_OFF_MS = 5_000;

/** How long to leave a failing database alone: growing, and random, so that not all workers return at once. */
export function backOffMs(failures: number): number {
  return (
    Math.min(LONGEST_BACK_OFF_MS, 50 * 2 ** Math.min(failures, 10)) * (0.5 + Math.random() / 2)
  );
}

/** A pause that ends early, and without an error, when the signal aborts. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => undefined);
}

/**
 * Waits for an answer, but not for ever: a connection whose other end is gone may stay silent for a quarter of
 * an hour, and a worker must go on with another one.
 */
export async function within<T>(ms: number, what: string, answer: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const silence = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new ServiceUnavailable(`the database did not answer to ${what} within ${ms} ms`));
    }, ms);
    // The connection keeps the process alive while there is hope; after a stop nothing must.
    timer.unref();
  });
  try {
    return await Promise.race([answer, silence]);
  } finally {
    clearTimeout(timer);
  }
}

/** Resolves when the work is done, however it ended, or after `ms`. True when it was done. */
export async function settledWithin(ms: number, work: Promise<unknown>): Promise<boolean> {
  const done = work.then(
    () => true,
    () => true,
  );
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), Math.max(0, ms));
  });
  return Promise.race([done, late]).finally(() => clearTimeout(timer));
}

/** One sleeper, and whoever wants to wake it. A ring while nobody sleeps ends the next sleep at once. */
export class Bell {
  #rung = false;
  #wake: (() => void) | undefined;

  ring(): void {
    this.#rung = true;
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  /** Until the next ring, or for `ms`. */
  async wait(ms: number): Promise<void> {
    if (!this.#rung) {
      await new Promise<void>((resolve) => {
        const timer = ms === Number.POSITIVE_INFINITY ? undefined : setTimeout(resolve, ms);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    this.#rung = false;
  }
}

/** Any number of sleepers, all woken by the next ring. */
export class Signal {
  #next: Promise<void> | undefined;
  #wake: (() => void) | undefined;

  ring(): void {
    this.#wake?.();
    this.#next = undefined;
    this.#wake = undefined;
  }

  next(): Promise<void> {
    this.#next ??= new Promise((resolve) => {
      this.#wake = resolve;
    });
    return this.#next;
  }
}

/** How long there may be messages that nobody told of, once there were some. */
const UNTOLD_MS = 10_000;

/**
 * When to look into the mailbox next: at once while there is work, less and less often while there is none. Where every
 * message is told of there is no use in looking again and again after one: it is idle at once.
 */
export class Pace {
  readonly #min: number;
  readonly #max: number;
  #pause: number;
  #nextAt = 0;
  #expectedAt = Number.POSITIVE_INFINITY;
  #woken = false;
  /** Whether what the look under way finds was to be expected. */
  #told = false;
  /** Until then there may be messages that nobody tells of. */
  #untoldUntil = 0;
  failures = 0;

  constructor({ min, max }: { min: number; max: number }) {
    this.#min = min;
    this.#max = max;
    this.#pause = min;
  }

  /** Milliseconds until the next look. */
  dueInMs(now: number): number {
    // Nobody's news make a database answer that does not.
    const at = this.failures > 0 ? this.#nextAt : Math.min(this.#nextAt, this.#expectedAt);
    return Math.max(0, at - now);
  }

  /** Something may have arrived; also while a look is under way that may have missed it. */
  wake(): void {
    this.#woken = true;
    if (this.failures === 0) this.#nextAt = 0;
  }

  /** A message is known to fall due at this time. Only the soonest is remembered; polling finds the rest. */
  expect(at: number): void {
    this.#expectedAt = Math.min(this.#expectedAt, at);
  }

  /** Further messages may come within this time that nobody tells of. */
  untold(now: number, ms = UNTOLD_MS): void {
    this.#untoldUntil = Math.max(this.#untoldUntil, now + ms);
  }

  looking(now: number): void {
    if (this.#woken || this.#expectedAt <= now) this.#told = true;
    this.#woken = false;
    if (this.#expectedAt <= now) this.#expectedAt = Number.POSITIVE_INFINITY;
  }

  /** `hears`: whether news of other processes arrives now. */
  found(now: number, full: boolean, hears = false): void {
    this.failures = 0;
    // Its sender tells nobody, or too many came to be told of one by one.
    if (!this.#told) this.untold(now);
    // And what this batch had no room for is no surprise.
    this.#told = full;
    this.#pause = this.#rests(now, hears) && !full ? this.#max : this.#min;
    this.#nextAt = full || this.#woken ? 0 : now + this.#min;
  }

  #rests(now: number, hears: boolean): boolean {
    return hears && now >= this.#untoldUntil;
  }

  /** So many looks found nothing that one is worth it before the next claim. Not after news, which is quicker so. */
  get idle(): boolean {
    return this.#pause === this.#max && !this.#woken && this.failures === 0;
  }

  /** A look said that nothing is there. */
  rest(now: number, ms: number): void {
    this.failures = 0;
    this.#told = false;
    this.#nextAt = this.#woken ? 0 : now + ms * (1 + Math.random() / 4);
  }

  /** As `found`, but there was nothing. */
  empty(now: number, hears = false): void {
    this.failures = 0;
    this.#told = false;
    if (this.#woken) this.#pause = this.#min;
    this.#nextAt = this.#woken ? 0 : now + Math.max(this.#min, Math.random() * this.#pause);
    this.#pause = this.#rests(now, hears) ? this.#max : Math.min(this.#pause * 2, this.#max);
  }

  failed(now: number): void {
    this.failures++;
    this.#nextAt = now + backOffMs(this.failures);
  }
}
