import type { Knex } from "knex";
import { AgentCommunicationError, errorRecord } from "../errors.ts";
import type { EncodedMessage } from "../protocol/envelope.ts";
import type { MessageEventName, Observers } from "../protocol/events.ts";
import type { QueueOptions } from "../protocol/options.ts";
import { retryDelayMs } from "../protocol/retry.ts";
import { afterCommit } from "../store/after-commit.ts";
import { DeadLetterStore } from "../store/dead-letters.ts";
import type { Burial, ClaimedRow, ClaimRequest, Db, Dialect } from "../store/dialect.ts";
import { databaseIdentity, joined } from "../store/identity.ts";
import { keyOf, keyOfRow } from "../store/keys.ts";
import { MessageStore, type Sent } from "../store/messages.ts";
import { SchemaCheck } from "../store/migrate.ts";
import { inOrder } from "../store/rows.ts";
import type { Settled, Turn } from "../store/settling.ts";
import { UpkeepStore } from "../store/upkeep.ts";
import { type WakeChannel, wakeChannel } from "../store/wake-channel.ts";
import type { ClaimedMessage } from "./claimed.ts";
import { type EventFields, fieldsOf, messageEvent } from "./events.ts";
import { fingerprint, storedError } from "./failure.ts";
import { type Push, pushOf } from "./notify.ts";
import { hubOf, type WakeHub } from "./wake.ts";

/** A doomed message is buried and the claim repeated at most this often, so that a call always ends. */
const MOST_BURIALS = 20;
/** Rounds that also swept a backlog of expired messages out of the way count to this bound instead. */
const MOST_ROUNDS = 100;

const REASON = /^[a-z][a-z0-9_]{0,31}$/;

/** What the manager and the worker share: one database, its stores, the wake-up, and what observers are told. */
export class QueueCore {
  readonly knex: Knex;
  readonly dialect: Dialect;
  readonly options: QueueOptions;
  readonly store: MessageStore;
  readonly dead: DeadLetterStore;
  readonly upkeep: UpkeepStore;
  readonly observers: Observers;
  readonly wakeHub: WakeHub;
  /** Undefined where the database has no way to tell other processes, or it is switched off. */
  readonly #channel: WakeChannel | undefined;
  readonly #push: Push;
  readonly #schema: SchemaCheck;
  closed = false;

  constructor(knex: Knex, dialect: Dialect, options: QueueOptions, observers: Observers) {
    this.knex = knex;
    this.dialect = dialect;
    this.options = options;
    this.observers = observers;
    this.store = new MessageStore(knex, dialect, {
      prefix: options.prefix,
      archive: options.archiveRetentionMs > 0,
      ownIdWindowMs: options.messageIdWindowMs,
      opened: (db, agentIds) => afterCommit(db, () => this.signal(agentIds)),
    });
    this.#schema = new SchemaCheck(knex, dialect.name, options.prefix);
    this.dead = new DeadLetterStore(knex, dialect, options.prefix);
    this.upkeep = new UpkeepStore(knex, dialect, options.prefix);
    const database = `${databaseIdentity(knex)}:${options.prefix}`;
    this.wakeHub = hubOf(database);
    this.#push = pushOf(database);
    this.#channel = options.notify ? wakeChannel(knex, dialect, options.prefix) : undefined;
  }

  /** The connection for a call: open, the right database, migrated. The first call of a queue pays one look. */
  async db(tx?: unknown): Promise<Db> {
    if (this.closed) {
      throw new AgentCommunicationError("CLOSED", "this queue was closed");
    }
    const db = joined(this.knex, tx);
    await this.#schema.ensure(tx);
    if (tx !== undefined && !(await this.dialect.stillOpen(db))) {
      throw new AgentCommunicationError(
        "FOREIGN_TRANSACTION",
        "the server has rolled tx back; what is written through it now would be committed at once",
      );
    }
    return db;
  }

  async send(db: Db, messages: readonly EncodedMessage[]): Promise<Sent[]> {
    const sent = await this.store.send(db, messages);
    const stored = messages.filter((_, n) => sent[n]?.duplicate === false);
    if (stored.length > 0) {
      afterCommit(db, () => {
        // What is not due yet is found by polling when it is.
        const due = stored.filter(
          ({ delayMs, availableAt }) => !delayMs && availableAt === undefined,
        );
        this.signal(new Set(due.flatMap(({ toAgent }) => toAgent)));
        if (!this.observers.active) return;
        const at = Date.now();
        this.observers.emit(
          stored.flatMap((message) =>
            message.toAgent.map((toAgent) => messageEvent("sent", { ...message, toAgent }, { at })),
          ),
        );
      });
    }
    return sent;
  }

