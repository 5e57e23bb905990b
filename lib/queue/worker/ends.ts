import { LeaseLost } from "../../errors.ts";
import type { QueueCore } from "../core.ts";
import type { Reports } from "./reports.ts";
import type { Run } from "./run.ts";
import type { Settlement } from "./settlement.ts";

export interface Failure {
  readonly error: unknown;
  /** The handler was not called: the content could not be fetched, or it may not start (any more). */
  readonly before?: "loaded" | "started";
}

export interface EndsOptions {
  readonly core: QueueCore;
  readonly settlement: Settlement;
  readonly reports: Reports;
  readonly counts: { processed: number; failed: number; lost: number; released: number };
  /** Gives a message back without counting its run. */
  giveBack(run: Run): Promise<void>;
  readonly dueAfter: (ms: number) => void;
}

/** Decides what becomes of a message after its run, and has it written down. */
export class Ends {
  readonly #options: EndsOptions;

  constructor(options: EndsOptions) {
    this.#options = options;
  }

  async settle(run: Run, failure: Failure | undefined, tookMs: number): Promise<void> {
    const { core, counts, reports, settlement } = this.#options;
    const { message } = run;
    if (run.lost) {
      counts.lost++;
      return;
    }
    // What it settled in a transaction may be undone, whether it failed with it or went on: the receipt says so.
    // A rolled back nack or deferral is nothing that returning could make up for: its lease will pass.
    const unsure = run.settledInTransaction && (failure !== undefined || run.ackedInTransaction);
    if (run.settled && !unsure) {
      counts[message.finished && failure !== undefined ? "failed" : "processed"]++;
      if (failure !== undefined) reports.tell(failure.error, "handle", message);
      if (message.finished) await core.delivery.ran(message, failure).catch(() => undefined);
      return;
    }
    if (failure === undefined || run.twice) {
      const outcome = await settlement.ack(message);
      const done = outcome === "done" || (outcome === "gone" && run.settled);
      counts[done ? "processed" : "lost"]++;
      return;
    }
    // Not the message's fault: the database was away too long, or the worker stops.
    if (run.aborted || failure.before === "started") {
      await this.#options.giveBack(run);
      return;
    }
    if (failure.before === "loaded") {
      counts.failed++;
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
    counts[parked ? "released" : "failed"]++;
    if (typeof failed === "object" && failed.outcome === "retried") {
      this.#options.dueAfter(failed.delayMs);
    }
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
