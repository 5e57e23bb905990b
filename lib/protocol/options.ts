import { z } from "zod";
import { claimCheckSchema, compressSchema } from "./claim-check.ts";
import { flowSchema } from "./flow.ts";
import {
  type RetryPoliciesInput,
  type RetryPolicyInput,
  retryPoliciesSchema,
  retryPolicySchema,
} from "./retry.ts";
import { durationMs, id, plainText, positiveInt, workerId } from "./validate.ts";

/** The options of every public call of the queue: strict, with defaults, checked once at the door. */

const DAY_MS = 86_400_000;

export const queueOptionsSchema = z.strictObject({
  /** What the table names begin with. Default "outbox_". */
  prefix: z.string().default("outbox_"),
  /** `fromAgent` of messages that name none. Default "system". */
  agentId: id.default("system"),
  /** When a failed message runs again, where the message or the worker does not say. Default: 3 runs, 1 s × 2, at most 30 s. */
  retryPolicy: retryPolicySchema.prefault({}),
  /**
   * Policies, or names of policies, by the class of an error (RETRY_POLICIES, or an own one that errors name in
   * `retryPolicy`), its code or its name. Default: those of RETRY_POLICIES by their class.
   */
  retryPolicies: retryPoliciesSchema.default({}),
  /** The most that content and headers may take as UTF-8 JSON, in bytes. Default 1,000,000. */
  maxMessageBytes: positiveInt(1_000_000_000).default(1_000_000),
  /** False: contents are stored as they are. Default: gzip above 8,192 bytes, where it saves a tenth or more. */
  compress: compressSchema,
  /** Where contents go that are too large for a row. Default: nowhere, they are refused. */
  claimCheck: claimCheckSchema.optional(),
  /** How long finished messages are kept, in milliseconds; 0: not at all. Default seven days. */
  archiveRetentionMs: durationMs().default(7 * DAY_MS),
  /** How long dead letters are kept, in milliseconds; 0: until someone redrives or discards them. Default 0. */
  deadLetterRetentionMs: durationMs().default(0),
  /**
   * How long a mailbox knows which messages of EXACTLY_ONCE it has processed, in milliseconds; 0: for ever. Default
   * 90 days: longer than a message comes back from a sender that repeats itself, a dead letter or a restored backup,
   * at about 200 bytes a message.
   */
  inboxRetentionMs: durationMs().default(90 * DAY_MS),
  /**
   * How many messages may lead to one, each sent by the handler of the one before; one more becomes a dead letter.
   * 0: no limit. Default 32.
   */
  maxHops: z.number().int().min(0).max(1_000_000).default(32),
  /**
   * How many round trips two agents may answer each other in one chain; one more message becomes a dead letter.
   * 0 to 100; 0: no limit. Default 10.
   */
  maxPingPong: z.number().int().min(0).max(100).default(10),
  /**
   * How many messages may be sent under one contextId, in all mailboxes; further ones become dead letters. Where it
   * is set, senders of one conversation wait for each other's transactions. 0: no limit. Default 0.
   */
  maxConversationMessages: z.number().int().min(0).max(1_000_000_000).default(0),
  /** How long a messageId of the sender's choosing is remembered, in milliseconds. Default seven days. */
  messageIdWindowMs: durationMs(1).default(7 * DAY_MS),
  /** PostgreSQL only: tell waiting workers of new messages by NOTIFY. Off: they find them by polling. Default true. */
  notify: z.boolean().default(true),
  /**
   * PostgreSQL only: prepare the statements that run most often, by name, once for each connection. Where a pooler
   * refuses that, it is found out and left; in transactions, which a refusal would end, only where the process that
   * greeted a connection is the one that answers on it. Off: for poolers that keep a connection for whoever prepares
   * (RDS Proxy), and where connections are cleared between transactions (`DISCARD ALL`). Default true.
   */
  prepare: z.boolean().default(true),
  /**
   * PostgreSQL only: upkeep vacuums the live tables as soon as many of their rows are dead, every few seconds under
   * load, instead of leaving them to grow until autovacuum comes. Only by an account that may. Default true.
   */
  vacuum: z.boolean().default(true),
  /** How senders are kept from sending more than their destinations get done. Default: by `maxDepth` of mailboxes only. */
  flow: flowSchema.optional(),
});
export type QueueOptions = z.output<typeof queueOptionsSchema>;
export type QueueOptionsInput = Omit<
  z.input<typeof queueOptionsSchema>,
  "retryPolicy" | "retryPolicies"
> & {
  retryPolicy?: RetryPolicyInput;
  retryPolicies?: RetryPoliciesInput;
};

const WEEK_MS = 7 * DAY_MS;

export const receiveOptionsSchema = z.strictObject({
  /** The most messages to claim, 1 to 1,000. Default 10. */
  limit: positiveInt(1_000).default(10),
  /** How long the claim is valid, in milliseconds; 1 to a week. Default 30,000. */
  leaseMs: durationMs(1).max(WEEK_MS, "expected at most a week").default(30_000),
  /** How long to wait for a message when there is none, in milliseconds. Default 0. */
  waitMs: durationMs().max(DAY_MS, "expected at most a day").default(0),
  /** Only these types; others stay where they are. Default: all. */
  messageTypes: z.array(id).min(1).max(100).optional(),
  /** Who claims, for `why` and the dead letters. Default: host, process and a number. */
  workerId: workerId.optional(),
});
export type ReceiveOptions = z.input<typeof receiveOptionsSchema>;

export const markOptionsSchema = z.strictObject({
  /** The claim meant. Default: the one that this agent holds now. */
  receipt: z.number().int().min(1).optional(),
});

export const nackOptionsSchema = z.strictObject({
  /** Milliseconds until the next run. Default: by the retry policy. */
  delayMs: durationMs().optional(),
  /** False: no further run, straight to the dead letters. Default true. */
  retry: z.boolean().default(true),
});
export type NackOptions = z.input<typeof nackOptionsSchema>;

/** `nack` by id: what a claim's own `nack` takes, and which claim is meant. */
export const nackByIdSchema = nackOptionsSchema.extend(markOptionsSchema.shape);

export const cancelOptionsSchema = z.strictObject({
  /** Only in this mailbox. Default: in all that have the message. */
  toAgent: id.optional(),
});

export const pauseOptionsSchema = z.strictObject({
  /** Shown by `why`. */
  reason: plainText(1_024).optional(),
});

export const reasonSchema = plainText(4_096).min(1, "expected a reason");
export const delaySchema = durationMs();
/** The bounds of a lease, wherever one is given. */
export const leaseSchema = receiveOptionsSchema.shape.leaseMs.unwrap();
export const messageListSchema = z.array(z.unknown(), "expected an array of messages");

export const sweepPayloadsSchema = z.strictObject({
  /** Only what was stored longer ago than this, in milliseconds; at least a minute. Default one day. */
  olderThanMs: durationMs(60_000).optional(),
  /** Only count what would be deleted. Default false. */
  dryRun: z.boolean().optional(),
  /** Ends it between two contents. */
  signal: z.instanceof(AbortSignal).optional(),
});
export type SweepPayloadsOptions = z.input<typeof sweepPayloadsSchema>;
