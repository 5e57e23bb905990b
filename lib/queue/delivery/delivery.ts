import { createHash } from "node:crypto";
import { errorRecord, LeaseLost } from "../../errors.ts";
import { limitOf } from "../../protocol/retry-class.ts";
import type { ClaimedRow, ClaimKey, Db, KeyRef } from "../../store/dialect.ts";
import { type Mark, markName } from "../../store/inbox.ts";
import { keyOf, keyOfRow } from "../../store/keys.ts";
import type { AlsoCompleted } from "../../store/messages.ts";
import type { Settled, Turn } from "../../store/settling.ts";
import { isTransaction, type Row, retried, translated } from "../../store/sql.ts";
import type { ClaimedMessage } from "../claimed.ts";
import type { QueueCore } from "../core.ts";
import { fieldsOf } from "../events.ts";
import { follow } from "../gates/follow.ts";

/** How long a message that ends before it is handed out waits for a sender that holds its key. */
const PATIENCE_MS = 250;
/** After that it is put off for so long. */
const PUT_OFF_MS = 50;

/** A claim to complete, and what its mailbox is to remember of it. */
type Ending = Turn<ClaimKey> & { readonly mark?: Mark | undefined };

/** Of a claim in memory. A class, as in the store: made for each message. */
class ClaimEnding implements Ending {
  readonly seq: number;
  readonly receipt: number;
  readonly key: KeyRef | undefined;
  readonly mark: Mark | undefined;

  constructor(claim: ClaimedMessage) {
    const { sequence, receipt, delivery, toAgent, fromAgent, messageId } = claim;
    this.seq = sequence;
    this.receipt = receipt;
    this.key = keyOf(claim);
    this.mark =
      delivery === "EXACTLY_ONCE"
        ? { consumer: toAgent, from_agent: fromAgent, message_id: messageId }
        : undefined;
  }
}

/** Thrown into the transaction of a run whose message was processed before: all that it wrote is to be undone. */
export class ProcessedBefore extends LeaseLost {
  constructor(messageId: string) {
    super(`message ${messageId} was processed before: what this transaction wrote is rolled back`, {
      recoverySuggestion:
        "Let the error end the transaction. What the first run wrote stands; the message is dropped.",
      details: { messageId, processedBefore: true },
    });
  }
}

/** The same for every delivery of a message, in every mailbox: 64 hexadecimal digits. */
export function idempotencyKey(fromAgent: string, messageId: string): string {
  return createHash("sha256")
    .update(JSON.stringify([fromAgent, messageId]))
    .digest("hex");
}

/**
 * How often a handler sees a message. AT_LEAST_ONCE needs nothing: it comes again until it is acknowledged.
 * AT_MOST_ONCE is acknowledged before it is handed out. EXACTLY_ONCE leaves a mark in its mailbox's inbox, in the
 * transaction that acknowledges it, and what has a mark is dropped.
 */
export class Delivery {
  readonly #core: QueueCore;

  constructor(core: QueueCore) {
    this.#core = core;
  }

