import { z } from "zod";
import { type RetryChoiceInput, retryChoiceSchema } from "./retry.ts";
import {
  DELIVERY_MODES,
  type DeliveryMode,
  MESSAGE_KINDS,
  type MessageKind,
  type Priority,
  priorityValue,
} from "./types.ts";
import { durationMs, id, instant, isId, plainText, positiveInt } from "./validate.ts";

/** What a message is about: a JSON object or array. */
export type Content = Record<string, unknown> | readonly unknown[];

/** Values of one scalar type each, like HTTP headers. */
export type Headers = Record<string, string | number | boolean>;

/** A message going in: only `toAgent`, `messageType` and `content` are required. */
export interface MessageInput {
  /** The mailbox, or several (at most 1,000): each gets the message, under one id. */
  toAgent: string | readonly string[];
  /** Any string of 1 to 128 visible characters; alternative names are normalised (see MessageType). */
  messageType: string;
  content: Content | object;
  /** Default: the `agentId` of the queue's options, else "system". */
  fromAgent?: string | undefined;
  /** Sending the same id from the same sender again stores nothing. Default: a UUIDv7. */
  messageId?: string | undefined;
  /** Default: that of the message type, else "event". */
  kind?: MessageKind | undefined;
  /** LOW 10, NORMAL or MEDIUM 20, HIGH 30, CRITICAL or URGENT 40, in any case; or 0 to 100. Default NORMAL. */
  priority?: Priority | undefined;
  /** Not handed out before this many milliseconds from now, by the database's clock. Default 0. */
  delayMs?: number | undefined;
  /** Instead of delayMs: not handed out before this instant. */
  availableAt?: Date | string | number | undefined;
  /** Expires this many milliseconds after it became available. Default: never. */
  ttlMs?: number | undefined;
  /** Instead of ttlMs: expires at this instant. */
  expiresAt?: Date | string | number | undefined;
  /** Runs before it is dead-lettered, whatever any retry policy says. Default: by the policies (3). */
  maxAttempts?: number | undefined;
  /** The retry policy for errors of no class, or the name of one. Default: the handler's, the mailbox's, the queue's. */
  retry?: RetryChoiceInput | undefined;
  /** While its window lasts, a second message to the same recipient (or list of them) with this key is not stored. */
  dedupeKey?: string | undefined;
  /** Milliseconds. Default 300,000 (five minutes). */
  dedupeWindowMs?: number | undefined;
  /**
   * Messages of one mailbox with the same key are handed out strictly in the order in which they were sent, one
   * at a time, in all processes, also over retries and deferrals. Until its sender's transaction ends, other
   * senders of the key wait for it.
   */
  orderingKey?: string | undefined;
  /** At most N messages of one mailbox with the same key are in flight; N is the mailbox's `keyLimit`, 1 unless set. */
  concurrencyKey?: string | undefined;
  /** What it takes from the token buckets that it passes, 1 to 1,000,000,000. Default 1. */
  cost?: number | undefined;
  /** Default AT_LEAST_ONCE. */
  delivery?: DeliveryMode | undefined;
  /**
   * How many messages led to this one. Default: one more than the message whose handler sends it, and never less;
   * without one 0. Given as 0: it begins a new chain, and inherits nothing.
   */
  hops?: number | undefined;
  correlationId?: string | undefined;
  /** Default: the id of the message whose handler sends it. */
  causationId?: string | undefined;
  /** The mailbox that `reply` answers to. Default: fromAgent. */
  replyTo?: string | undefined;
  /** The conversation that it belongs to. Default: that of the message whose handler sends it. */
  contextId?: string | undefined;
  taskId?: string | undefined;
  subject?: string | undefined;
  headers?: Headers | undefined;
  /** The sender's own clock; kept out of every decision. The stored message bears the database's time. */
  timestamp?: Date | string | number | undefined;
}

export const priority = z
  .custom<Priority>((value) => priorityValue(value) !== undefined, {
    message: "expected LOW, NORMAL, MEDIUM, HIGH, CRITICAL, URGENT or an integer from 0 to 100",
  })
  .transform((value) => priorityValue(value) as number);

