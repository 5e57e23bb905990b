import { setTimeout as sleep } from "node:timers/promises";
import { MessageTimeout } from "../errors.ts";

export type Metrics = Record<string, unknown>;

/** What an agent tells of itself with every heartbeat: at once, or soon. */
export type MetricsHook = () => Metrics | undefined | Promise<Metrics | undefined>;

const LONGEST_WAIT_MS = 1_000;

/** Asks the hook for metrics. It never throws and never waits long: what the hook does must not stop the heart. */
export class BeatMetrics {
  readonly #hook: MetricsHook | undefined;
  readonly #waitMs: number;
  readonly #tell: (error: unknown) => void;
  /** A call that took too long, and has not ended yet. */
  #pending: Promise<unknown> | undefined;
  /** What was told last, so that one that stays is told once. */
  #told: string | undefined;

  /** @param intervalMs between two heartbeats; an answer that takes as long is not waited for */
  constructor(hook: MetricsHook | undefined, intervalMs: number, tell: (error: unknown) => void) {
    this.#hook = hook;
    this.#waitMs = Math.min(LONGEST_WAIT_MS, intervalMs);
    this.#tell = tell;
  }

  /** The metrics of now; undefined without any. */
  async read(): Promise<Metrics | undefined> {
    // Not called again before it has ended, so that calls that hang do not heap up.
    if (this.#hook === undefined || this.#pending !== undefined) return undefined;
    try {
      return await this.#inTime(Promise.resolve(this.#hook()));
    } catch (error) {
      this.failed(error);
      return undefined;
    }
  }

  async #inTime(asked: Promise<Metrics | undefined>): Promise<Metrics | undefined> {
    const timer = new AbortController();
    const late = sleep(this.#waitMs, "late" as const, { ref: false, signal: timer.signal });
    try {
      const answer = await Promise.race([asked, late]);
      if (answer !== "late") return answer;
    } finally {
      late.catch(() => undefined);
      timer.abort();
    }
    const ended = () => {
      this.#pending = undefined;
    };
    this.#pending = asked.then(ended, ended);
    throw new MessageTimeout(`the metrics hook took longer than ${this.#waitMs} ms`);
  }

  /** The heartbeat took these metrics. */
  taken(): void {
    this.#told = undefined;
  }

  /** The hook failed, or the heartbeat refused what it returned. */
  failed(error: unknown): void {
    const said = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    // Figures change from time to time; the cause stays.
    const cause = said.replace(/\d+/g, "#");
    if (cause === this.#told) return;
    this.#told = cause;
    this.#tell(error);
  }
}
