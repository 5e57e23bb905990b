import { ValidationFailed } from "../errors.ts";

interface Sleeper {
  readonly at: number;
  readonly wake: () => void;
}

export type InstantInput = number | string | Date;

const MOST_MS = 8.64e15;

/** Any way of naming an instant, as milliseconds since the epoch. */
export function instantOf(value: InstantInput, name: string): number {
  const at = typeof value === "number" ? value : new Date(value).getTime();
  if (!Number.isInteger(at) || at < 0 || at > MOST_MS) {
    throw new ValidationFailed(`${name}: expected an instant, got ${String(value)}`);
  }
  return at;
}

export function durationOf(value: number, name: string): number {
  if (!Number.isInteger(value) || value < 0 || value > MOST_MS) {
    throw new ValidationFailed(
      `${name}: expected milliseconds, 0 or more, in a whole number; got ${String(value)}`,
    );
  }
  return value;
}

/** The instant at which a test's world stands, and whoever sleeps in it. */
export class VirtualTime {
  #now: number;
  readonly #sleepers = new Set<Sleeper>();

  constructor(now: number) {
    this.#now = now;
  }

  get now(): number {
    return this.#now;
  }

  /** The next instant at which somebody wakes; infinity when nobody sleeps. */
  get nextWake(): number {
    return Math.min(...[...this.#sleepers].map(({ at }) => at), Number.POSITIVE_INFINITY);
  }

  /** Moves on, never back, and wakes whose time has come, the earliest first. */
  moveTo(at: number): void {
    this.#now = Math.max(this.#now, at);
    for (const sleeper of [...this.#sleepers].sort((a, b) => a.at - b.at)) {
      if (sleeper.at > this.#now) break;
      this.#sleepers.delete(sleeper);
      sleeper.wake();
    }
  }

  /** Until the instant has come, or the signal aborts: then it rejects with the signal's reason. */
  sleepUntil(at: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      if (at <= this.#now) return resolve();
      const aborted = () => {
        this.#sleepers.delete(sleeper);
        reject(signal?.reason);
      };
      const sleeper: Sleeper = {
        at,
        wake: () => {
          signal?.removeEventListener("abort", aborted);
          resolve();
        },
      };
      this.#sleepers.add(sleeper);
      signal?.addEventListener("abort", aborted, { once: true });
    });
  }

  /** Everybody wakes: the world ends. */
  end(): void {
    for (const sleeper of this.#sleepers) sleeper.wake();
    this.#sleepers.clear();
  }
}
