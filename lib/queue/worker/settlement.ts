import { AgentCommunicationError } from "../../errors.ts";
import type { Settled } from "../../store/settling.ts";
import type { ClaimedMessage } from "../claimed.ts";
import type { QueueCore } from "../core.ts";
import { backOffMs, pause, within } from "./pace.ts";

/** One statement settles at most this many: on SQL Server more would lock the whole table. */
const MOST_AT_ONCE = 500;

/** How long to leave a message alone whose key a sender holds in an open transaction. */
const HELD_PAUSE_MS = 20;

type Answer = (outcome: Settled | undefined) => void;

class Waiting {
  readonly claim: ClaimedMessage;
  readonly answer: Answer;

  constructor(claim: ClaimedMessage, answer: Answer) {
    this.claim = claim;
    this.answer = answer;
  }
}

/**
 * Writes down how runs ended, and does not give up when the database is away: the receipt decides when it is
 * back. Acknowledgements go in groups: those that came in while one statement was under way make up the next.
 */
export class Settlement {
  readonly #core: QueueCore;
  readonly #leaseMs: number;
  readonly #ended: AbortSignal;
  readonly #report: (error: unknown) => void;
  readonly #waiting: Waiting[] = [];
  #busy = false;

  constructor(
    core: QueueCore,
    leaseMs: number,
    ended: AbortSignal,
    report: (error: unknown) => void,
  ) {
    this.#core = core;
    this.#leaseMs = leaseMs;
    this.#ended = ended;
    this.#report = report;
  }

  /** Answers undefined when it had to be given up: the lease will pass, and the message be handed out again. */
  acknowledge(claim: ClaimedMessage, answer: Answer): void {
    this.#waiting.push(new Waiting(claim, answer));
    if (!this.#busy) void this.#flush();
  }

  /** As `acknowledge`. */
  ack(claim: ClaimedMessage): Promise<Settled | undefined> {
    return new Promise((answer) => this.acknowledge(claim, answer));
  }

  async #flush(): Promise<void> {
    this.#busy = true;
    try {
      // Handlers that return together are acknowledged together, and those that start in their places and wait for
      // nothing but promises with them.
      await new Promise(setImmediate);
      while (this.#waiting.length > 0) {
        await this.#ackAll(this.#waiting.splice(0, MOST_AT_ONCE));
      }
    } finally {
      this.#busy = false;
    }
  }

  async #ackAll(batch: readonly Waiting[]): Promise<void> {
    const claims = batch.map(({ claim }) => claim);
    const outcomes = await this.settle(
      () => this.#core.tryAck(claims),
      // After a first try whose answer was lost, "gone" is what that try did.
      (settled, repeated) =>
        settled.map((outcome) => (repeated && outcome === "gone" ? "done" : outcome)),
      batch.length > 1,
    );
    if (outcomes === "apart") {
      for (const one of batch) await this.#ackAll([one]);
      return;
    }
    for (const [n, one] of batch.entries()) {
      const outcome = outcomes?.[n];
      // A sender holds its key: the others are not to wait for that.
      if (outcome === "held") this.#again(one);
      else one.answer(outcome);
    }
  }

  #again(one: Waiting): void {
    void pause(HELD_PAUSE_MS, this.#ended).then(() => {
      if (this.#ended.aborted) return one.answer(undefined);
      this.acknowledge(one.claim, one.answer);
    });
  }

  /**
   * Runs a settling statement until the database has answered it. Undefined when that cannot be hoped for;
   * "apart" (only if `divisible`) when a group was refused of which one alone may be to blame.
   */
  async settle<T, R>(
    statement: () => Promise<T>,
    read: (answer: T, repeated: boolean) => R,
    divisible: true | boolean = false,
  ): Promise<R | "apart" | undefined> {
    const since = performance.now();
    for (let tries = 1; ; tries++) {
      try {
        const patience = Math.max(5_000, this.#leaseMs);
        return read(await within(patience, "a settlement", statement()), tries > 1);
      } catch (error) {
        if (this.#ended.aborted) return undefined;
        if (tries === 1) this.#report(error);
        const passing = error instanceof AgentCommunicationError && error.retryable;
        if (!passing) {
          if (divisible) return "apart";
          if (performance.now() - since > this.#leaseMs) return undefined;
        }
        await pause(backOffMs(tries), this.#ended);
        if (this.#ended.aborted) return undefined;
      }
    }
  }
}
