import { z } from "zod";
import { headers, messageSchema } from "./message-input.ts";
import { durationMs, id, instant, plainText, positiveInt } from "./validate.ts";

/** The reasons that the library itself gives; a handler may give a word of its own (`message.deadLetter("no_budget")`). */
export const DEAD_LETTER_REASONS = {
  max_attempts: "every run failed, or ended with its worker",
  expired: "it was not processed before it expired",
  rejected: "a handler or an operator refused it; the error has their words",
  undecryptable: "its content could not be decrypted",
  bad_signature: "its signature is not its sender's",
  schema: "its content is not what its type promises",
  hop_limit: "too many messages led to it",
  ping_pong: "two agents sent each other the same again and again",
  conversation_limit: "its conversation has too many messages",
  unreadable_content: "its content is damaged, or is not what was sent",
  no_handler: "nobody who reads the mailbox knows its type",
} as const;

export type DeadLetterReason = keyof typeof DEAD_LETTER_REASONS;

/** One failed run of a message. */
export interface FailedRun {
  readonly attempt: number;
  /** When it ended, in milliseconds since the epoch. */
  readonly at: number;
  readonly worker: string | null;
  readonly durationMs: number | null;
  readonly error: { readonly code: string; readonly message: string; readonly stack?: string };
}

export const deadLetterFilterSchema = z.strictObject({
  /** Only these messages, at most 1,000. */
  messageIds: z.array(id).min(1).max(1_000).optional(),
  /** Only of this mailbox. */
  agentId: id.optional(),
  /** Only from this sender. */
  fromAgent: id.optional(),
  reason: plainText(32).optional(),
  messageType: id.optional(),
  /** Only failures of one cause: see `groups`. */
  fingerprint: plainText(64).optional(),
  /** Only with this code of the last error. */
  errorCode: plainText(256).optional(),
  /** Only with this text in the message of the last error; upper and lower case are the same. */
  errorText: plainText(256)
    .refine((text) => text.trim() !== "", { message: "expected a text to look for" })
    .optional(),
  /** Only those that failed at this instant or later. */
  failedAfter: instant.optional(),
  /** Only those that failed before this instant. */
  failedBefore: instant.optional(),
  /** Only those that were sent at this instant or later. */
  createdAfter: instant.optional(),
  /** Only those that were sent before this instant. */
  createdBefore: instant.optional(),
});
/** Which dead letters are meant; all conditions must hold. */
export type DeadLetterFilterInput = z.input<typeof deadLetterFilterSchema>;

export const deadLetterListSchema = deadLetterFilterSchema.extend({
  /** The most to return, 1 to 1,000. Default 50. */
  limit: positiveInt(1_000).default(50),
  /** Continue after this sequence number. Default 0. */
  afterSeq: z.number().int().min(0).default(0),
});

export const deadLetterGroupsSchema = z.strictObject({
  /** The most groups, the greatest first; 1 to 1,000. Default 50. */
  limit: positiveInt(1_000).default(50),
});
export type DeadLetterGroupsOptions = z.input<typeof deadLetterGroupsSchema>;

/** How far a redrive or a discard has come. */
export interface DeadLetterProgress {
  /** How many matched so far. */
  readonly matched: number;
  /** How many of them were moved or deleted; the others, someone else took first. */
  readonly done: number;
}

const bulk = {
  /** The most at once, 1 to 1,000,000; the oldest first. Default 1,000. */
  limit: positiveInt(1_000_000).default(1_000),
  /** Only count and show what would go; nothing is changed. Default false. */
  dryRun: z.boolean().default(false),
  /** Ends the work after the step that runs; what is done stays done, the rest stays as it was. */
  signal: z.instanceof(AbortSignal, { message: "expected an AbortSignal" }).optional(),
  /** Called after each step, which is committed then. What it throws ends the work. */
  onProgress: z
    .custom<(progress: DeadLetterProgress) => void>((value) => typeof value === "function", {
      message: "expected a function",
    })
    .optional(),
};

export const redriveSchema = deadLetterFilterSchema.extend({
  ...bulk,
  /** Another mailbox than the one they failed in. */
  toAgent: id.optional(),
  /** Milliseconds until the first is handed out. Default 0. */
  delayMs: durationMs().default(0),
  /** How many become ready per second, evenly spread; 0.01 to 100,000. Default: all at once. */
  perSecond: z
    .number("expected a number per second")
    .min(0.01, "expected at least 0.01 per second")
    .max(100_000, "expected at most 100,000 per second")
    .optional(),
});
type FilterKey = keyof z.input<typeof deadLetterFilterSchema>;
export type RedriveOptions = Omit<z.input<typeof redriveSchema>, FilterKey>;

export const discardSchema = deadLetterFilterSchema.extend(bulk);
export type DiscardOptions = Omit<z.input<typeof discardSchema>, FilterKey>;

const { shape } = messageSchema;

/** What may be corrected. Null takes a value away; headers are merged by name. */
export const deadLetterChangesSchema = z
  .strictObject({
    // Checked as JSON, with words of its own.
    content: z.unknown().optional(),
    headers: z.record(headers.keyType, headers.valueType.nullable()).optional(),
    messageType: shape.messageType.optional(),
    kind: shape.kind,
    priority: shape.priority,
    maxAttempts: shape.maxAttempts,
    subject: shape.subject.nullable(),
    replyTo: shape.replyTo.nullable(),
    correlationId: shape.correlationId.nullable(),
    causationId: shape.causationId.nullable(),
    contextId: shape.contextId.nullable(),
    taskId: shape.taskId.nullable(),
  })
  .refine((changes) => Object.values(changes).some((value) => value !== undefined), {
    message: "names nothing to change",
  });
export type DeadLetterChanges = Omit<z.input<typeof deadLetterChangesSchema>, "content"> & {
  content?: object | undefined;
};

export const deadLetterEditSchema = z
  .strictObject({
    /** The mailbox, where several recipients have a dead letter of one id. */
    agentId: id.optional(),
    /** The `sequence` that was looked at: fails if the letter was redriven and has failed anew since. */
    sequence: z.number().int().min(1).optional(),
    /** Who corrects it; kept in the header `x-edited-by`. */
    by: plainText(256).min(1, "expected a name").optional(),
    /** Send it again at once, in the same transaction. Default false. */
    replay: z.boolean().default(false),
    /** With `replay`: into another mailbox. */
    toAgent: id.optional(),
    /** With `replay`: milliseconds until it is handed out. Default 0. */
    delayMs: durationMs().default(0),
  })
  .refine(({ replay, toAgent, delayMs }) => replay || (toAgent === undefined && delayMs === 0), {
    message: "toAgent and delayMs need replay",
    path: ["replay"],
  });
export type DeadLetterEditOptions = z.input<typeof deadLetterEditSchema>;
export type DeadLetterEdit = z.output<typeof deadLetterEditSchema>;
