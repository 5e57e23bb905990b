/** Sends that follow closer than this are no lone ones. */
const APART_MS = 5;
/** One lone send in so many goes without its wake-up, to know how long that takes: each is later by a statement. */
const COMPARED = 64;
/** Rides that take longer than this many times as long as sends without, and this much, wait for each other. */
const SLOW_FACTOR = 1.4;
const SLOW_MS = 0.8;
/** So many rides tell what they take. */
const TELLING = 12;
/** After so many the pauses are short again. */
const WELL = 50;
const SHORTEST_PAUSE_MS = 2_000;
const LONGEST_PAUSE_MS = 60_000;
/** Where the server refuses a wake-up in the statement, it is not asked again for so long. */
const REFUSED_PAUSE_MS = 600_000;

/** How far one measurement moves what is typical. */
const STEP = 1.1;

/** About the median of what was measured lately. */
class Typical {
  ms: number | undefined;
  count = 0;

  add(ms: number): void {
    this.count += 1;
    this.ms = this.ms === undefined ? ms : this.ms * (ms > this.ms ? STEP : 1 / STEP);
  }
}

/**
 * Whether a lone send takes its wake-up along in its own statement, which saves a statement, a commit and a third of
 * the time until another process hears of it. But such a commit holds a lock of the whole server until it is on disk:
 * senders that are many or quick would wait for each other's disks. So it is done only at a slow pace, and no longer
 * when it takes longer than a send without: each process finds out for itself.
 */
export class Rides {
  /** An ordinary wake-up has shown that the server can do it at all. */
  #proven = false;
  #lastSendAt = Number.NEGATIVE_INFINITY;
  #pausedUntil = 0;
  #pauseMs = SHORTEST_PAUSE_MS;
  #turn = 0;
  #alone = new Typical();
  #riding = new Typical();

  /** Something is sent now. Whether it is alone, as far as the pace tells, and may take its wake-up along. */
  sending(now: number): { alone: boolean; mayRide: boolean } {
    const alone = now - this.#lastSendAt >= APART_MS;
    this.#lastSendAt = now;
    if (!alone || !this.#proven || now < this.#pausedUntil) return { alone, mayRide: false };
    this.#turn = (this.#turn + 1) % COMPARED;
    return { alone, mayRide: this.#turn !== 0 };
  }

  /** An ordinary wake-up was taken, or not. */
  told(well: boolean): void {
    this.#proven = well;
  }

  refused(now: number): void {
    this.#pausedUntil = now + REFUSED_PAUSE_MS;
  }

  /** How long a lone send took without its wake-up. */
  walked(ms: number): void {
    this.#alone.add(ms);
  }

  /** And how long with it. */
  rode(ms: number, now: number): void {
    this.#riding.add(ms);
    const usualMs = this.#alone.ms ?? Number.POSITIVE_INFINITY;
    const { ms: ridingMs = 0, count } = this.#riding;
    if (count < TELLING) return;
    if (ridingMs <= SLOW_FACTOR * usualMs + SLOW_MS) {
      if (count >= WELL) this.#pauseMs = SHORTEST_PAUSE_MS;
      return;
    }
    this.#riding = new Typical();
    this.#pausedUntil = now + this.#pauseMs * (1 + Math.random() / 4);
    this.#pauseMs = Math.min(2 * this.#pauseMs, LONGEST_PAUSE_MS);
  }
}