export const headers = z.record(
  plainText(128),
  z.union([plainText(8_192), z.number(), z.boolean()], "expected a string, number or boolean"),
);

const recipients = z
  .custom<string | readonly string[]>(
    (value) => typeof value === "string" || Array.isArray(value),
    { message: "expected an agent id, or an array of them" },
  )
  .transform((value) => [...new Set(typeof value === "string" ? [value] : value)])
  .pipe(
    z
      .array(id)
      .min(1, "expected at least one recipient")
      .max(1_000, "expected at most 1,000 recipients"),
  );

const exclusive = (a: string, b: string) => ({
  check: (value: Record<string, unknown>) => value[a] === undefined || value[b] === undefined,
  message: `give ${a} or ${b}, not both`,
});
const delayOrInstant = exclusive("delayMs", "availableAt");
const ttlOrInstant = exclusive("ttlMs", "expiresAt");
const orderOrShare = exclusive("orderingKey", "concurrencyKey");

export const messageSchema = z
  .strictObject({
    toAgent: recipients,
    messageType: id,
    // Checked as JSON, with words of its own.
    content: z.unknown().optional(),
    fromAgent: id.optional(),
    messageId: id.optional(),
    kind: z.enum(MESSAGE_KINDS).optional(),
    priority: priority.optional(),
    delayMs: durationMs().optional(),
    availableAt: instant.optional(),
    ttlMs: durationMs(1).optional(),
    expiresAt: instant.optional(),
    maxAttempts: positiveInt(1_000).optional(),
    retry: retryChoiceSchema.optional(),
    dedupeKey: plainText(255).min(1, "expected 1 to 255 characters").optional(),
    dedupeWindowMs: durationMs(1).optional(),
    orderingKey: id.optional(),
    concurrencyKey: id.optional(),
    cost: positiveInt(1_000_000_000).optional(),
    delivery: z.enum(DELIVERY_MODES).optional(),
    hops: z.number().int().min(0).max(1_000_000).optional(),
    correlationId: id.optional(),
    causationId: id.optional(),
    replyTo: id.optional(),
    contextId: id.optional(),
    taskId: id.optional(),
    subject: plainText(1_024).optional(),
    headers: headers.optional(),
    timestamp: instant.optional(),
  })
  .refine(delayOrInstant.check, { message: delayOrInstant.message, path: ["availableAt"] })
  .refine(ttlOrInstant.check, { message: ttlOrInstant.message, path: ["expiresAt"] })
  .refine(orderOrShare.check, { message: orderOrShare.message, path: ["concurrencyKey"] });

type Fields = z.output<typeof messageSchema>;

/** Fields that are nothing but an id. */
const IDS: ReadonlySet<string> = new Set([
  ...["messageType", "fromAgent", "messageId", "correlationId", "causationId"],
  ...["replyTo", "contextId", "taskId"],
]);

/** Whether what it has is its own. */
export function isBare(given: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(given);
  return prototype === Object.prototype || prototype === null;
}

/**
 * What `messageSchema` makes of a message that says little more than where it goes, at a fifth of the cost;
 * undefined for any other one, and for one that is wrong, whose error the schema words.
 */
export function plainFields(given: object): Fields | undefined {
  if (!isBare(given)) return undefined;
  const { toAgent, messageType, priority } = given as Record<string, unknown>;
  if (!isId(toAgent) || !isId(messageType)) return undefined;
  for (const key of Object.keys(given)) {
    if (key === "toAgent" || key === "content" || key === "priority") continue;
    const value = (given as Record<string, unknown>)[key];
    if (!IDS.has(key) || (value !== undefined && !isId(value))) return undefined;
  }
  const fields = { ...given, toAgent: [toAgent] } as Fields;
  if (priority === undefined) return fields;
  const number = priorityValue(priority);
  return number === undefined ? undefined : { ...fields, priority: number };
}
