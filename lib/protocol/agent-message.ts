import { z } from "zod";
import { ValidationFailed } from "../errors.ts";
import { newId } from "./ids.ts";
import {
  type Content,
  type Headers,
  headers,
  type MessageInput,
  priority,
} from "./message-input.ts";
import {
  DEFAULT_PRIORITY,
  type DeliveryMode,
  kindOf,
  MESSAGE_KINDS,
  type MessageKind,
  normalType,
  type Priority,
  priorityName,
} from "./types.ts";
import { id, instant, jsonDocument, parse, shown } from "./validate.ts";

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
  orderingKey: string | null;
  concurrencyKey: string | null;
  /** Null: 1. */
  cost: number | null;
  /** Null: AT_LEAST_ONCE. */
  delivery: DeliveryMode | null;
  /** How many messages led to this one. */
  hops: number;
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
  ["ordering_key", "orderingKey"],
  ["concurrency_key", "concurrencyKey"],
  ["cost", "cost"],
  ["delivery", "delivery"],
  ["hops", "hops"],
] as const satisfies readonly (readonly [string, keyof MessageFields])[];

/** Fields that are ids where they are there. */
const IDS = [
  "correlationId",
  "causationId",
  "replyTo",
  "contextId",
  "taskId",
  "orderingKey",
  "concurrencyKey",
] as const;

type MessageSeed = Pick<MessageFields, "toAgent" | "messageType" | "content"> &
  Partial<Omit<MessageFields, "toAgent" | "messageType" | "content" | "priority">> & {
    priority?: Priority;
  };

/** What every message must have. */
type StoredFields = Pick<
  MessageFields,
  | "messageId"
  | "fromAgent"
  | "toAgent"
  | "messageType"
  | "originalType"
  | "kind"
  | "priority"
  | "timestamp"
>;

const kind = z.enum(MESSAGE_KINDS);

function checked(seed: MessageSeed): StoredFields {
  const type = normalType(parse(id, seed.messageType, "message.messageType"));
  return {
    messageId: parse(id, seed.messageId ?? newId(), "message.messageId"),
    fromAgent: parse(id, seed.fromAgent ?? "system", "message.fromAgent"),
    toAgent: parse(id, seed.toAgent, "message.toAgent"),
    messageType: type.messageType,
    originalType: seed.originalType ?? type.originalType,
    kind: parse(kind, seed.kind ?? kindOf(type.messageType), "message.kind"),
    priority: parse(priority, seed.priority ?? DEFAULT_PRIORITY, "message.priority"),
    timestamp: parse(instant, seed.timestamp ?? Date.now(), "message.timestamp"),
  };
}

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
  readonly orderingKey: string | null;
  readonly concurrencyKey: string | null;
  readonly cost: number | null;
  readonly delivery: DeliveryMode | null;
  readonly hops: number;

  /**
   * @param stored what a row holds was checked when it was sent
   * @throws ValidationFailed when a field is not what MessageInput says.
   */
  constructor(seed: MessageSeed, stored?: StoredFields) {
    const sure = stored ?? checked(seed);
    this.messageId = sure.messageId;
    this.fromAgent = sure.fromAgent;
    this.toAgent = sure.toAgent;
    this.messageType = sure.messageType;
    this.originalType = sure.originalType;
    this.kind = sure.kind;
    this.content = seed.content;
    this.priority = sure.priority;
    this.timestamp = sure.timestamp;
    this.headers = seed.headers ?? {};
    this.correlationId = seed.correlationId ?? null;
    this.causationId = seed.causationId ?? null;
    this.replyTo = seed.replyTo ?? null;
    this.contextId = seed.contextId ?? null;
    this.taskId = seed.taskId ?? null;
    this.subject = seed.subject ?? null;
    this.expiresAt = seed.expiresAt ?? null;
    this.orderingKey = seed.orderingKey ?? null;
    this.concurrencyKey = seed.concurrencyKey ?? null;
    this.cost = seed.cost ?? null;
    this.delivery = seed.delivery ?? null;
    this.hops = seed.hops ?? 0;
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
      orderingKey: optional(this.orderingKey),
      concurrencyKey: optional(this.concurrencyKey),
      cost: optional(this.cost),
      delivery: optional(this.delivery),
      hops: this.hops === 0 ? undefined : this.hops,
    };
  }

  /** snake_case, the timestamp in ISO 8601, the priority by name; absent fields are left out. */
  toJSON(): Record<string, unknown> {
    const json: Record<string, unknown> = {};
    for (const [name, key] of NAMES) {
      const value = this[key];
      if (value === null || (key === "headers" && Object.keys(this.headers).length === 0)) continue;
      if (key === "hops" && value === 0) continue;
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
    for (const key of IDS) {
      if (seed[key] !== undefined) parse(id, seed[key], `message.${key}`);
    }
    if (seed.headers !== undefined) parse(headers, seed.headers, "message.headers");
    jsonDocument(seed.content, "message.content", Number.POSITIVE_INFINITY);
    return new AgentMessage(seed as MessageSeed);
  }
}
