import type { z } from "zod";
import { ValidationFailed } from "../errors.ts";
import { AgentMessage } from "./agent-message.ts";
import { newId } from "./ids.ts";
import { type Cause, descent, type LoopLimits } from "./loops.ts";
import { messageSchema, plainFields } from "./message-input.ts";
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
}

/** A message checked and completed: ready for the store, which adds only the database's time. */
export interface EncodedMessage
  extends Omit<z.output<typeof messageSchema>, "content" | "headers" | "retry"> {
  readonly messageId: string;
  /** True when the sender chose the id, so that a repetition must be recognised. */
  readonly ownId: boolean;
  readonly fromAgent: string;
  readonly originalType: string | null;
  readonly kind: MessageKind;
  readonly priority: number;
  readonly maxAttempts: number;
  readonly contentText: string;
  /** What contentText stands for, once it was packed; undefined: for itself. */
  readonly contentEncoding?: "gzip" | "ref";
  readonly headersText: string | null;
  readonly retryText: string | null;
  /** The recipients as they were written, where they were addresses, or the message goes another way. */
  readonly addressedTo?: readonly string[] | undefined;
  /** The senders of the messages that led to it, oldest first. */
  readonly trail?: readonly string[] | undefined;
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
  const given = input instanceof AgentMessage ? input.toInput() : input;
  const fields = plainFields(given) ?? parse(messageSchema, given, what);
  const { headers: head, hops, causationId, contextId } = fields;
  const { maxMessageBytes, maxContentBytes = maxMessageBytes } = defaults;
  const remedy = defaults.maxContentBytes === undefined ? NO_STORE : TOO_LARGE_FOR_STORE;
  const contentText = jsonDocument(fields.content, `${what}.content`, maxContentBytes, remedy);
  const policy = portableChoice(fields.retry, `${what}.retry`, defaults.retryPolicies);
  const { messageType, originalType } = normalType(fields.messageType);
  const descended = descent({ hops, causationId, contextId }, defaults.cause, defaults.loops);
  // Field by field: an object of always the same shape costs a third of one that is spread together.
  return {
    toAgent: fields.toAgent,
    messageType,
    originalType,
    kind: fields.kind ?? kindOf(messageType),
    messageId: fields.messageId ?? newId(),
    ownId: fields.messageId !== undefined,
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
    contentText,
    headersText:
      head === undefined
        ? null
        : jsonDocument(head, `${what}.headers`, maxMessageBytes, HEADERS_TOO_LARGE),
  };
}
