import type { Knex } from "knex";
import { AgentCommunicationError, LeaseLost, ValidationFailed } from "../../errors.ts";
import { jsonText } from "../../protocol/validate.ts";
import type { ClaimedRow } from "../../store/dialect.ts";
import type { Settled } from "../../store/settling.ts";
import { translated } from "../../store/sql.ts";
import { ClaimedMessage, type Settler } from "../claimed.ts";
import type { QueueCore } from "../core.ts";
import { ProcessedBefore } from "../delivery/delivery.ts";
import { WatchedSettler } from "./watched-settler.ts";

/** What a handler gets beside its message. */
export interface WorkContext {
  /**
   * The same for every run of the message, and for one that its sender sent again under its id: for effects outside
   * of the database (a payment, a mail) whose receiver takes such a key. 64 hexadecimal digits.
   */
  readonly idempotencyKey: string;
  /**
   * Aborts when this run is not worth going on with: its reason is a `LeaseLost` (someone else may have the
   * message), or a `CLOSED` error (the worker stops and its deadline is near).
   */
  readonly signal: AbortSignal;
  /**
   * Runs `run` in a transaction that also acknowledges the message: what it writes, and replies sent with
   * `{ tx }`, exist exactly once, whatever happens. Rejects with `LeaseLost`, with all undone, if someone else
   * has the message by then. `progress` inside it waits for nothing: it goes with the next extension.
   */
  tx<T>(run: (tx: Knex.Transaction) => Promise<T> | T): Promise<T>;
  /**
   * Makes the lease longer and keeps `data` for the next run, should this one die: `message.progress` there.
   * What is no object is kept as `{ value: data }`. Rejects with `LeaseLost` if someone else has the message.
   */
  progress(data: unknown): Promise<void>;
}

/** Returning acknowledges the message, throwing gives it back to be tried again. */
export type WorkHandler = (message: ClaimedMessage, context: WorkContext) => unknown;

/** How a run asks for a longer lease; several are answered by one statement. */
export interface Extender {
  extend(run: Run, progress: string): Promise<Settled>;
  readonly leaseMs: number;
}

/** `waiting`: claimed, not started. `settling`: the handler is done, the database not yet. */
type RunState = "waiting" | "running" | "settling" | "ended";

/** One message in a worker's hands, from the claim to the end. */
export class Run {
  readonly message: ClaimedMessage;
  /** About what it takes in memory. */
  bytes = 0;
  /** Where it stands among its worker's runs; below 0: nowhere. */
  place = -1;
  state: RunState = "waiting";
  startedAt = 0;
  /** By this process's monotonic clock: until then nobody else can have the message. */
  leaseUntil: number;
  /** By the same clock, and rather early than late: from then on the message may have expired. */
  readonly #expiresAt: number;
  /** Progress noted inside a transaction, to be stored with the next extension. */
  noted: string | undefined;
  /** True once someone else certainly has the message, or it is gone. */
  lost = false;
  /** True while `tx` is under way: its acknowledgement decides, not an extension beside it. */
  inTransaction = false;
  /** True when the message was settled by the handler itself: nothing is left to be done. */
  settled = false;
  /** True when its mailbox had processed the message before, so that what this run wrote was rolled back. */
  twice = false;
  /** That settling was part of a transaction of the handler's, which may have been rolled back. */
  settledInTransaction = false;
  /** And it was an acknowledgement: what returning means as well. */
  ackedInTransaction = false;
  /** Settling calls of the handler that it may not have waited for; undefined: none. */
  #own: Promise<unknown> | undefined;
  /** Whether it is not worth going on with. */
  aborted = false;
  #reason: unknown;
  /** Made when the handler asks for its signal: most never do, and it would be the dearest part of a run. */
  #abort: AbortController | undefined;
  readonly #core: QueueCore;
  readonly #extender: Extender;

  constructor(
    core: QueueCore,
    settler: Settler,
    extender: Extender,
    row: ClaimedRow,
    sentAt: number,
  ) {
    this.#core = core;
    this.#extender = extender;
    // From when the claim was sent: the database began to count later than that.
    this.leaseUntil = sentAt + extender.leaseMs;
    const claimedAt = row.visible_at - extender.leaseMs;
    this.#expiresAt = sentAt + (row.expires_at ?? Number.POSITIVE_INFINITY) - claimedAt;
    this.message = new ClaimedMessage(row, extender.leaseMs, new WatchedSettler(this, settler));
  }

  /** What its handler gets. */
  context(): WorkContext {
    return new Proxy(new Context(this), OWN) as unknown as WorkContext;
  }

