import type { Settled } from "../../store/settling.ts";
import type { ClaimedMessage } from "../claimed.ts";
import type { QueueCore } from "../core.ts";
import { within } from "./pace.ts";

/** One statement finishes at most this many: on SQL Server more would lock the whole table. */
const MOST_AT_ONCE = 500;

interface Waiting {
  readonly claim: ClaimedMessage;
  readonly answer: (outcome: Settled | "held") => void;
  readonly fail: (error: unknown) => void;
}

/**
 * Acknowledges what is run at most once, just before its handler is called: what only waits in a worker that dies
 * or stops is not lost. Those that come while one statement is under way go with the next. Nothing is tried again:
 * a second try could not tell its own first one from another worker's.
 */
export class Starts {
  readonly #core: QueueCore;
  readonly #patienceMs: number;
  readonly #waiting: Waiting[] = [];
  #busy = false;

  constructor(core: QueueCore, leaseMs: number) {
    this.#core = core;
    this.#patienceMs = Math.max(5_000, leaseMs);
  }

  /** Rejects when the database does not answer: then the handler must not be called. */
  finish(claim: ClaimedMessage): Promise<Settled | "held"> {
    return new Promise((answer, fail) => {
      this.#waiting.push({ claim, answer, fail });
      void this.#flush();
    });
  }

  async #flush(): Promise<void> {
    if (this.#busy) return;
    this.#busy = true;
    try {
      // One turn of the microtasks: handlers that start together are let in together.
      await undefined;
      while (this.#waiting.length > 0) await this.#all(this.#waiting.splice(0, MOST_AT_ONCE));
    } finally {
      this.#busy = false;
    }
  }

  async #all(batch: readonly Waiting[]): Promise<void> {
    try {
      const finishing = this.#core.delivery.finish(batch.map(({ claim }) => claim));
      const outcomes = await within(this.#patienceMs, "an acknowledgement", finishing);
      for (const [n, { answer }] of batch.entries()) answer(outcomes[n] ?? "gone");
    } catch (error) {
      for (const { fail } of batch) fail(error);
    }
  }
}
