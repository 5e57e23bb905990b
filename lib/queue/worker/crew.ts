import { LeaseLost } from "../../errors.ts";
import { load } from "../content/load.ts";
import type { QueueCore } from "../core.ts";
import { endsFirst } from "../delivery/delivery.ts";
import { causing } from "../delivery/lineage.ts";
import type { HandlerRetry } from "../retries/retries.ts";
import type { LeaseKeeper } from "./leases.ts";
import type { Reports } from "./reports.ts";
import type { Run, WorkHandler } from "./run.ts";
import type { Settlement } from "./settlement.ts";
import { Starts } from "./starts.ts";

/** One statement gives back at most this many: on SQL Server more would lock the whole table. */
const MOST_AT_ONCE = 500;

export interface CrewOptions {
  readonly core: QueueCore;
  readonly handler: WorkHandler;
  readonly concurrency: number;
  readonly retry: HandlerRetry;
  readonly leases: LeaseKeeper;
  readonly settlement: Settlement;
  readonly reports: Reports;
  /** Called when there may be room for more. */
  readonly changed: () => void;
  /** Called when a message of this mailbox is known to fall due after so long. */
  readonly dueAfter: (ms: number) => void;
}

interface Failure {
  readonly error: unknown;
  /** The handler was not called: the content could not be fetched, or it may not start (any more). */
  readonly before?: "loaded" | "started";
}

/** The runs in a worker's hands: starts them in order, a bounded number at once, and settles how they end. */
export class Crew {
  readonly #options: CrewOptions;
  /** Claimed ahead, in the order to start in. */
  readonly #waiting: Run[] = [];
  readonly #running = new Map<Run, Promise<void>>();
  readonly #settling = new Set<Promise<void>>();
  /** The latest run of each message here, until its end is written down. */
  readonly #bySequence = new Map<number, Run>();
  readonly counts = { processed: 0, failed: 0, lost: 0, released: 0 };
  #averageMs: number | undefined;
  #closed = false;
  readonly #starts: Starts;

  constructor(options: CrewOptions) {
    this.#options = options;
    this.#starts = new Starts(options.core, options.leases.leaseMs);
  }

  get running(): number {
    return this.#running.size;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  get settling(): number {
    return this.#settling.size;
  }

  /** How long handlers took lately, in milliseconds; undefined before the first one ended. */
  get averageMs(): number | undefined {
    return this.#averageMs;
  }

  /** Starts these as soon as there is room, after those that wait already. */
  take(runs: readonly Run[]): void {
    for (const run of runs) {
      // Handed out again: an earlier run of it here is over, whether it knows or not.
      this.#bySequence.get(run.message.sequence)?.lose();
      this.#bySequence.set(run.message.sequence, run);
      this.#options.core.retries.under(run.message, this.#options.retry);
      this.#options.leases.add(run);
      this.#waiting.push(run);
    }
    this.#startWaiting();
  }