  get signal(): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController();
      if (this.aborted) this.#abort.abort(this.#reason);
    }
    return this.#abort.signal;
  }

  /** Whether its handler may still need its lease. */
  get open(): boolean {
    return this.state === "waiting" || this.state === "running";
  }

  /** Whether its lease is to be made longer. */
  get held(): boolean {
    return this.open && !this.settled && !this.lost && !this.aborted;
  }

  /** Whether its time to live may have passed: then no handler is to see it. */
  get expired(): boolean {
    return performance.now() >= this.#expiresAt;
  }

  /** What the database said when the lease was to be made longer. */
  extended(outcome: Settled, sentAt: number, leaseMs: number): void {
    if (outcome === "done") {
      this.leaseUntil = sentAt + leaseMs;
      this.message.noteExtended(leaseMs);
    } else if (this.held && !(this.inTransaction && outcome === "gone")) {
      // "gone" beside an open transaction is most likely that transaction's own commit.
      this.lose();
    }
  }

  lose(): void {
    this.lost = true;
    this.abort(this.#lostError());
  }

  /** The lease may have passed and nothing was heard: someone else may have the message. */
  expire(): void {
    this.abort(
      new LeaseLost(
        `the lease of message ${this.message.messageId} could not be made longer in time: the database did not answer`,
      ),
    );
  }

  abort(reason: unknown): void {
    if (this.aborted) return;
    this.aborted = true;
    this.#reason = reason;
    this.#abort?.abort(reason);
  }

  async tx<T>(run: (tx: Knex.Transaction) => Promise<T> | T): Promise<T> {
    this.#mustHold();
    const { knex, dialect } = this.#core;
    this.inTransaction = true;
    try {
      const work = async (tx: Knex.Transaction): Promise<T> => {
        await translated(dialect, () => dialect.beginWrite(tx));
        const result = await run(tx);
        if (tx.isCompleted()) throw endedError();
        const [outcome] = await this.#core.ack(tx, [this.message]);
        if (outcome !== "done") {
          this.lose();
          throw this.#lostError();
        }
        return result;
      };
      let worked: Promise<T> | undefined;
      await knex.transaction((tx) => {
        worked = work(tx);
        return worked;
      }, dialect.transactionConfig);
      // knex answers at the first commit, also where that is not ours: then this rejects.
      const value = await (worked as unknown as Promise<T>);
      this.settled = true;
      return value;
    } catch (error) {
      this.twice ||= error instanceof ProcessedBefore;
      throw error;
    } finally {
      this.inTransaction = false;
    }
  }

  async progress(data: unknown): Promise<void> {
    const document = data !== null && typeof data === "object" ? data : { value: data ?? null };
    const text = jsonText(document, "progress", this.#core.options.maxMessageBytes);
    this.#mustHold();
    // There is no next run to keep it for.
    if (this.message.finished) return;
    if (this.inTransaction) {
      // The transaction may hold the only connection (SQLite), or the last free one: waiting here for another
      // would wait for itself.
      this.noted = text;
      return;
    }
    const outcome = await this.#extender.extend(this, text);
    if (outcome !== "done") throw this.#lostError();
  }

  /** Notes a settling call of the handler's own. */
  settles(call: Promise<unknown>): void {
    this.#own = Promise.allSettled([this.#own, call]);
  }

  /** Until the handler's own settling calls have ended, also those that it did not wait for; undefined: none. */
  get ownSettling(): Promise<unknown> | undefined {
    return this.#own;
  }

  #mustHold(): void {
    if (this.settled && !this.message.finished) {
      throw new LeaseLost(`message ${this.message.messageId} was settled already`, {
        recoverySuggestion: "Settle a message once, as the last thing that its handler does.",
      });
    }
    if (this.lost || this.state === "ended") throw this.#lostError();
    if (this.aborted) throw this.#reason;
  }

  #lostError(): LeaseLost {
    return new LeaseLost(
      `message ${this.message.messageId} is no longer held by this worker: its lease passed, or it was cancelled`,
    );
  }
}

/** What a handler gets, each made when it is asked for. It may be taken apart, so nothing in it needs `this`. */
class Context {
  readonly #run: Run;

  constructor(run: Run) {
    this.#run = run;
  }

  get idempotencyKey(): string {
    return this.#run.message.idempotencyKey;
  }

  get signal(): AbortSignal {
    return this.#run.signal;
  }

  get tx(): WorkContext["tx"] {
    return (work) => this.#run.tx(work);
  }

  get progress(): WorkContext["progress"] {
    return (data) => this.#run.progress(data);
  }
}

const MEMBERS: readonly (keyof WorkContext)[] = ["idempotencyKey", "signal", "tx", "progress"];

/**
 * Makes members of the class look like the context's own, so that `{ ...context }` has them. Getters in an object of
 * its own for each run would be the dearest part of it: 750 bytes, and most of its time.
 */
const OWN: ProxyHandler<Context> = {
  get: (context, name) => Reflect.get(context, name),
  ownKeys: (context) => [...MEMBERS, ...Reflect.ownKeys(context)],
  getOwnPropertyDescriptor: (context, name) =>
    (MEMBERS as readonly PropertyKey[]).includes(name)
      ? { value: Reflect.get(context, name), enumerable: true, configurable: true }
      : Reflect.getOwnPropertyDescriptor(context, name),
};

function endedError(): ValidationFailed {
  return new ValidationFailed(
    "context.tx: the callback ended the transaction itself, so the message could not be acknowledged in it",
    {
      // Of the run: the message is not to blame.
      retryable: true,
      recoverySuggestion:
        "Return to commit, throw to roll back; call neither commit() nor rollback().",
    },
  );
}

/** The reason of the signal of a run that its stopping worker no longer waits for. */
export function stoppedError(): AgentCommunicationError {
  return new AgentCommunicationError(
    "CLOSED",
    "the worker stops: the message is given back without counting this run",
    {
      recoverySuggestion: "Return soon after the signal aborts, or stop with a longer deadlineMs.",
    },
  );
}
