import { load } from "../content/load.ts";
import type { QueueCore } from "../core.ts";
import { endsFirst } from "../delivery/delivery.ts";
import { causing } from "../delivery/lineage.ts";
import type { HandlerRetry } from "../retries/retries.ts";
import { Ends, type Failure } from "./ends.ts";
import type { LeaseKeeper } from "./leases.ts";
import { Signal } from "./pace.ts";
import type { Reports } from "./reports.ts";
import type { Run, WorkHandler } from "./run.ts";
import type { Runs } from "./runs.ts";
import type { Settlement } from "./settlement.ts";
import { Starts } from "./starts.ts";

/** One statement gives back at most this many: on SQL Server more would lock the whole table. */
const MOST_AT_ONCE = 500;

/** Handlers that return at once are called one after the other for so long; then leases and answers have a turn. */
const LONGEST_TURN_MS = 20;

export interface CrewOptions {
  readonly core: QueueCore;
  readonly handler: WorkHandler;
  readonly concurrency: number;
  readonly retry: HandlerRetry;
  readonly leases: LeaseKeeper;
  /** Those in the worker's hands, until their ends are written down. */
  readonly runs: Runs;
  readonly settlement: Settlement;
  readonly reports: Reports;
  /** Called when there may be room for more. */
  readonly changed: () => void;
  /** Called when a message of this mailbox is known to fall due after so long. */
  readonly dueAfter: (ms: number) => void;
}

/** The runs in a worker's hands: starts them in order, a bounded number at once, and settles how they end. */
export class Crew {
  readonly #options: CrewOptions;
  /** Claimed ahead, in the order to start in. */
  readonly #waiting: Run[] = [];
  /** Handlers that have not returned. */
  #running = 0;
  readonly #handlersDone = new Signal();
  /** Ends that are being written down. */
  #settling = 0;
  readonly #settled = new Signal();
  #starting = false;
  readonly counts = { processed: 0, failed: 0, lost: 0, released: 0 };
  #averageMs: number | undefined;
  #closed = false;
  readonly #starts: Starts;
  readonly #ends: Ends;