  /**
   * Acknowledges claims. What was processed before ends too, but is `gone`; in a caller's transaction, which must
   * not commit then, it is an error.
   *
   * @throws ProcessedBefore
   */
  async ack(db: Db, claims: readonly ClaimedMessage[]): Promise<Settled[]> {
    return (await this.#ack(db, claims)).map((outcome) => (outcome === "held" ? "stale" : outcome));
  }

  /** As `ack`, but claims whose key a sender holds in an open transaction are `held`: to be tried again. */
  tryAck(claims: readonly ClaimedMessage[]): Promise<(Settled | "held")[]> {
    return this.#ack(this.#core.knex, claims, 0);
  }

  async #ack(
    db: Db,
    claims: readonly ClaimedMessage[],
    patienceMs?: number,
  ): Promise<(Settled | "held")[]> {
    const core = this.#core;
    const open = claims.filter(({ finished }) => !finished);
    const outcomes = await this.#complete(
      db,
      open.map((claim) => new ClaimEnding(claim)),
      patienceMs,
    );
    const first = outcomes.map((outcome) => (outcome === "duplicate" ? "gone" : outcome));
    core.releaseContents(db, open, first);
    await core.ended(db, open, first, "processed");
    if (outcomes.includes("duplicate")) {
      const again = outcomes.map((outcome) => (outcome === "duplicate" ? "done" : "gone"));
      core.releaseContents(db, open, again);
      await core.ended(db, open, again, "processed", "duplicate", false);
    }
    if (open.length === claims.length) return first;
    const settled = new Map(open.map((claim, n) => [claim, first[n] ?? "gone"]));
    // What was acknowledged before it was handed out stays so.
    return claims.map((claim) => settled.get(claim) ?? "done");
  }

  /** Completes a message by its row. False when it was processed before, or is in other hands. */
  async markProcessed(db: Db, row: Row): Promise<boolean> {
    const { seq, receipt, delivery } = row;
    const claim = { seq: Number(seq), receipt: Number(receipt), key: keyOfRow(row) };
    const mark = delivery === "EXACTLY_ONCE" ? markOf(row as unknown as ClaimedRow) : undefined;
    const [outcome] = await this.#complete(db, [{ ...claim, mark }]);
    if (outcome === "done" || outcome === "duplicate") {
      const fields = [fieldsOf(row as unknown as ClaimedRow)];
      this.#core.tell(db, "processed", fields, outcome === "done" ? undefined : "duplicate");
      const toAgent = String(row.to_agent);
      await follow(
        this.#core,
        db,
        [{ toAgent, sequence: claim.seq, receipt: claim.receipt }],
        false,
      );
    }
    return outcome === "done";
  }

  async #complete(
    db: Db,
    endings: readonly Ending[],
    patienceMs?: number,
  ): Promise<(Settled | "held" | "duplicate")[]> {
    const { store } = this.#core;
    const marks = new Map(endings.flatMap(({ seq, mark }) => (mark ? [[seq, mark] as const] : [])));
    const twice = new Set<number>();
    const also = marks.size === 0 ? undefined : this.#remembering(db, marks, twice);
    const outcomes =
      patienceMs === undefined
        ? await store.complete(db, endings, also)
        : await store.tryComplete(db, endings, patienceMs, also);
    return outcomes.map((outcome, n) =>
      outcome === "done" && twice.has(endings[n]?.seq ?? 0) ? "duplicate" : outcome,
    );
  }

  /** Writes the marks of what was completed, in the same transaction; notes those that were there. */
  #remembering(db: Db, marks: ReadonlyMap<number, Mark>, twice: Set<number>): AlsoCompleted {
    return async (trx, done) => {
      // In the order of the batch: a database answers in any.
      const ended = new Set(done);
      const wanted = [...marks].flatMap(([seq, mark]) => (ended.has(seq) ? [{ seq, mark }] : []));
      if (wanted.length === 0) return;
      const { dialect } = this.#core;
      const given = wanted.map(({ mark }) => mark);
      const written = await dialect.inbox.remember(trx, given).catch((error: unknown) => {
        // A server that keeps no place for what is missing says so only when the other one has committed.
        const late = isTransaction(db) && dialect.classify(error) === "unique";
        throw late ? new ProcessedBefore(given.map((mark) => mark.message_id).join(", ")) : error;
      });
      const fresh = new Set(written.map(markName));
      for (const { seq, mark } of wanted) {
        // Of two in one batch the first has it.
        if (fresh.delete(markName(mark))) twice.delete(seq);
        else if (isTransaction(db)) throw new ProcessedBefore(mark.message_id);
        else twice.add(seq);
      }
    };
  }

  /** Those of claimed rows that their mailbox has not processed yet. The others are acknowledged and dropped. */
  async fresh(rows: readonly ClaimedRow[]): Promise<readonly ClaimedRow[]> {
    const { knex, dialect } = this.#core;
    const asked = rows.filter(({ delivery }) => delivery === "EXACTLY_ONCE");
    if (asked.length === 0) return rows;
    try {
      const marks = asked.map(markOf);
      const known = await translated(dialect, () =>
        retried(dialect, () => dialect.inbox.known(knex, marks)),
      );
      const names = new Set(known.map(markName));
      const twice = new Set(asked.filter((row) => names.has(markName(markOf(row)))));
      if (twice.size > 0) await this.#drop([...twice]);
      return rows.filter((row) => !twice.has(row));
    } catch (error) {
      // Unknown: not handed out. Where giving back fails too, their leases free them.
      await this.#putOff(asked).catch(() => undefined);
      if (asked.length === rows.length) throw error;
      this.#report(error);
      return rows.filter((row) => !asked.includes(row));
    }
  }

  async #drop(rows: readonly ClaimedRow[]): Promise<void> {
    const { knex, store, payloads, gates } = this.#core;
    const turns = rows.map((row) => ({
      seq: row.seq,
      receipt: row.receipt,
      key: keyOfRow({ ...row }),
    }));
    const outcomes = await store.tryComplete(knex, turns, PATIENCE_MS);
    const dropped = rows.filter((_, n) => outcomes[n] === "done");
    if (!store.archives) payloads.releaseRows(knex, dropped as unknown as Row[]);
    this.#core.tell(knex, "processed", dropped.map(fieldsOf), "duplicate");
    const guarded = dropped.map(({ to_agent }) => to_agent).filter((id) => gates.known.guards(id));
    if (guarded.length > 0) this.#core.signal(new Set(guarded));
    await this.#putOff(rows.filter((_, n) => outcomes[n] === "held"));
  }

  async #putOff(rows: readonly ClaimedRow[]): Promise<void> {
    if (rows.length === 0) return;
    await this.#core.store.release(
      this.#core.knex,
      rows.map((row) => ({
        ...{ seq: row.seq, receipt: row.receipt, key: keyOfRow({ ...row }) },
        ...{ delay_ms: PUT_OFF_MS, keep_attempt: true, error: null },
      })),
    );
  }

  /** Claims as a caller may see them: those of AT_MOST_ONCE only once their end is written down. */
  async handOut(claims: readonly ClaimedMessage[]): Promise<ClaimedMessage[]> {
    const once = claims.filter(endsFirst);
    const others = claims.filter((claim) => !endsFirst(claim));
    if (once.length === 0) return others;
    try {
      const outcomes = await this.finish(once);
      const held = once.filter((_, n) => outcomes[n] === "held");
      if (held.length > 0) await this.#core.release(this.#core.knex, held, PUT_OFF_MS);
    } catch (error) {
      if (!claims.some((claim) => claim.finished) && others.length === 0) throw error;
      this.#report(error);
    }
    return claims.filter((claim) => claim.finished || !endsFirst(claim));
  }

  /**
   * Acknowledges claims before anybody sees them, and notes it in those whose end the database confirmed: only
   * these may be handed out. Where there is no answer, the message may be gone, and nobody sees it.
   */
  async finish(claims: readonly ClaimedMessage[]): Promise<(Settled | "held")[]> {
    const core = this.#core;
    const turns = claims.map(({ sequence: seq, receipt, ...claim }) => ({
      ...{ seq, receipt, key: keyOf(claim) },
    }));
    const outcomes = await core.store.tryComplete(core.knex, turns, PATIENCE_MS);
    for (const [n, claim] of claims.entries()) if (outcomes[n] === "done") claim.noteFinished();
    core.releaseContents(core.knex, claims, outcomes);
    // Whether the destination works is not known yet.
    await core.ended(core.knex, claims, outcomes, "processed", undefined, false);
    return outcomes;
  }

  /** How the run of a message ended that was acknowledged before it: for the limits and the breaker only. */
  async ran(claim: ClaimedMessage, failure: { readonly error: unknown } | undefined) {
    const { breakers, gates, knex, retries } = this.#core;
    if (!gates.known.guards(claim.toAgent)) return;
    if (failure === undefined) return breakers.outcome(claim.toAgent, [claim], false);
    const verdict = await retries.verdict(knex, claim, failure.error, undefined);
    if (verdict.end === "park") {
      await gates.park([claim], verdict.delayMs, limitOf(failure.error));
    } else if (verdict.counts) {
      await breakers.outcome(claim.toAgent, [claim], true);
    }
  }

  #report(error: unknown): void {
    const { observers, options } = this.#core;
    const { code, message } = errorRecord(error);
    observers.emit([
      {
        ...{ type: "error", agentId: options.agentId, errorType: code, errorMessage: message },
        ...{ at: Date.now(), data: { during: "claim" } },
      },
    ]);
  }
}

/** Whether a claim ends before it is handed out. */
export function endsFirst({ delivery }: Pick<ClaimedMessage, "delivery">): boolean {
  return delivery === "AT_MOST_ONCE";
}

function markOf({ to_agent, from_agent, message_id }: ClaimedRow): Mark {
  return { consumer: to_agent, from_agent, message_id };
}
