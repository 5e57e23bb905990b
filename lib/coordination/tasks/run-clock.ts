/** What a timer of this process can count: a longer run is the sweep's to end. */
const LONGEST_TIMER_MS = 2_147_483_647;

/** Tells a run that it took longer than it may. It stands still while the run waits for an answer. */
export class RunClock {
  readonly #over: () => void;
  #leftMs: number | null = null;
  #since = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(over: () => void) {
    this.#over = over;
  }

  /** @param leftMs null: there is no limit */
  start(leftMs: number | null): void {
    this.stop();
    this.#leftMs = leftMs;
    this.#since = performance.now();
    if (leftMs === null || leftMs > LONGEST_TIMER_MS) return;
    this.#timer = setTimeout(this.#over, leftMs);
    this.#timer.unref();
  }

  /** Stands still, and returns how much is left. */
  hold(): number | null {
    if (this.#timer !== undefined && this.#leftMs !== null) {
      this.#leftMs = Math.max(1, Math.round(this.#leftMs - (performance.now() - this.#since)));
    }
    this.stop();
    return this.#leftMs;
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
