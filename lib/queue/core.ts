import type { Knex } from "knex";
import { AgentCommunicationError, errorRecord } from "../errors.ts";
import type { EncodedMessage } from "../protocol/envelope.ts";
import type { MessageEventName, Observers } from "../protocol/events.ts";
import type { QueueOptions } from "../protocol/options.ts";
import { knownPolicies } from "../protocol/retry.ts";
import { afterCommit } from "../store/after-commit.ts";
import { DeadLetterStore } from "../store/dead-letters.ts";
import type { ClaimedRow, Db, Dialect } from "../store/dialect.ts";
import { GateSettings } from "../store/gate-settings.ts";
import { GateStore } from "../store/gates.ts";
import { databaseIdentity, joined } from "../store/identity.ts";
import { keyOf } from "../store/keys.ts";
import { MessageStore } from "../store/messages.ts";
import { SchemaCheck } from "../store/migrate.ts";
import { PayloadStore } from "../store/payloads.ts";
import type { Sent } from "../store/sending.ts";
import type { Settled } from "../store/settling.ts";
import { UpkeepStore } from "../store/upkeep.ts";
import { type WakeChannel, wakeChannel } from "../store/wake-channel.ts";
import type { ClaimedMessage } from "./claimed.ts";
import { type ClaimOptions, Claims } from "./claims.ts";
import { Contents } from "./content/content.ts";
import { Payloads } from "./content/payloads.ts";
import { Delivery } from "./delivery/delivery.ts";
import { type EventFields, fieldsOf, messageEvent } from "./events.ts";
import { FlowControl } from "./flow/flow.ts";
import { Breakers } from "./gates/breakers.ts";
import { follow } from "./gates/follow.ts";
import { Gates } from "./gates/gates.ts";
import { type Failed, type FailOptions, fail } from "./retries/fail.ts";
import { failedRun, fingerprint, storedError } from "./retries/failure.ts";
import { Retries } from "./retries/retries.ts";
import { type SendAs, send } from "./sends.ts";
import { type Push, pushOf, type Ride } from "./wake/notify.ts";
import { hubOf, type Listener, type WakeHub } from "./wake/wake.ts";

/** After this long a content that could not be fetched is tried again. */
const FETCH_AGAIN_MS = 10_000;

const REASON = /^[a-z][a-z0-9_]{0,31}$/;

/** What the manager and the worker share: one database, its stores, the wake-up, and what observers are told. */
export class QueueCore {
  readonly knex: Knex;
  readonly dialect: Dialect;
  readonly options: QueueOptions;
  readonly store: MessageStore;
  readonly dead: DeadLetterStore;
  readonly upkeep: UpkeepStore;
  readonly gates: Gates;
  readonly breakers: Breakers;
  readonly delivery = new Delivery(this);
  readonly flow: FlowControl;
  readonly contents: Contents;
  readonly payloads: Payloads;
  readonly observers: Observers;
  readonly wakeHub: WakeHub;
  readonly retries: Retries;
  /** Undefined where the database has no way to tell other processes, or it is switched off. */
  readonly #channel: WakeChannel | undefined;
  readonly #push: Push;
  readonly #schema: SchemaCheck;
  /** The database once it was looked at: most calls need no more. */
  #open: Promise<Db> | undefined;
  readonly #claims = new Claims(this);
  closed = false;

