import type { z } from "zod";
import { ValidationFailed } from "../errors.ts";
import { AgentMessage } from "./agent-message.ts";
import { newId } from "./ids.ts";
import { type Cause, descent, type LoopLimits } from "./loops.ts";
import { isBare, messageSchema, plainFields } from "./message-input.ts";
import { portableChoice, type RetryPolicies, retryDocument, ruleOf } from "./retry.ts";
import { DEFAULT_PRIORITY, kindOf, type MessageKind, normalType } from "./types.ts";
import { jsonDocument, parse, shown } from "./validate.ts";

export interface EncodeDefaults {
  readonly fromAgent: string;
  readonly maxAttempts: number;
  /** The sender's own policies, by their names. */
  readonly retryPolicies?: RetryPolicies | undefined;
  readonly maxMessageBytes: number;
  /** Of the content alone, where there is a claim-check store for it. */
  readonly maxContentBytes?: number | undefined;
  /** The message that led to this one. */
  readonly cause?: Cause | undefined;
  readonly loops?: LoopLimits | undefined;
  /** Where the last head is kept, by which a message like the one before is recognised. */
  readonly lastHead?: LastHead | undefined;
}

/**
 * What messages mostly share with the one before: all but the id and the content. Never changed, so that one head
 * stands for many messages, and what is asked of each message is asked of their head once.
 */
export interface Head
  extends Omit<z.output<typeof messageSchema>, "messageId" | "content" | "headers" | "retry"> {
  readonly fromAgent: string;
  readonly originalType: string | null;
  readonly kind: MessageKind;
  readonly priority: number;
  readonly maxAttempts: number;
  readonly headersText: string | null;
  readonly retryText: string | null;
  /** The recipients as they were written, where they were addresses, or the message goes another way. */
  readonly addressedTo?: readonly string[] | undefined;
  /** The senders of the messages that led to it, oldest first. */
  readonly trail?: readonly string[] | undefined;
}

/** A message checked and completed: ready for the store, which adds only the database's time. */
export class EncodedMessage {
  declare readonly head: Head;
  declare readonly messageId: string;
  /** True when the sender chose the id, so that a repetition must be recognised. */
  declare readonly ownId: boolean;
  declare readonly contentText: string;
  /** What contentText stands for, once it was packed; undefined: for itself. */
  declare readonly contentEncoding: "gzip" | "ref" | undefined;

  constructor(
    head: Head,
    messageId: string,
    ownId: boolean,
    contentText: string,
    contentEncoding?: "gzip" | "ref",
  ) {
    this.head = head;
    this.messageId = messageId;
    this.ownId = ownId;
    this.contentText = contentText;
    this.contentEncoding = contentEncoding;
  }

  /** The same message under another head. */
  under(head: Head): EncodedMessage {
    const { messageId, ownId, contentText, contentEncoding } = this;
    return new EncodedMessage(head, messageId, ownId, contentText, contentEncoding);
  }

  /** The same message with a content that stands for its own. */
  packed(contentText: string, contentEncoding: "gzip" | "ref"): EncodedMessage {
    return new EncodedMessage(this.head, this.messageId, this.ownId, contentText, contentEncoding);
  }
}

/** The heads of messages; of those that follow each other under one, it comes once. */
export function headsOf(messages: readonly EncodedMessage[]): Head[] {
  const heads: Head[] = [];
  let last: Head | undefined;
  for (const { head } of messages) {
    if (head !== last) heads.push(head);
    last = head;
  }
  return heads;
}

/**
 * The head that was made last, by what it was made of: what was checked once need not be checked again. For messages
 * of one queue, whose defaults are the same for all, but for the cause.
 */
export class LastHead {
  #fields: Readonly<Record<string, unknown>> = {};
  #count = 0;
  #cause: Cause | undefined;
  #head: Head | undefined;

