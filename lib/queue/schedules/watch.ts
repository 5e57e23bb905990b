import type { QueueCore } from "../core.ts";
import { within } from "../worker/pace.ts";
import { fireDueSchedules, SCHEDULES_CHANGED } from "./fire.ts";

/** Schedules per look, so that a round is bounded. */
const STEP = 50;
/** How long a look is put off at most: another process may have set a schedule that is due before. */
const LONGEST_MS = 5_000;
/** The same where there was no schedule at all. */
const LONGEST_WITHOUT_MS = 10_000;
/** The same where it would be heard of. */
const LONGEST_HEARING_MS = 30_000;
/** How often it looks at most while others write, whatever they write. */
const UNCERTAIN_MS = 2_000;
/** Not sooner, so that a clock that ticks coarsely makes nobody spin. */
const SHORTEST_MS = 20;
/** A round is bounded; one that takes longer than this has lost its connection. */
const PATIENCE_MS = 60_000;

/** One watch per queue of a process, however many workers it has. */
const watches = new WeakMap<QueueCore, ScheduleWatch>();

/** Fires schedules as they fall due, until the returned call; that resolves when the round under way has ended. */
export function watchSchedules(core: QueueCore): () => Promise<void> {
  let watch = watches.get(core);
  if (watch === undefined) {
    watch = new ScheduleWatch(core);
    watches.set(core, watch);
  }
  return watch.join();
}

/** Looks when the next schedule falls due, and every few seconds: an idle process asks little. */
class ScheduleWatch {
  readonly #core: QueueCore;
  #users = 0;
  #timer: NodeJS.Timeout | undefined;
  #unlisten: (() => void) | undefined;
  #round: Promise<unknown> | undefined;
  #again = false;
  #lookedAt = 0;
  #dueAt = Number.POSITIVE_INFINITY;

  constructor(core: QueueCore) {
    this.#core = core;
  }

  join(): () => Promise<void> {
    if (this.#users++ === 0) {
      this.#unlisten = this.#core.listen(SCHEDULES_CHANGED, (certain) => this.#heard(certain));
      // Soon, but after the first claims.
      this.#arm(Math.random() * 250);
    }
    let left = false;
    return async () => {
      if (!left && --this.#users === 0) {
        clearTimeout(this.#timer);
        this.#unlisten?.();
      }
      left = true;
      await this.#round;
    };
  }

  #heard(certain: boolean): void {
    // It may hear of every commit of others: most are about no schedule.
    const at = certain ? 0 : this.#lookedAt + UNCERTAIN_MS;
    if (at < this.#dueAt) this.#arm(at - performance.now());
  }

  #arm(ms: number): void {
    this.#dueAt = performance.now() + ms;
    clearTimeout(this.#timer);
    if (this.#users === 0) return;
    this.#timer = setTimeout(() => void this.#turn(), Math.max(SHORTEST_MS, ms));
    this.#timer.unref();
  }

  async #turn(): Promise<void> {
    // Woken during a round: it may have looked already.
    if (this.#round !== undefined) {
      this.#again = true;
      return;
    }
    this.#lookedAt = performance.now();
    let pause = LONGEST_MS;
    const round = fireDueSchedules(this.#core, STEP).then(({ nextInMs }) => {
      // A little apart, so that not all processes come for one schedule in the same moment.
      const hears = this.#core.hears;
      const unset = hears ? LONGEST_HEARING_MS : LONGEST_WITHOUT_MS;
      const next =
        nextInMs === null ? unset : Math.min(nextInMs, hears ? LONGEST_HEARING_MS : LONGEST_MS);
      pause = next + Math.random() * 100;
    });
    // Whatever goes wrong, the next round tries again.
    this.#round = round.catch(() => undefined);
    // As long as the connection is there, it keeps the process alive; what may never be answered must not.
    await within(PATIENCE_MS, "a look for schedules", this.#round).catch(() => undefined);
    this.#round = undefined;
    this.#arm(this.#again ? 0 : pause);
    this.#again = false;
  }
}
