import { v7 as uuid } from "uuid";
import { z } from "zod";
import { ValidationFailed } from "../errors.ts";
import {
  DEFAULT_PRIORITY,
  kindOf,
  MESSAGE_KINDS,
  type MessageKind,
  normalType,
  type Priority,
  priorityName,
  priorityValue,
} from "./types.ts";
import {
  durationMs,
  id,
  instant,
  jsonDocument,
  parse,
  plainText,
  positiveInt,
  shown,
} from "./validate.ts";

/** What a message is about: a JSON object or array. */
export type Content = Record<string, unknown> | readonly unknown[];

/** Values of one scalar type each, like HTTP headers. */
export type Headers = Record<string, string | number | boolean>;

/** A message going in: only `toAgent`, `messageType` and `content` are required. */
export interface MessageInput {
  /** The mailbox, or several (at most 1,000): each gets the message, under one id. */
  toAgent: string | readonly string[];
  /** Any string of 1 to 128 visible characters; founding names are normalised (see MessageType). */
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
  /** Runs before it is dead-lettered. Default: the queue's retry policy (3). */
  maxAttempts?: number | undefined;
  /** While its window lasts, a second message to the same mailbox with this key is not stored. */
  dedupeKey?: string | undefined;
  /** Milliseconds. Default 300,000 (five minutes). */
  dedupeWindowMs?: number | undefined;
  correlationId?: string | undefined;
  causationId?: string | undefined;
  /** The mailbox that `reply` answers to. Default: fromAgent. */
  replyTo?: string | undefined;
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

const headers = z.record(
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

const messageSchema = z
  .strictObject({
    toAgent: recipients,
    messageType: id,
    content: z.unknown(),
    fromAgent: id.optional(),
    messageId: id.optional(),
    kind: z.enum(MESSAGE_KINDS).optional(),
    priority: priority.optional(),
    delayMs: durationMs().optional(),
    availableAt: instant.optional(),
    ttlMs: durationMs(1).optional(),
    expiresAt: instant.optional(),
    maxAttempts: positiveInt(1_000).optional(),
    dedupeKey: plainText(255).min(1, "expected 1 to 255 characters").optional(),
    dedupeWindowMs: durationMs(1).optional(),
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
  .refine(ttlOrInstant.check, { message: ttlOrInstant.message, path: ["expiresAt"] });

export interface EncodeDefaults {
  readonly fromAgent: string;
  readonly maxAttempts: number;
  readonly maxMessageBytes: number;
}

/** A message checked and completed: ready for the store, which adds only the database's time. */
export interface EncodedMessage
  extends Omit<z.output<typeof messageSchema>, "content" | "headers"> {
  readonly messageId: string;
  /** True when the sender chose the id, so that a repetition must be recognised. */
  readonly ownId: boolean;
  readonly fromAgent: string;
  readonly originalType: string | null;
  readonly kind: MessageKind;
  readonly priority: number;
  readonly maxAttempts: number;
  readonly contentText: string;
  readonly headersText: string | null;
}

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
  const { content, headers: head, ...fields } = parse(messageSchema, given, what);
  const contentText = jsonDocument(content, `${what}.content`, defaults.maxMessageBytes);
  return {
    ...fields,
    ...normalType(fields.messageType),
    kind: fields.kind ?? kindOf(normalType(fields.messageType).messageType),
    messageId: fields.messageId ?? uuid(),
    ownId: fields.messageId !== undefined,
    fromAgent: fields.fromAgent ?? defaults.fromAgent,
    priority: fields.priority ?? DEFAULT_PRIORITY,
    maxAttempts: fields.maxAttempts ?? defaults.maxAttempts,
    contentText,
    headersText:
      head === undefined ? null : jsonDocument(head, `${what}.headers`, defaults.maxMessageBytes),
  };
}

/** What every message has, wherever it is. Instants are milliseconds since the epoch. */
export interface MessageFields {
  messageId: string;
  fromAgent: string;
  toAgent: string;
  messageType: string;
  kind: MessageKind;
  content: Content;
  priority: number;
  timestamp: number;
  originalType: string | null;
  headers: Headers;
  correlationId: string | null;
  causationId: string | null;
  replyTo: string | null;
  contextId: string | null;
  taskId: string | null;
  subject: string | null;
  expiresAt: number | null;
}

const NAMES = [
  ["message_id", "messageId"],
  ["from_agent", "fromAgent"],
  ["to_agent", "toAgent"],
  ["message_type", "messageType"],
  ["kind", "kind"],
  ["content", "content"],
  ["priority", "priority"],
  ["timestamp", "timestamp"],
  ["original_type", "originalType"],
  ["headers", "headers"],
  ["correlation_id", "correlationId"],
  ["causation_id", "causationId"],
  ["reply_to", "replyTo"],
  ["context_id", "contextId"],
  ["task_id", "taskId"],
  ["subject", "subject"],
  ["expires_at", "expiresAt"],
] as const satisfies readonly (readonly [string, keyof MessageFields])[];

type MessageSeed = Pick<MessageFields, "toAgent" | "messageType" | "content"> &
  Partial<Omit<MessageFields, "toAgent" | "messageType" | "content" | "priority">> & {
    priority?: Priority;
  };

/** One message. Properties are camelCase; its JSON, on the wire and in logs, is snake_case. */
export class AgentMessage implements MessageFields {
  readonly messageId: string;
  readonly fromAgent: string;
  readonly toAgent: string;
  readonly messageType: string;
  readonly kind: MessageKind;
  readonly content: Content;
  readonly priority: number;
  readonly timestamp: number;
  readonly originalType: string | null;
  readonly headers: Headers;
  readonly correlationId: string | null;
  readonly causationId: string | null;
  readonly replyTo: string | null;
  readonly contextId: string | null;
  readonly taskId: string | null;
  readonly subject: string | null;
  readonly expiresAt: number | null;

  /** @throws ValidationFailed when a field is not what MessageInput says. */
  constructor(seed: MessageSeed) {
    const type = normalType(parse(id, seed.messageType, "message.messageType"));
    this.messageId = parse(id, seed.messageId ?? uuid(), "message.messageId");
    this.fromAgent = parse(id, seed.fromAgent ?? "system", "message.fromAgent");
    this.toAgent = parse(id, seed.toAgent, "message.toAgent");
    this.messageType = type.messageType;
    this.originalType = seed.originalType ?? type.originalType;
    this.kind = parse(z.enum(MESSAGE_KINDS), seed.kind ?? kindOf(type.messageType), "message.kind");
    this.content = seed.content;
    this.priority = parse(priority, seed.priority ?? DEFAULT_PRIORITY, "message.priority");
    this.timestamp = parse(instant, seed.timestamp ?? Date.now(), "message.timestamp");
    this.headers = seed.headers ?? {};
    this.correlationId = seed.correlationId ?? null;
    this.causationId = seed.causationId ?? null;
    this.replyTo = seed.replyTo ?? null;
    this.contextId = seed.contextId ?? null;
    this.taskId = seed.taskId ?? null;
    this.subject = seed.subject ?? null;
    this.expiresAt = seed.expiresAt ?? null;
  }

  /** The message as `sendMessage` takes it. */
  toInput(): MessageInput {
    const optional = <T>(value: T | null): T | undefined => value ?? undefined;
    return {
      messageId: this.messageId,
      fromAgent: this.fromAgent,
      toAgent: this.toAgent,
      messageType: this.originalType ?? this.messageType,
      kind: this.kind,
      content: this.content,
      priority: this.priority,
      timestamp: this.timestamp,
      headers: this.headers,
      correlationId: optional(this.correlationId),
      causationId: optional(this.causationId),
      replyTo: optional(this.replyTo),
      contextId: optional(this.contextId),
      taskId: optional(this.taskId),
      subject: optional(this.subject),
      expiresAt: optional(this.expiresAt),
    };
  }

  /** snake_case, the timestamp in ISO 8601, the priority by name; absent fields are left out. */
  toJSON(): Record<string, unknown> {
    const json: Record<string, unknown> = {};
    for (const [name, key] of NAMES) {
      const value = this[key];
      if (value === null || (key === "headers" && Object.keys(this.headers).length === 0)) continue;
      json[name] = value;
    }
    json.priority = priorityName(this.priority);
    json.timestamp = new Date(this.timestamp).toISOString();
    if (this.expiresAt !== null) json.expires_at = new Date(this.expiresAt).toISOString();
    return json;
  }

  toJson(): string {
    return JSON.stringify(this);
  }

  /** @throws ValidationFailed when the text is no message. Fields it does not know are refused. */
  static fromJson(text: string): AgentMessage {
    let json: unknown;
    try {
      json = JSON.parse(text);
    } catch (cause) {
      throw new ValidationFailed(`message: not JSON: ${(cause as Error).message}`, { cause });
    }
    if (json === null || typeof json !== "object" || Array.isArray(json)) {
      throw new ValidationFailed(`message: expected a JSON object, got ${shown(json)}`);
    }
    const names = new Map<string, keyof MessageFields>(NAMES);
    const seed: Record<string, unknown> = {};
    for (const [name, value] of Object.entries(json)) {
      const key = names.get(name);
      if (key === undefined) throw new ValidationFailed(`message.${name}: is not a known field`);
      seed[key] = value;
    }
    for (const key of ["priority"] as const) {
      if (typeof seed[key] === "string" && /^\d+$/.test(seed[key])) seed[key] = Number(seed[key]);
    }
    for (const key of ["timestamp", "expiresAt"] as const) {
      if (seed[key] !== undefined) seed[key] = parse(instant, seed[key], `message.${key}`);
    }
    for (const key of ["correlationId", "causationId", "replyTo", "contextId", "taskId"] as const) {
      if (seed[key] !== undefined) parse(id, seed[key], `message.${key}`);
    }
    if (seed.headers !== undefined) parse(headers, seed.headers, "message.headers");
    jsonDocument(seed.content, "message.content", Number.POSITIVE_INFINITY);
    return new AgentMessage(seed as MessageSeed);
  }
}
