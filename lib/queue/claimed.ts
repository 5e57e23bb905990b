import type { Knex } from "knex";
import { AgentMessage, type MessageFields } from "../protocol/agent-message.ts";
import type { FailedRun } from "../protocol/dead-letters.ts";
import { given } from "../protocol/given.ts";
import type { Content, Headers, MessageInput } from "../protocol/message-input.ts";
import type { NackOptions } from "../protocol/options.ts";
import { ownRetry, type RetryChoice } from "../protocol/retry.ts";
import type { DeliveryMode, MessageKind } from "../protocol/types.ts";
import type { ClaimedRow } from "../store/dialect.ts";
import { refOf } from "../store/payloads.ts";
import type { Sent } from "../store/sending.ts";
import type { Packed } from "./content/content.ts";
import { idempotencyKey } from "./delivery/delivery.ts";
import type { HandlerRetry } from "./retries/retries.ts";

/** Writes join this transaction of the caller's, where one is given. */
export interface TxOption {
  tx?: Knex.Transaction | undefined;
}

/** `stale`: someone else may hold the message now, nothing was changed. `gone`: it has ended already. */
export type AckOutcome = "acked" | "stale" | "gone";
export type NackOutcome = "retried" | "dead_lettered" | "stale" | "gone";
export type DeferOutcome = "deferred" | "stale" | "gone";
export type ExtendOutcome = "extended" | "stale" | "gone";
export type DeadLetterOutcome = "dead_lettered" | "stale" | "gone";

export type ReplyOptions = TxOption &
  Partial<Omit<MessageInput, "content" | "toAgent" | "fromAgent">>;

/** What a claimed message asks of the queue. */
export interface Settler {
  ack(claims: readonly ClaimedMessage[], options: TxOption): Promise<AckOutcome[]>;
  nack(
    claim: ClaimedMessage,
    error: unknown,
    options: NackOptions & TxOption,
  ): Promise<NackOutcome>;
  defer(claim: ClaimedMessage, delayMs: number, options: TxOption): Promise<DeferOutcome>;
  extend(claim: ClaimedMessage, leaseMs: number): Promise<ExtendOutcome>;
  deadLetter(
    claim: ClaimedMessage,
    reason: string,
    error: unknown,
    options: TxOption,
  ): Promise<DeadLetterOutcome>;
  reply(claim: ClaimedMessage, content: Content | object, options: ReplyOptions): Promise<Sent>;
}

const NONE: readonly never[] = Object.freeze([]);

/** A message that this caller holds until its lease ends. Each settling call says whether it still held it. */
export class ClaimedMessage extends AgentMessage {
  /** The place in the order of arrival. */
  readonly sequence: number;
  /** Names this claim; every later claim of the message has a greater one. */
  readonly receipt: number;
  /** 1 at the first run. */
  readonly attempt: number;
  readonly maxAttempts: number;
  /** Whether `maxAttempts` is the sender's word, which no retry policy changes. */
  readonly maxAttemptsFixed: boolean;
  /** The sender's retry policy, or the name of one; null where he said nothing. */
  readonly retry: RetryChoice | null;
  /** Its last failed runs, at most ten, oldest first. */
  readonly failures: readonly FailedRun[];
  /** What an earlier run noted with `progress`, or null. */
  readonly progress: unknown;
  /** The senders of the messages that led to this one, oldest first; of a long chain the last ones. */
  readonly trail: readonly string[];
  /** How often it came back from the dead letters. */
  readonly redriven: number;
  /** When this process got it, by its own clock: for measuring durations only. */
  readonly receivedAt: number = Date.now();
  #leaseExpiresAt: number;
  readonly #claimedAt: number;
  readonly #since = performance.now();
  readonly #leaseMs: number;
  readonly #settler: Settler;
  #packed: Packed | null;
  #contentKey: string | null = null;
  #finished = false;

  /** @internal What the handler that it runs under says of failures. */
  handlerRetry: HandlerRetry | undefined;

  constructor(row: ClaimedRow, leaseMs: number, settler: Settler) {
    const fields = new RowFields(row);
    super(fields, fields);
    this.sequence = row.seq;
    this.receipt = row.receipt;
    this.attempt = row.attempt;
    this.maxAttempts = row.max_attempts;
    const { policy, fixed } = ownRetry(row.retry);
    this.maxAttemptsFixed = fixed;
    this.retry = policy ?? null;
    this.failures = (row.failures ?? NONE) as readonly FailedRun[];
    this.progress = row.progress;
    this.trail = (row.trail ?? NONE) as readonly string[];
    this.redriven = row.redriven;
    this.#leaseExpiresAt = row.visible_at;
    this.#claimedAt = row.visible_at - leaseMs;
    this.#leaseMs = leaseMs;
    this.#settler = settler;
    this.#packed =
      row.content_encoding === null
        ? null
        : { messageId: row.message_id, encoding: row.content_encoding, stored: row.content };
  }

  /** The same for every delivery of the message, in every mailbox: for effects outside of the database. */
  get idempotencyKey(): string {
    return idempotencyKey(this.fromAgent, this.messageId);
  }

  /** @internal Whether it was acknowledged before it was handed out: AT_MOST_ONCE. */
  get finished(): boolean {
    return this.#finished;
  }

  /** @internal */
  noteFinished(): void {
    this.#finished = true;
  }

  /** @internal How long this process has had it, in milliseconds; null for a claim that was taken up by its id. */
  get heldMs(): number | null {
    return this.#leaseMs === 0 ? null : performance.now() - this.#since;
  }

  /** The lease's end, in milliseconds since the epoch by the database's clock. */
  get leaseExpiresAt(): number {
    return this.#leaseExpiresAt;
  }

