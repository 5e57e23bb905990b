import type { Knex } from "knex";
import type { Content } from "../../protocol/message-input.ts";
import type { NackOptions } from "../../protocol/options.ts";
import type { ClaimedMessage, ReplyOptions, Settler, TxOption } from "../claimed.ts";
import { ProcessedBefore } from "../delivery/delivery.ts";
import type { Run } from "./run.ts";

/** The settler of a run's message: it notices what the handler settles itself. */
export class WatchedSettler implements Settler {
  readonly #run: Run;
  readonly #settler: Settler;

  constructor(run: Run, settler: Settler) {
    this.#run = run;
    this.#settler = settler;
  }

  async ack(claims: readonly ClaimedMessage[], options: TxOption) {
    const acked = this.#settler.ack(claims, options);
    await this.#watch(
      options.tx,
      acked.then(([outcome]) => outcome ?? "gone"),
      true,
    );
    return acked;
  }

  nack(claim: ClaimedMessage, error: unknown, options: NackOptions & TxOption) {
    return this.#watch(options.tx, this.#settler.nack(claim, error, options));
  }

  defer(claim: ClaimedMessage, delayMs: number, options: TxOption) {
    return this.#watch(options.tx, this.#settler.defer(claim, delayMs, options));
  }

  deadLetter(claim: ClaimedMessage, reason: string, error: unknown, options: TxOption) {
    return this.#watch(options.tx, this.#settler.deadLetter(claim, reason, error, options));
  }

  async extend(claim: ClaimedMessage, leaseMs: number) {
    const sentAt = performance.now();
    const outcome = await this.#settler.extend(claim, leaseMs);
    if (outcome === "extended") this.#run.leaseUntil = sentAt + leaseMs;
    else if (this.#run.held) this.#run.lose();
    return outcome;
  }

  reply(claim: ClaimedMessage, content: Content | object, options: ReplyOptions) {
    return this.#settler.reply(claim, content, options);
  }

  async #watch<O extends string>(
    tx: Knex.Transaction | undefined,
    call: Promise<O>,
    acks = false,
  ): Promise<O> {
    const run = this.#run;
    if (run.message.finished) return call;
    // From here on an extension that finds nothing is no loss.
    run.settled = true;
    run.settledInTransaction = tx !== undefined;
    run.ackedInTransaction = acks && tx !== undefined;
    run.settles(call);
    try {
      const outcome = await call;
      // In the caller's transaction the last word is its commit; outside, nothing was changed.
      if (tx === undefined && (outcome === "stale" || outcome === "gone")) run.lose();
      return outcome;
    } catch (error) {
      run.settled = false;
      run.twice ||= error instanceof ProcessedBefore;
      throw error;
    }
  }
}
