import { AgentCommunicationError, ValidationFailed } from "../../errors.ts";
import { knownChoice, knownPolicies } from "../../protocol/retry.ts";
import { parse } from "../../protocol/validate.ts";
import {
  type StopOptions,
  stopOptionsSchema,
  type WorkOptionsInput,
  workOptionsSchema,
} from "../../protocol/work-options.ts";
import type { Settler } from "../claimed.ts";
import type { QueueCore } from "../core.ts";
import { Crew } from "./crew.ts";
import { newWorkerId } from "./id.ts";
import { Intake } from "./intake.ts";
import { LeaseKeeper } from "./leases.ts";
import { settledWithin } from "./pace.ts";
import { Reports, type WorkErrorListener } from "./reports.ts";
import { stoppedError, type WorkHandler } from "./run.ts";
import { Runs } from "./runs.ts";
import { Settlement } from "./settlement.ts";
import { UpkeepTimer } from "./upkeep.ts";

export type { WorkActivity, WorkErrorContext, WorkErrorListener } from "./reports.ts";
export type { WorkContext, WorkHandler } from "./run.ts";

export type WorkOptions = WorkOptionsInput & { onError?: WorkErrorListener | undefined };

/** What a worker does now, and has done since it started. */
export interface WorkerStats {
  /** Handlers running now. */
  readonly active: number;
  /** Claimed and not started yet. */
  readonly waiting: number;
  /** Acknowledged, or settled by their handler. */
  readonly processed: number;
  /** Runs that threw; their messages are tried again or dead-lettered. */
  readonly failed: number;
  /** Runs whose result was thrown away: someone else had the message by then, or it was cancelled. */
  readonly lost: number;
  /** Given back without counting as a run. */
  readonly released: number;
}

/** For handlers that listen to their signal: how much of a stop's deadline is kept for them and for giving back. */
const RESERVE_MS = 1_000;

/** Works one mailbox: claims, runs the handler, keeps leases alive, settles. Ends only by `stop`. */
export class Worker {
  readonly agentId: string;
  readonly workerId: string;
  /** Resolves when the worker has stopped. */
  readonly stopped: Promise<void>;
  readonly #ended = new AbortController();
  readonly #leases: LeaseKeeper;
  readonly #crew: Crew;
  readonly #intake: Intake;
  readonly #upkeep: UpkeepTimer;
  readonly #unsubscribe: () => void;
  #stopping: Promise<void> | undefined;

  constructor(
    core: QueueCore,
    settler: Settler,
    agentId: string,
    handler: WorkHandler,
    options: WorkOptions,
  ) {
    if (typeof handler !== "function") throw new ValidationFailed("handler: expected a function");
    const settings = parse(workOptionsSchema, options, "options");
    if (core.closed) throw new AgentCommunicationError("CLOSED", "this queue was closed");
    const { concurrency, leaseMs, retryPolicies, workerId = newWorkerId() } = settings;
    const maps = [retryPolicies, core.options.retryPolicies];
    const policy = knownChoice(settings.retryPolicy, "options.retryPolicy", ...maps);
    knownPolicies(retryPolicies, "options.retryPolicies", core.options.retryPolicies);
    this.agentId = agentId;
    this.workerId = workerId;
    const reports = new Reports(core, agentId, workerId, options.onError);
    const runs = new Runs();
    this.#leases = new LeaseKeeper(core, leaseMs, runs, (error) => reports.tell(error, "extend"));
    this.#crew = new Crew({
      core,
      handler,
      concurrency,
      retry: { policy, policies: retryPolicies },
      leases: this.#leases,
      runs,
      settlement: new Settlement(core, leaseMs, this.#ended.signal, (error) =>
        reports.tell(error, "settle"),
      ),
      reports,
      changed: () => this.#intake.changed(),
      dueAfter: (ms) => this.#intake.dueAfter(ms),
    });
    this.#intake = new Intake({
      core,
      settler,
      agentId,
      workerId,
      settings,
      crew: this.#crew,
      leases: this.#leases,
      runs,
      reports,
    });
    this.stopped = new Promise((resolve) => {
      this.#ended.signal.addEventListener("abort", () => resolve(), { once: true });
    });
    this.#unsubscribe = core.listen(agentId, (_certain, more) => this.#intake.wake(more));
    const messageTypes = settings.messageTypes ?? null;
    this.#upkeep = new UpkeepTimer(core, { agentId, workerId, messageTypes });
    this.#intake.start();
  }

  get stats(): WorkerStats {
    return { active: this.#crew.running, waiting: this.#crew.waiting, ...this.#crew.counts };
  }

  /**
   * Claims nothing more, gives back what was not started, and lets running handlers end until shortly before
   * the deadline; then their signals abort and their messages are given back. Returns within the deadline
   * (plus a little) even when a handler never returns or the database does not answer: then the lease frees
   * the message. Later calls wait for the first. Not to be awaited inside a handler, which it would wait for.
   */
  async stop(options: StopOptions = {}): Promise<void> {
    const { deadlineMs } = parse(stopOptionsSchema, options, "options");
    this.#stopping ??= this.#shutDown(deadlineMs);
    await this.#stopping;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #shutDown(deadlineMs: number): Promise<void> {
    const deadline = performance.now() + deadlineMs;
    const reserveMs = Math.min(RESERVE_MS, deadlineMs / 5);
    this.#unsubscribe();
    this.#crew.close();
    const givenBack = Promise.all([
      this.#intake.stop(),
      this.#crew.giveBackWaiting(),
      this.#upkeep.stop(),
    ]);
    const allDone = this.#crew.handlersDone().then(() => this.#crew.settled());
    if (!(await settledWithin(deadlineMs - reserveMs, Promise.all([givenBack, allDone])))) {
      this.#crew.abortRunning(stoppedError());
      await settledWithin(Math.max(20, reserveMs / 2), this.#crew.handlersDone());
      const rest = Promise.all([givenBack, this.#crew.giveBackRunning(), this.#crew.settled()]);
      await settledWithin(Math.max(200, deadline - performance.now()), rest);
    }
    this.#leases.stop();
    this.#ended.abort();
  }
}