  /** Wakes consumers of these mailboxes, here at once and in other processes where the database can tell them. */
  signal(agentIds: ReadonlySet<string>): void {
    this.wakeHub.wake(agentIds);
    if (this.#channel !== undefined) this.#push.send(agentIds, this.#channel);
  }

  /** Calls when the mailbox may have got something, from here or another process, until the returned call. */
  listen(agentId: string, call: () => void): () => void {
    const unsubscribe = this.wakeHub.subscribe(agentId, call);
    const unattend = this.#channel === undefined ? undefined : this.#push.attend(this.#channel);
    return () => {
      unsubscribe();
      unattend?.();
    };
  }

  /** Nothing more is claimed or sent; waiting consumers look up. What others are to be told is still told. */
  async close(): Promise<void> {
    this.closed = true;
    this.wakeHub.wakeAll();
    if (this.#channel !== undefined) await this.#push.close(this.#channel);
  }

  /** Claims rows that may be handed out, and buries those that must not be. */
  async claim(request: ClaimRequest): Promise<ClaimedRow[]> {
    const claimed: ClaimedRow[] = [];
    let burials = 0;
    for (let round = 0; round < MOST_ROUNDS && burials < MOST_BURIALS; round++) {
      const limit = request.limit - claimed.length;
      const rows = limit > 0 ? await this.store.claim({ ...request, limit }) : [];
      const doomed = rows.filter((row) => row.doom !== null);
      claimed.push(...rows.filter((row) => row.doom === null));
      if (doomed.length === 0) break;
      await this.#buryDoomed(doomed);
      // More of them may lie before the first live one than a claim of a few would ever get through.
      const backlog = rows.length === limit && doomed.some(({ doom }) => doom === "expired");
      const swept = backlog ? await this.buryExpired(500).catch(() => 0) : 0;
      if (swept === 0) burials++;
    }
    // A later round may have met what became due, or was given back, meanwhile.
    claimed.sort(inOrder);
    const at = Date.now();
    this.observers.emit(
      claimed.map((row) => messageEvent("received", fieldsOf(row), { at, attempt: row.attempt })),
    );
    return claimed;
  }

  async #buryDoomed(rows: readonly ClaimedRow[]): Promise<void> {
    const burials = rows.map(
      (row): Turn<Burial> => ({
        ...{ seq: row.seq, receipt: row.receipt, key: keyOfRow({ ...row }) },
        reason: String(row.doom),
        fingerprint: fingerprint(row.message_type, String(row.doom), ""),
        // No error where the last run noted one: that says more than "the lease passed".
        error: null,
      }),
    );
    const outcomes = await this.store.bury(this.knex, burials);
    const at = Date.now();
    this.observers.emit(
      rows
        .filter((_, n) => outcomes[n] === "done")
        .flatMap((row) => {
          const extra = { at, attempt: row.attempt, reason: String(row.doom) };
          const told: MessageEventName[] = row.doom === "expired" ? ["expired"] : [];
          return [...told, "dead_lettered" as const].map((event) =>
            messageEvent(event, fieldsOf(row), extra),
          );
        }),
    );
  }

  async ack(db: Db, claims: readonly ClaimedMessage[]): Promise<Settled[]> {
    const outcomes = await this.store.complete(db, claims.map(turnOf));
    this.#tell(db, claims, outcomes, "processed");
    return outcomes;
  }

  /** As `ack`, but claims whose key a sender holds in an open transaction are `held`: to be tried again. */
  async tryAck(claims: readonly ClaimedMessage[]): Promise<(Settled | "held")[]> {
    const outcomes = await this.store.tryComplete(this.knex, claims.map(turnOf), 0);
    this.#tell(this.knex, claims, outcomes, "processed");
    return outcomes;
  }

  async nack(
    db: Db,
    claim: ClaimedMessage,
    error: unknown,
    options: { delayMs?: number | undefined; retry: boolean },
  ): Promise<"retried" | "dead_lettered" | "stale" | "gone"> {
    const cause = error ?? new Error("no error was given");
    if (!options.retry || claim.attempt >= claim.maxAttempts) {
      const reason = options.retry ? "max_attempts" : "rejected";
      const outcome = await this.bury(db, claim, reason, cause);
      return outcome === "done" ? "dead_lettered" : outcome;
    }
    const delay = options.delayMs ?? retryDelayMs(this.options.retryPolicy, claim.attempt);
    const record = errorRecord(cause);
    const [outcome = "gone"] = await this.store.release(db, [
      {
        ...turnOf(claim),
        delay_ms: delay,
        keep_attempt: false,
        error: storedError(record),
      },
    ]);
    this.#tell(db, [claim], [outcome], "retried", `${record.code}: ${record.message}`);
    if (outcome === "done" && delay === 0) this.#wakeAfter(db, [claim]);
    return outcome === "done" ? "retried" : outcome;
  }

  /** Gives claims back without counting a run, now or after a delay. */
  async release(
    db: Db,
    claims: readonly ClaimedMessage[],
    delayMs: number,
    reason?: string,
  ): Promise<Settled[]> {
    const outcomes = await this.store.release(
      db,
      claims.map((claim) => ({
        ...turnOf(claim),
        delay_ms: delayMs,
        keep_attempt: true,
        error: null,
      })),
    );
    this.#tell(db, claims, outcomes, "released", reason);
    if (delayMs === 0) this.#wakeAfter(db, claims);
    return outcomes;
  }

  /** Makes leases longer; a progress, where given, is kept for the next run should this one die. */
  async extend(
    claims: readonly { claim: ClaimedMessage; progress?: unknown }[],
    leaseMs: number,
  ): Promise<Settled[]> {
    return this.store.extend(
      this.knex,
      claims.map(({ claim, progress }) => ({
        seq: claim.sequence,
        receipt: claim.receipt,
        lease_ms: leaseMs,
        progress: progress === undefined ? null : JSON.stringify(progress),
      })),
    );
  }

  async bury(db: Db, claim: ClaimedMessage, reason: string, error: unknown): Promise<Settled> {
    const named = REASON.test(reason);
    const record = error === undefined ? undefined : errorRecord(error);
    const noted = named ? record : (record ?? { code: "rejected", message: reason });
    const [outcome = "gone"] = await this.store.bury(db, [
      {
        ...turnOf(claim),
        reason: named ? reason : "rejected",
        error: noted === undefined ? null : storedError(noted),
        fingerprint: fingerprint(claim.messageType, noted?.code ?? reason, noted?.message ?? ""),
      },
    ]);
    this.#tell(db, [claim], [outcome], "dead_lettered", reason);
    return outcome;
  }

  #wakeAfter(db: Db, claims: readonly ClaimedMessage[]): void {
    afterCommit(db, () => this.signal(new Set(claims.map(({ toAgent }) => toAgent))));
  }