  constructor(knex: Knex, dialect: Dialect, options: QueueOptions, observers: Observers) {
    this.knex = knex;
    this.dialect = dialect;
    this.options = options;
    this.observers = observers;
    knownPolicies(options.retryPolicies, "options.retryPolicies");
    this.retries = new Retries(this);
    this.store = new MessageStore(knex, dialect, {
      prefix: options.prefix,
      archive: options.archiveRetentionMs > 0,
      ownIdWindowMs: options.messageIdWindowMs,
      opened: (db, agentIds) => afterCommit(db, () => this.signal(agentIds)),
    });
    this.#schema = new SchemaCheck(knex, dialect.name, options.prefix);
    this.dead = new DeadLetterStore(knex, dialect, options.prefix);
    this.upkeep = new UpkeepStore(knex, dialect, options.prefix);
    const gateStore = new GateStore(knex, dialect, options.prefix);
    this.gates = new Gates(gateStore, new GateSettings(knex, dialect, options.prefix));
    this.breakers = new Breakers(gateStore, (agentId) => this.gates.known.hasBreaker(agentId));
    this.flow = new FlowControl(this);
    const payloads = new PayloadStore(knex, dialect, options.prefix);
    this.contents = new Contents(options, payloads);
    const now = () => this.store.now();
    this.payloads = new Payloads({ options, store: payloads, observers, now });
    const database = `${databaseIdentity(knex)}:${options.prefix}`;
    this.wakeHub = hubOf(database);
    this.#push = pushOf(database);
    this.#channel = options.notify ? wakeChannel(knex, dialect, options.prefix) : undefined;
  }

  /** The connection for a call: open, the right database, migrated. The first call of a queue pays one look. */
  db(tx?: unknown): Promise<Db> {
    return tx === undefined && this.#open !== undefined && !this.closed
      ? this.#open
      : this.#opened(tx);
  }