  /** The head for plain fields that are the same, content apart. */
  of(given: object, cause: Cause | undefined): Head | undefined {
    if (this.#head === undefined || this.#cause !== cause || !isBare(given)) return;
    let count = 0;
    for (const key of Object.keys(given)) {
      if (key === "content") continue;
      // What was kept are strings and numbers, and fields that were there without a value.
      const value = (given as Record<string, unknown>)[key];
      if (value !== this.#fields[key] || (value === undefined && !(key in this.#fields))) return;
      count += 1;
    }
    return count === this.#count ? this.#head : undefined;
  }

  /** Of a message that chose no id, and whose fields are plain. */
  keep(given: object, cause: Cause | undefined, head: Head): void {
    const { content: _, ...fields } = given as Record<string, unknown>;
    this.#fields = Object.assign(Object.create(null), fields);
    this.#count = Object.keys(fields).length;
    this.#cause = cause;
    this.#head = head;
  }
}

const NO_STORE =
  'Give the queue a claim-check store (`claimCheck: { store: new FileClaimCheckStore("…") }`, or OUTBOX_CLAIM_CHECK_DIR), which takes 100 MB; or raise maxMessageBytes; or store the data elsewhere and send a reference to it.';
const TOO_LARGE_FOR_STORE =
  "Raise claimCheck.maxBytes, or store the data elsewhere and send a reference to it.";
const HEADERS_TOO_LARGE = "Put the data into the content, or raise maxMessageBytes.";

/**
 * Checks a message and fills in what was left out.
 *
 * @throws ValidationFailed, PayloadTooLarge
 */
export function encode(input: unknown, defaults: EncodeDefaults, what = "message"): EncodedMessage {
  if (input === null || typeof input !== "object" || Array.isArray(input)) {
    throw new ValidationFailed(`${what}: expected an object, got ${shown(input)}`);
  }
  const { lastHead, cause } = defaults;
  const known = lastHead?.of(input, cause);
  if (known !== undefined) {
    const { content } = input as { content?: unknown };
    return new EncodedMessage(known, newId(), false, contentOf(content, defaults, what));
  }
  const given = input instanceof AgentMessage ? input.toInput() : input;
  const plain = plainFields(given);
  const fields = plain ?? parse(messageSchema, given, what);
  const contentText = contentOf(fields.content, defaults, what);
  const head = headOf(fields, defaults, what);
  const { messageId } = fields;
  if (plain !== undefined && messageId === undefined) lastHead?.keep(given, cause, head);
  return new EncodedMessage(head, messageId ?? newId(), messageId !== undefined, contentText);
}

function contentOf(content: unknown, defaults: EncodeDefaults, what: string): string {
  const { maxMessageBytes, maxContentBytes } = defaults;
  const remedy = maxContentBytes === undefined ? NO_STORE : TOO_LARGE_FOR_STORE;
  return jsonDocument(content, `${what}.content`, maxContentBytes ?? maxMessageBytes, remedy);
}

function headOf(
  fields: z.output<typeof messageSchema>,
  defaults: EncodeDefaults,
  what: string,
): Head {
  const { headers, hops, causationId, contextId } = fields;
  const policy = portableChoice(fields.retry, `${what}.retry`, defaults.retryPolicies);
  const { messageType, originalType } = normalType(fields.messageType);
  const descended = descent({ hops, causationId, contextId }, defaults.cause, defaults.loops);
  // Field by field: an object of always the same shape costs a third of one that is spread together.
  return {
    toAgent: fields.toAgent,
    messageType,
    originalType,
    kind: fields.kind ?? kindOf(messageType),
    fromAgent: fields.fromAgent ?? defaults.fromAgent,
    priority: fields.priority ?? DEFAULT_PRIORITY,
    delayMs: fields.delayMs,
    availableAt: fields.availableAt,
    ttlMs: fields.ttlMs,
    expiresAt: fields.expiresAt,
    maxAttempts: fields.maxAttempts ?? ruleOf(policy)?.maxAttempts ?? defaults.maxAttempts,
    retryText: retryDocument({ policy, fixed: fields.maxAttempts !== undefined }),
    dedupeKey: fields.dedupeKey,
    dedupeWindowMs: fields.dedupeWindowMs,
    orderingKey: fields.orderingKey,
    concurrencyKey: fields.concurrencyKey,
    cost: fields.cost,
    delivery: fields.delivery,
    hops: descended.hops,
    trail: descended.trail,
    correlationId: fields.correlationId,
    causationId: descended.causationId,
    replyTo: fields.replyTo,
    contextId: descended.contextId,
    taskId: fields.taskId,
    subject: fields.subject,
    timestamp: fields.timestamp,
    headersText:
      headers === undefined
        ? null
        : jsonDocument(headers, `${what}.headers`, defaults.maxMessageBytes, HEADERS_TOO_LARGE),
  };
}