  #tell(
    db: Db,
    claims: readonly ClaimedMessage[],
    outcomes: readonly (Settled | "held")[],
    event: MessageEventName,
    reason?: string,
  ): void {
    if (!this.observers.active) return;
    afterCommit(db, () => {
      const at = Date.now();
      this.observers.emit(
        claims
          .filter((_, n) => outcomes[n] === "done")
          .map((claim) =>
            messageEvent(event, claim, {
              at,
              attempt: claim.attempt,
              reason,
              durationMs: event === "processed" ? Math.max(0, at - claim.receivedAt) : undefined,
            }),
          ),
      );
    });
  }

  /** Buries expired messages of any mailbox that nobody holds. Returns how many. */
  async buryExpired(limit: number): Promise<number> {
    const rows = await this.upkeep.buryExpired(limit);
    rows.push(...(await this.store.buryExpiredKeyed(limit)));
    const fields = rows.map((row) => fieldsOf(row as never));
    this.tell(this.knex, "expired", fields, "expired");
    this.tell(this.knex, "dead_lettered", fields, "expired");
    return fields.length;
  }

  /** Tells observers of something that happened to rows outside a claim. */
  tell(db: Db, event: MessageEventName, messages: readonly EventFields[], reason?: string): void {
    if (!this.observers.active) return;
    afterCommit(db, () => {
      const at = Date.now();
      this.observers.emit(messages.map((message) => messageEvent(event, message, { at, reason })));
    });
  }
}

/** What a claim settles, and whose turn its end passes on. */
function turnOf(claim: ClaimedMessage) {
  return { seq: claim.sequence, receipt: claim.receipt, key: keyOf(claim) };
}