  /** Done: the message is finished and archived, in the caller's transaction if one is given. */
  async ack(options: TxOption = {}): Promise<AckOutcome> {
    const [outcome] = await this.#settler.ack([this], options);
    return outcome as AckOutcome;
  }

  /** Failed: tried again after the retry policy's pause (or `delayMs`), or dead-lettered after the last run. */
  nack(error: unknown, options: NackOptions & TxOption = {}): Promise<NackOutcome> {
    return this.#settler.nack(this, error, options);
  }

  /** Not now: handed out again after `delayMs`, without counting as a run. */
  defer(delayMs: number, options: TxOption = {}): Promise<DeferOutcome> {
    return this.#settler.defer(this, delayMs, options);
  }

  /** Keeps the message for `leaseMs` from now. */
  async extend(leaseMs: number): Promise<ExtendOutcome> {
    const outcome = await this.#settler.extend(this, leaseMs);
    if (outcome === "extended") this.noteExtended(leaseMs);
    return outcome;
  }

  /** Never again: to the dead letters. A reason of other than a-z, 0-9, _ is kept as the error's text. */
  deadLetter(
    reason: string,
    options: TxOption & { error?: unknown } = {},
  ): Promise<DeadLetterOutcome> {
    const { error, ...rest } = given(options);
    return this.#settler.deadLetter(this, reason, error, rest);
  }

  /**
   * Answers the sender (`replyTo`, else `fromAgent`). The answer's id follows from this message's, so that a
   * second run of the same message does not answer twice; its type is TASK_RESPONSE to a task, else RESPONSE.
   */
  reply(content: Content | object, options: ReplyOptions = {}): Promise<Sent> {
    return this.#settler.reply(this, content, options);
  }

  /** @internal What the row has in place of the content, as long as that was not fetched. */
  get packed(): Packed | null {
    return this.#packed;
  }

  /** @internal Where the content was fetched from, for when the message ends. */
  get contentKey(): string | null {
    return this.#contentKey;
  }

  /** @internal */
  noteContent(content: Content): void {
    (this as { content: Content }).content = content;
    if (this.#packed?.encoding === "ref") [this.#contentKey = null] = refOf(this.#packed.stored);
    this.#packed = null;
  }

  /** @internal The database's clock is followed by the time that passed here, not by this machine's clock. */
  noteExtended(leaseMs: number): void {
    const databaseNow = this.#claimedAt + Math.round(performance.now() - this.#since);
    this.#leaseExpiresAt = databaseNow + leaseMs;
  }

  override toJSON(): Record<string, unknown> {
    return {
      ...super.toJSON(),
      sequence: this.sequence,
      receipt: this.receipt,
      attempt: this.attempt,
      max_attempts: this.maxAttempts,
      lease_expires_at: new Date(this.#leaseExpiresAt).toISOString(),
      ...(this.progress === null ? {} : { progress: this.progress }),
      ...(this.failures.length === 0 ? {} : { failures: this.failures.map(wireRun) }),
    };
  }
}

/** What a row says in a message's words. A class, as in the store: made for each message, it lives for a moment. */
class RowFields implements MessageFields {
  declare readonly messageId: MessageFields["messageId"];
  declare readonly fromAgent: MessageFields["fromAgent"];
  declare readonly toAgent: MessageFields["toAgent"];
  declare readonly messageType: MessageFields["messageType"];
  declare readonly originalType: MessageFields["originalType"];
  declare readonly kind: MessageFields["kind"];
  declare readonly content: MessageFields["content"];
  declare readonly priority: MessageFields["priority"];
  declare readonly timestamp: MessageFields["timestamp"];
  declare readonly headers: MessageFields["headers"];
  declare readonly correlationId: MessageFields["correlationId"];
  declare readonly causationId: MessageFields["causationId"];
  declare readonly replyTo: MessageFields["replyTo"];
  declare readonly contextId: MessageFields["contextId"];
  declare readonly taskId: MessageFields["taskId"];
  declare readonly subject: MessageFields["subject"];
  declare readonly expiresAt: MessageFields["expiresAt"];
  declare readonly orderingKey: MessageFields["orderingKey"];
  declare readonly concurrencyKey: MessageFields["concurrencyKey"];
  declare readonly cost: MessageFields["cost"];
  declare readonly delivery: MessageFields["delivery"];
  declare readonly hops: MessageFields["hops"];

  constructor(row: ClaimedRow) {
    this.messageId = row.message_id;
    this.fromAgent = row.from_agent;
    this.toAgent = row.to_agent;
    this.messageType = row.message_type;
    this.originalType = row.original_type;
    this.kind = row.kind as MessageKind;
    this.content = row.content as Content;
    this.priority = row.priority;
    this.timestamp = row.created_at;
    this.headers = (row.headers ?? {}) as Headers;
    this.correlationId = row.correlation_id;
    this.causationId = row.causation_id;
    this.replyTo = row.reply_to;
    this.contextId = row.context_id;
    this.taskId = row.task_id;
    this.subject = row.subject;
    this.expiresAt = row.expires_at;
    this.orderingKey = row.ordering_key;
    this.concurrencyKey = row.concurrency_key;
    this.cost = row.cost;
    this.delivery = row.delivery as DeliveryMode | null;
    this.hops = row.hops ?? 0;
  }
}

/** snake_case, the instant in ISO 8601, as the rest of a message's JSON. */
function wireRun({ attempt, at, worker, durationMs, error }: FailedRun): Record<string, unknown> {
  const { code, message } = error;
  return {
    ...{ attempt, at: new Date(at).toISOString(), worker, duration_ms: durationMs },
    error: { code, message },
  };
}
