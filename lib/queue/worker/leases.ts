import type { Settled } from "../../store/settling.ts";
import type { QueueCore } from "../core.ts";
import { within } from "./pace.ts";
import type { Extender, Run } from "./run.ts";

/** One statement extends at most this many leases: on SQL Server more would lock the whole table. */
const MOST_AT_ONCE = 500;

interface Asked {
  progress: string | null;
  readonly answers: ((result: Settled | Error) => void)[];
}

/**
 * Keeps the leases of a worker's runs: one timer, one statement for all. What falls due or is asked for while
 * a statement is under way goes with the next one.
 */
export class LeaseKeeper implements Extender {
  readonly leaseMs: number;
  readonly #core: QueueCore;
  readonly #report: (error: unknown) => void;
  readonly #runs: Iterable<Run>;
  #asked = new Map<Run, Asked>();
  #busy = false;
  #failing = false;
  #stopped = false;
  #timer: NodeJS.Timeout | undefined;
  #wakeAt = Number.POSITIVE_INFINITY;
  #extendAt = Number.POSITIVE_INFINITY;

  /** @param runs those whose leases are kept as long as they are open */
  constructor(
    core: QueueCore,
    leaseMs: number,
    runs: Iterable<Run>,
    report: (error: unknown) => void,
  ) {
    this.#core = core;
    this.leaseMs = leaseMs;
    this.#runs = runs;
    this.#report = report;
  }

  /** There is one more. */
  added(run: Run): void {
    if (this.#timer === undefined) this.#extendAt = performance.now() + this.#period();
    if (Math.min(run.leaseUntil, this.#extendAt) < this.#wakeAt) this.#arm();
  }

  /** Makes one lease longer now, with a progress to keep. Rejects when the database does not answer. */
  extend(run: Run, progress: string): Promise<Settled> {
    return new Promise((resolve, reject) => {
      this.#ask(run, progress).answers.push((result) => {
        if (result instanceof Error) reject(result);
        else resolve(result);
      });
      void this.#flush();
    });
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** A third of the lease, or a little less, so that workers which started together do not stay together. */
  #period(): number {
    return (this.leaseMs / 3) * (0.8 + Math.random() * 0.2);
  }

  #ask(run: Run, progress: string | null): Asked {
    let asked = this.#asked.get(run);
    if (asked === undefined) {
      asked = { progress: null, answers: [] };
      this.#asked.set(run, asked);
    }
    asked.progress = progress ?? asked.progress;
    return asked;
  }

  #arm(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#wakeAt = Number.POSITIVE_INFINITY;
    if (this.#stopped) return;
    let at = this.#extendAt;
    let open = false;
    for (const run of this.#runs) {
      open ||= run.open;
      if (run.held && !run.inTransaction) at = Math.min(at, run.leaseUntil);
    }
    if (!open) return;
    this.#wakeAt = at;
    this.#timer = setTimeout(() => this.#tick(), Math.max(1, at - performance.now()));
  }

  #tick(): void {
    const now = performance.now();
    const due = now >= this.#extendAt;
    for (const run of this.#runs) {
      if (!run.held) continue;
      // A transaction under way decides by its own acknowledgement, however long it takes.
      if (now >= run.leaseUntil && !run.inTransaction) run.expire();
      else if (due) this.#ask(run, run.noted ?? null);
    }
    if (due) {
      this.#extendAt = now + this.#period();
      void this.#flush();
    }
    this.#arm();
  }

  async #flush(): Promise<void> {
    if (this.#busy) return;
    this.#busy = true;
    try {
      while (this.#asked.size > 0) {
        const batch = [...this.#asked].slice(0, MOST_AT_ONCE);
        for (const [run] of batch) this.#asked.delete(run);
        await this.#send(batch);
      }
    } finally {
      this.#busy = false;
    }
  }

  async #send(batch: readonly (readonly [Run, Asked])[]): Promise<void> {
    const sentAt = performance.now();
    const items = batch.map(([{ message, leaseUntil }, { progress }]) => ({
      seq: message.sequence,
      receipt: message.receipt,
      // A handler that asked for a longer lease itself keeps it.
      lease_ms: Math.max(this.leaseMs, Math.ceil(leaseUntil - sentAt)),
      progress,
    }));
    try {
      const outcomes = await within(
        Math.max(1_000, this.leaseMs / 2),
        "an extension of leases",
        this.#core.store.extend(this.#core.knex, items),
      );
      this.#failing = false;
      for (const [n, [run, asked]] of batch.entries()) {
        const outcome = outcomes[n] ?? "gone";
        run.extended(outcome, sentAt, items[n]?.lease_ms ?? this.leaseMs);
        if (run.noted === asked.progress) run.noted = undefined;
        for (const answer of asked.answers) answer(outcome);
      }
    } catch (error) {
      if (!this.#failing) this.#report(error);
      this.#failing = true;
      for (const [, { answers }] of batch) {
        for (const answer of answers) answer(error as Error);
      }
      // Sooner than usual, while the leases still stand.
      this.#extendAt = performance.now() + Math.max(20, (this.leaseMs / 12) * Math.random());
      if (this.#timer !== undefined) this.#arm();
    }
  }
}