  /** Gives back what has not started. */
  async giveBackWaiting(tookMs = 0): Promise<void> {
    // Handlers turned out slower than the average said: claim less ahead.
    if (this.#averageMs !== undefined) this.#averageMs = Math.max(this.#averageMs, tookMs);
    await this.giveBack(this.#waiting.splice(0));
  }

  /** Nothing is started any more. */
  close(): void {
    this.#closed = true;
  }

  /** Until every handler has returned. */
  async handlersDone(): Promise<void> {
    await Promise.all(this.#running.values());
  }

  /** Until the ends of all handlers that have returned are written down. */
  async settled(): Promise<void> {
    await Promise.all(this.#settling);
  }

  abortRunning(reason: unknown): void {
    for (const run of this.#running.keys()) run.abort(reason);
  }

  /** Gives back the messages of handlers that still run; what these do from now on counts for nothing. */
  async giveBackRunning(): Promise<void> {
    await this.giveBack([...this.#running.keys()]);
  }

  /** The messages can be claimed at once, and this run does not count. */
  async giveBack(runs: readonly Run[]): Promise<void> {
    const { core, leases, settlement } = this.#options;
    for (const run of runs) {
      run.state = "ended";
      leases.remove(run);
      this.#forget(run);
    }
    const claims = runs.filter((run) => !run.lost && !run.settled).map(({ message }) => message);
    for (let n = 0; n < claims.length; n += MOST_AT_ONCE) {
      const some = claims.slice(n, n + MOST_AT_ONCE);
      const outcomes = await settlement.settle(
        () => core.release(core.knex, some, 0, "not finished here"),
        (answer) => answer,
      );
      if (Array.isArray(outcomes)) {
        this.counts.released += outcomes.filter((outcome) => outcome === "done").length;
      }
    }
  }

  #startWaiting(): void {
    const returned: Run[] = [];
    while (this.#running.size < this.#options.concurrency && !this.#closed) {
      const run = this.#waiting.shift();
      if (run === undefined) break;
      if (run.lost) {
        this.counts.lost++;
        this.#options.leases.remove(run);
        this.#forget(run);
      } else if (run.signal.aborted || run.expired) {
        // The next claim buries what has expired by the database's own clock.
        returned.push(run);
      } else {
        this.#running.set(run, this.#run(run));
      }
    }
    if (returned.length > 0) this.#track(this.giveBack(returned).catch(() => undefined));
  }

  async #run(run: Run): Promise<void> {
    run.state = "running";
    const begun = performance.now();
    let failure: Failure | undefined;
    // The caller notes this run first: a handler may be done before it returns.
    await undefined;
    try {
      if (run.message.packed !== null) failure = await this.#load(run);
      if (failure === undefined && endsFirst(run.message)) failure = await this.#finish(run);
      if (failure === undefined) {
        await causing(run.message, () => this.#options.handler(run.message, run.context));
      }
    } catch (error) {
      failure = { error };
    }
    const tookMs = performance.now() - begun;
    this.#averageMs = (this.#averageMs ?? tookMs) * 0.8 + tookMs * 0.2;
    this.#track(
      this.#end(run, failure, tookMs).catch((error: unknown) => this.#unsettled(run, error)),
    );
    this.#running.delete(run);
    this.#startWaiting();
    this.#options.changed();
  }

  /** What keeps the handler from being called: the content did not come, or too late. */
  async #load(run: Run): Promise<Failure | undefined> {
    try {
      await load(this.#options.core, run.message);
    } catch (error) {
      return { error, before: "loaded" };
    }
    return run.lost || run.signal.aborted || run.expired
      ? { error: undefined, before: "started" }
      : undefined;
  }

  /** Acknowledges a message before its run. What keeps the handler from being called: that is not confirmed. */
  async #finish(run: Run): Promise<Failure | undefined> {
    // From here on an extension that finds nothing is no loss.
    run.settled = true;
    try {
      const outcome = await this.#starts.finish(run.message);
      if (outcome === "done") return undefined;
      if (outcome !== "held") run.lose();
    } catch (error) {
      this.#options.reports.tell(error, "settle", run.message);
    }
    run.settled = false;
    return { error: undefined, before: "started" };
  }

  /** Waited for by a stop. `settled` must not reject. */
  #track(settled: Promise<void>): void {
    this.#settling.add(settled);
    void settled.finally(() => {
      this.#settling.delete(settled);
      this.#options.changed();
    });
  }

  /** Its end could not even be put into words for the database: another run may fare better. */
  async #unsettled(run: Run, error: unknown): Promise<void> {
    this.#options.reports.tell(error, "settle", run.message);
    // Where this fails too, the lease frees the message.
    await this.giveBack([run]).catch(() => undefined);
  }

  async #end(run: Run, failure: Failure | undefined, tookMs: number): Promise<void> {
    // Given back at the stop's deadline: what the handler did after that counts for nothing.
    if (run.state === "ended") return;
    run.state = "settling";
    this.#options.leases.remove(run);
    await run.ownSettling();
    await this.#settle(run, failure, tookMs);
    run.state = "ended";
    this.#forget(run);
  }

  async #settle(run: Run, failure: Failure | undefined, tookMs: number): Promise<void> {
    const { core, reports, settlement } = this.#options;
    const { message } = run;
    if (run.lost) {
      this.counts.lost++;
      return;
    }
    // What it settled in a transaction may be undone, whether it failed with it or went on: the receipt says so.
    // A rolled back nack or deferral is nothing that returning could make up for: its lease will pass.
    const unsure = run.settledInTransaction && (failure !== undefined || run.ackedInTransaction);
    if (run.settled && !unsure) {
      this.counts[message.finished && failure !== undefined ? "failed" : "processed"]++;
      if (failure !== undefined) reports.tell(failure.error, "handle", message);
      if (message.finished) await core.delivery.ran(message, failure).catch(() => undefined);
      return;
    }
    if (failure === undefined || run.twice) {
      const outcome = await settlement.ack(message);
      const done = outcome === "done" || (outcome === "gone" && run.settled);
      this.counts[done ? "processed" : "lost"]++;
      return;
    }
    // Not the message's fault: the database was away too long, or the worker stops.
    if (run.signal.aborted || failure.before === "started") {
      await this.giveBack([run]);
      return;
    }
    if (failure.before === "loaded") {
      this.counts.failed++;
      reports.tell(failure.error, "load", message);
      await settlement.settle(
        () => core.notLoaded(message, failure.error),
        () => undefined,
      );
      return;
    }
    reports.tell(failure.error, "handle", message);
    const retry = !rejects(failure.error);
    const failed = await settlement.settle(
      () => core.fail(core.knex, message, failure.error, { retry, durationMs: tookMs }),
      (answer) => answer,
    );
    const parked = typeof failed === "object" && failed.parked;
    this.counts[parked ? "released" : "failed"]++;
    if (typeof failed === "object" && failed.outcome === "retried") {
      this.#options.dueAfter(failed.delayMs);
    }
  }

  #forget(run: Run): void {
    const { sequence } = run.message;
    if (this.#bySequence.get(sequence) === run) this.#bySequence.delete(sequence);
  }
}

/** Whether a further run is pointless. A closed queue and a lost lease say nothing about the message. */
function rejects(error: unknown): boolean {
  try {
    const { retryable, code } = (error ?? {}) as { retryable?: unknown; code?: unknown };
    return retryable === false && code !== "CLOSED" && !(error instanceof LeaseLost);
  } catch {
    // What cannot be read says nothing.
    return false;
  }
}
