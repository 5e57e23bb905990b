import type { QueueCore } from "./core.ts";
import { watchSchedules } from "./schedule-watch.ts";
import { upkeep } from "./upkeep.ts";
import { settledWithin } from "./worker-pace.ts";

const EVERY_MS = 5_000;
/** A round is bounded; one that takes longer than this has lost its connection. */
const PATIENCE_MS = 60_000;

/** When a worker of the same queue in this process began the last round: one at a time is enough. */
const lastBegun = new WeakMap<QueueCore, number>();

/** Looks after the tables about every five seconds, as long as a worker runs. */
export class UpkeepTimer {
  readonly #core: QueueCore;
  /** Schedules have a timer of their own: they are to fire when they are due, not up to five seconds later. */
  readonly #unwatch: () => Promise<void>;
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;
  #round: Promise<unknown> = Promise.resolve();

  constructor(core: QueueCore) {
    this.#core = core;
    this.#unwatch = watchSchedules(core);
    this.#arm();
  }

  /** No further round. Resolves when the one under way has ended. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await Promise.all([this.#round, this.#unwatch()]);
  }

  #arm(): void {
    if (this.#stopped) return;
    this.#timer = setTimeout(() => void this.#turn(), EVERY_MS * (0.75 + Math.random() / 2));
    this.#timer.unref();
  }

  async #turn(): Promise<void> {
    const now = performance.now();
    if (now - (lastBegun.get(this.#core) ?? Number.NEGATIVE_INFINITY) >= EVERY_MS / 2) {
      lastBegun.set(this.#core, now);
      // Whatever goes wrong, the next round tries again; claims do not depend on it.
      this.#round = upkeep(this.#core, { schedules: false }).catch(() => undefined);
      await settledWithin(PATIENCE_MS, this.#round);
    }
    this.#arm();
  }
}