  constructor(options: CrewOptions) {
    this.#options = options;
    this.#starts = new Starts(options.core, options.leases.leaseMs);
    this.#ends = new Ends({
      ...options,
      counts: this.counts,
      giveBack: (run) => this.giveBack([run]),
    });
  }

  get running(): number {
    return this.#running;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  get settling(): number {
    return this.#settling;
  }

  /** How long handlers took lately, in milliseconds; undefined before the first one ended. */
  get averageMs(): number | undefined {
    return this.#averageMs;
  }

  /** Starts these as soon as there is room, after those that wait already. */
  take(runs: readonly Run[]): void {
    const { leases, retry, runs: all } = this.#options;
    // What was never handed out before cannot be here already.
    const again = new Set(
      runs.flatMap(({ message }) => (message.receipt > 1 ? message.sequence : [])),
    );
    if (again.size > 0) {
      // An earlier run of it here is over, whether it knows or not.
      for (const run of all) if (again.has(run.message.sequence)) run.lose();
    }
    for (const run of runs) {
      run.message.handlerRetry = retry;
      all.add(run);
      leases.added(run);
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
    while (this.#running > 0) await this.#handlersDone.next();
  }

  /** Until the ends of all handlers that have returned are written down. */
  async settled(): Promise<void> {
    while (this.#settling > 0) await this.#settled.next();
  }

  abortRunning(reason: unknown): void {
    for (const run of this.#options.runs) if (run.state === "running") run.abort(reason);
  }

  /** Gives back the messages of handlers that still run; what these do from now on counts for nothing. */
  async giveBackRunning(): Promise<void> {
    await this.giveBack([...this.#options.runs].filter(({ state }) => state === "running"));
  }

  /** The messages can be claimed at once, and this run does not count. */
  async giveBack(runs: readonly Run[]): Promise<void> {
    const { core, settlement, runs: all } = this.#options;
    for (const run of runs) {
      run.state = "ended";
      all.delete(run);
      if (run.lost) this.counts.lost++;
    }
    const claims = runs.filter((run) => !run.lost && !run.settled).map(({ message }) => message);
    for (let n = 0; n < claims.length; n += MOST_AT_ONCE) {
      const some = claims.slice(n, n + MOST_AT_ONCE);
      const released = await settlement.settle(
        () => core.release(core.knex, some, 0, "not finished here"),
        // After a first try whose answer was lost, "gone" is what that try did.
        (outcomes, repeated) =>
          outcomes.filter((outcome) => outcome === "done" || (repeated && outcome === "gone")),
      );
      if (!Array.isArray(released)) continue;
      this.counts.released += released.length;
      // Somebody else has the others by now, or they were cancelled.
      this.counts.lost += some.length - released.length;
    }
  }

  #startWaiting(): void {
    // Called again from within by every handler that returns at once: the loop goes on with the next.
    if (this.#starting) return;
    this.#starting = true;
    const since = performance.now();
    const returned: Run[] = [];
    while (this.#running < this.#options.concurrency && !this.#closed) {
      if (this.#waiting.length > 0 && performance.now() - since > LONGEST_TURN_MS) {
        setImmediate(() => this.#startWaiting());
        break;
      }
      const run = this.#waiting.shift();
      if (run === undefined) break;
      if (run.lost) {
        this.counts.lost++;
        this.#options.runs.delete(run);
      } else if (run.aborted || run.expired) {
        // The next claim buries what has expired by the database's own clock.
        returned.push(run);
      } else {
        this.#start(run);
      }
    }
    this.#starting = false;
    if (returned.length > 0) this.#track(this.giveBack(returned).catch(() => undefined));
  }

  #start(run: Run): void {
    run.state = "running";
    run.startedAt = performance.now();
    this.#running++;
    if (run.message.packed === null && !endsFirst(run.message)) this.#handle(run);
    else void this.#prepare(run);
  }

  /** What must be there, or written down, before the handler is called. */
  async #prepare(run: Run): Promise<void> {
    let failure: Failure | undefined;
    if (run.message.packed !== null) failure = await this.#load(run);
    if (failure === undefined && endsFirst(run.message)) failure = await this.#finish(run);
    if (failure === undefined) this.#handle(run);
    else this.#returned(run, failure);
  }

  #handle(run: Run): void {
    try {
      const running = causing(run.message, () => this.#options.handler(run.message, run.context()));
      if (running !== undefined) {
        running.then(
          () => this.#returned(run),
          (error: unknown) => this.#returned(run, { error }),
        );
        return;
      }
    } catch (error) {
      this.#returned(run, { error });
      return;
    }
    this.#returned(run);
  }

  #returned(run: Run, failure?: Failure): void {
    const tookMs = performance.now() - run.startedAt;
    this.#averageMs = (this.#averageMs ?? tookMs) * 0.8 + tookMs * 0.2;
    this.#running--;
    this.#end(run, failure, tookMs);
    if (this.#running === 0) this.#handlersDone.ring();
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
    this.#settling++;
    void settled.then(() => this.#ended());
  }

  /** The end of one is written down. */
  #ended(): void {
    this.#settling--;
    if (this.#settling === 0) this.#settled.ring();
    this.#options.changed();
  }

  /** Its end could not even be put into words for the database: another run may fare better. */
  async #unsettled(run: Run, error: unknown): Promise<void> {
    this.#options.reports.tell(error, "settle", run.message);
    // Where this fails too, the lease frees the message.
    await this.giveBack([run]).catch(() => undefined);
  }

  #end(run: Run, failure: Failure | undefined, tookMs: number): void {
    // Given back at the stop's deadline: what the handler did after that counts for nothing.
    if (run.state === "ended") return;
    run.state = "settling";
    if (failure !== undefined || run.lost || run.settled || run.ownSettling !== undefined) {
      const settled = this.#settle(run, failure, tookMs);
      this.#track(settled.catch((error: unknown) => this.#unsettled(run, error)));
      return;
    }
    // The way of most, without a promise for each.
    this.#settling++;
    this.#options.settlement.acknowledge(run.message, (outcome) => {
      this.counts[outcome === "done" ? "processed" : "lost"]++;
      run.state = "ended";
      this.#options.runs.delete(run);
      this.#ended();
    });
  }

  async #settle(run: Run, failure: Failure | undefined, tookMs: number): Promise<void> {
    await run.ownSettling;
    await this.#ends.settle(run, failure, tookMs);
    run.state = "ended";
    this.#options.runs.delete(run);
  }
}