  async #opened(tx: unknown): Promise<Db> {
    if (this.closed) {
      throw new AgentCommunicationError("CLOSED", "this queue was closed");
    }
    const db = joined(this.knex, tx);
    await this.#schema.ensure(tx);
    if (tx === undefined) this.#open = Promise.resolve(db);
    if (tx !== undefined && !(await this.dialect.stillOpen(db))) {
      throw new AgentCommunicationError(
        "FOREIGN_TRANSACTION",
        "the server has rolled tx back; what is written through it now would be committed at once",
      );
    }
    return db;
  }

  /** Stores messages; undefined settings of mailboxes cost it nothing. */
  send(db: Db, messages: readonly EncodedMessage[], as?: SendAs): Promise<Sent[]> {
    return send(this, db, messages, as);
  }

  /**
   * Wakes consumers of these mailboxes, here at once and in other processes where the database can tell them, unless
   * they were told.
   */
  signal(agentIds: ReadonlySet<string>, told = false): void {
    this.wakeHub.wake(agentIds);
    if (!told && this.#channel !== undefined) this.#push.send(agentIds, this.#channel);
  }

  /** As those of `Push`. */
  ride(agentId: string | undefined): Ride | undefined {
    return this.#channel === undefined ? undefined : this.#push.ride(agentId, this.#channel);
  }

  rode(ride: Ride): boolean {
    return this.#push.rode(ride);
  }

  /** Calls when the mailbox may have got something, from here or another process, until the returned call. */
  listen(agentId: string, call: Listener): () => void {
    const unsubscribe = this.wakeHub.subscribe(agentId, call);
    const unattend = this.#channel === undefined ? undefined : this.#push.attend(this.#channel);
    return () => {
      unsubscribe();
      unattend?.();
    };
  }

  /** Whether what other processes send wakes consumers here. */
  get hears(): boolean {
    return this.#channel !== undefined && this.#push.hears;
  }

  /** Nothing more is claimed or sent; waiting consumers look up. What others are to be told is still told. */
  async close(): Promise<void> {
    this.closed = true;
    this.wakeHub.wakeAll();
    await this.payloads.close();
    if (this.#channel !== undefined) await this.#push.close(this.#channel);
  }

  /** Claims rows that may be handed out, and buries those that must not be. */
  claim(request: ClaimOptions): Promise<ClaimedRow[]> {
    return this.#claims.claim(request);
  }

  ack(db: Db, claims: readonly ClaimedMessage[]): Promise<Settled[]> {
    return this.delivery.ack(db, claims);
  }

  /** As `ack`, but claims whose key a sender holds in an open transaction are `held`: to be tried again. */
  tryAck(claims: readonly ClaimedMessage[]): Promise<(Settled | "held")[]> {
    return this.delivery.tryAck(claims);
  }

  async nack(
    db: Db,
    claim: ClaimedMessage,
    error: unknown,
    options: FailOptions,
  ): Promise<Failed["outcome"]> {
    return (await this.fail(db, claim, error, options)).outcome;
  }

  /** Ends a run that failed as the retry policies say; a `delayMs` of the caller's is a further run in any case. */
  fail(db: Db, claim: ClaimedMessage, error: unknown, options: FailOptions): Promise<Failed> {
    return fail(this, db, claim, error, options);
  }

  /** Gives claims back without counting a run, now or after a delay. */
  async release(
    db: Db,
    claims: readonly ClaimedMessage[],
    delayMs: number,
    reason?: string,
    error?: unknown,
  ): Promise<Settled[]> {
    const outcomes = await this.store.release(
      db,
      claims.map((claim) => ({
        ...turnOf(claim),
        delay_ms: delayMs,
        keep_attempt: true,
        error: error === undefined ? null : storedError(errorRecord(error)),
      })),
    );
    await this.ended(db, claims, outcomes, "released", reason);
    if (delayMs === 0) this.wakeAfter(db, claims);
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

  async bury(
    db: Db,
    claim: ClaimedMessage,
    reason: string,
    error: unknown,
    {
      durationMs = claim.heldMs,
      counts = true,
    }: { durationMs?: number | null; counts?: boolean } = {},
  ): Promise<Settled> {
    const named = REASON.test(reason);
    const record = error === undefined ? undefined : errorRecord(error);
    const noted = named ? record : (record ?? { code: "rejected", message: reason });
    const [outcome = "gone"] = await this.store.bury(db, [
      {
        ...turnOf(claim),
        reason: named ? reason : "rejected",
        error: noted === undefined ? null : storedError(noted),
        ...(noted === undefined ? {} : { failure: failedRun(noted, durationMs) }),
        fingerprint: fingerprint(claim.messageType, noted?.code ?? reason, noted?.message ?? ""),
      },
    ]);
    await this.ended(db, [claim], [outcome], "dead_lettered", reason, counts);
    return outcome;
  }

  /**
   * Decides about a claim whose content could not be fetched: what will never be readable is dead, what is missing
   * has failed this run, and a store that is away is no fault of the message, which waits without losing a run.
   */
  async notLoaded(claim: ClaimedMessage, error: unknown): Promise<void> {
    const code = error instanceof AgentCommunicationError ? error.code : undefined;
    if (code === "CONTENT_UNREADABLE") {
      await this.bury(this.knex, claim, "unreadable_content", error);
    } else if (code === "CONTENT_UNAVAILABLE") {
      const delayMs = Math.round(FETCH_AGAIN_MS * (0.75 + Math.random() / 2));
      await this.release(this.knex, [claim], delayMs, "content unavailable", error);
    } else {
      await this.nack(this.knex, claim, error, { retry: true });
    }
  }

  /** Where nothing is archived, a content ends with its message. */
  releaseContents(
    db: Db,
    claims: readonly ClaimedMessage[],
    outcomes: readonly (Settled | "held")[],
  ): void {
    if (this.store.archives) return;
    const done = claims.filter((_, n) => outcomes[n] === "done");
    this.payloads.release(
      db,
      done.flatMap(({ contentKey }) => contentKey ?? []),
    );
  }

  /** Once it has committed, the mailboxes of these have something to hand out. */
  wakeAfter(db: Db, claims: readonly ClaimedMessage[]): void {
    afterCommit(db, () => this.signal(new Set(claims.map(({ toAgent }) => toAgent))));
  }

  /**
   * What follows when claims have ended: others may be let through, and observers are told. Failures that do not
   * count, like deferrals, say nothing of the destination.
   */
  async ended(
    db: Db,
    claims: readonly ClaimedMessage[],
    outcomes: readonly (Settled | "held")[],
    event: MessageEventName,
    reason?: string,
    counts = event !== "released",
  ): Promise<void> {
    this.#tell(db, claims, outcomes, event, reason);
    this.flow.ended(db, claims);
    const done = claims.filter((_, n) => outcomes[n] === "done");
    const failed = event === "retried" || (event === "dead_lettered" && reason === "max_attempts");
    await follow(this, db, done, counts ? failed : undefined);
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
    this.flow.ended(db, messages);
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
