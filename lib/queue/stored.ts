import type { ErrorRecord } from "../errors.ts";
import type { ContentRef } from "../protocol/claim-check.ts";
import type { DeadLetterReason, FailedRun } from "../protocol/dead-letters.ts";
import type { Content, Headers } from "../protocol/message-input.ts";
import type { DeliveryMode } from "../protocol/types.ts";
import { ORIGIN_HEADER } from "../store/dead-letters.ts";
import type { ParseJson } from "../store/rows.ts";
import { int, intOrNull, type Row } from "../store/sql.ts";
import { contentRef } from "./content/content.ts";
import type { QueueCore } from "./core.ts";

/** Where a message is. `leased` ends by itself: a lease that has passed reads as `ready`. */
export type MessageState =
  | "ready"
  | "scheduled"
  | "blocked"
  | "leased"
  | "processed"
  | "cancelled"
  | "dead";

/** A message as it lies in the database. Instants are milliseconds since the epoch, by the database's clock. */
export interface StoredMessage {
  messageId: string;
  fromAgent: string;
  toAgent: string;
  messageType: string;
  originalType: string | null;
  kind: string;
  priority: number;
  /** Null where it lies in a claim-check store and was not fetched, or cannot be read. */
  content: Content | null;
  /** Where the content lies, in a claim-check store; null: in the database. */
  contentRef: ContentRef | null;
  headers: Headers;
  correlationId: string | null;
  causationId: string | null;
  replyTo: string | null;
  contextId: string | null;
  taskId: string | null;
  subject: string | null;
  orderingKey: string | null;
  concurrencyKey: string | null;
  /** Null: 1. */
  cost: number | null;
  /** Null: AT_LEAST_ONCE. */
  delivery: DeliveryMode | null;
  hops: number;
  createdAt: number;
  expiresAt: number | null;
  sequence: number;
  state: MessageState;
  attempt: number;
  /** Null once it is finished. */
  maxAttempts: number | null;
  /** When it can be handed out, or the end of its lease; null once it is finished. */
  visibleAt: number | null;
  workerId: string | null;
  lastError: ErrorRecord | null;
  /** Its last failed runs, at most ten, oldest first. A run that was put off or given back is none. */
  failures: readonly FailedRun[];
  progress: unknown;
  /** When it was processed, cancelled or dead-lettered. */
  finishedAt: number | null;
  /** Why it is dead. */
  reason: string | null;
}

export interface DeadLetter extends StoredMessage {
  /** One of DEAD_LETTER_REASONS, or a handler's own word. */
  reason: DeadLetterReason | (string & {});
  failedAt: number;
  firstFailedAt: number | null;
  /** The end of its last run; when it failed, where no run is noted. */
  lastAttemptAt: number;
  /** Equal for failures of one cause. */
  fingerprint: string;
  /** How often it was sent again before. */
  redriven: number;
  /** The mailbox that it was sent to first, before it was redriven into another one. */
  originalAgent: string;
}

const optional = (value: unknown) => (value === undefined ? null : (value as string | null));

function common(row: Row, json: ParseJson) {
  return {
    messageId: String(row.message_id),
    fromAgent: String(row.from_agent),
    toAgent: String(row.to_agent),
    messageType: String(row.message_type),
    originalType: optional(row.original_type),
    kind: String(row.kind),
    priority: int(row.priority),
    content: optional(row.content_encoding) === null ? (json(row.content) as Content) : null,
    contentRef: row.content_encoding === "ref" ? contentRef(json(row.content)) : null,
    headers: (json(row.headers) ?? {}) as Headers,
    correlationId: optional(row.correlation_id),
    causationId: optional(row.causation_id),
    replyTo: optional(row.reply_to),
    contextId: optional(row.context_id),
    taskId: optional(row.task_id),
    subject: optional(row.subject),
    orderingKey: optional(row.ordering_key),
    concurrencyKey: optional(row.concurrency_key),
    cost: intOrNull(row.cost),
    delivery: optional(row.delivery) as DeliveryMode | null,
    hops: intOrNull(row.hops) ?? 0,
    createdAt: int(row.created_at),
    expiresAt: intOrNull(row.expires_at),
    sequence: int(row.seq),
    attempt: int(row.attempt),
    workerId: optional(row.worker_id),
    failures: (json(row.failures) ?? []) as readonly FailedRun[],
  };
}

const STATES: readonly MessageState[] = ["ready", "scheduled", "blocked"];

/** Fills in a content that the row only stands for; one in a claim-check store only with `fetch`. */
export async function completed<M extends StoredMessage>(
  core: QueueCore,
  message: M,
  row: Row,
  fetch: boolean,
): Promise<M> {
  const encoding = optional(row.content_encoding);
  if (encoding === null || (encoding === "ref" && !fetch)) return message;
  const stored = core.store.parseJson(row.content);
  const { messageId } = message;
  // Who asks about a message is told all the rest of it, whatever became of its content.
  const content = await core.contents.unpack({ messageId, encoding, stored }).catch(() => null);
  return { ...message, content };
}

export function liveMessage(row: Row, json: ParseJson, now: number): StoredMessage {
  const visibleAt = int(row.visible_at);
  const state = STATES[int(row.state)] ?? "ready";
  const leased = row.worker_id !== null && visibleAt > now;
  return {
    ...common(row, json),
    state: leased ? "leased" : state === "scheduled" && visibleAt <= now ? "ready" : state,
    maxAttempts: int(row.max_attempts),
    visibleAt,
    lastError: json(row.last_error) as ErrorRecord | null,
    progress: json(row.progress),
    finishedAt: null,
    reason: null,
  };
}

export function archivedMessage(row: Row, json: ParseJson): StoredMessage {
  return {
    ...common(row, json),
    state: row.outcome === "cancelled" ? "cancelled" : "processed",
    maxAttempts: null,
    visibleAt: null,
    lastError: null,
    progress: null,
    finishedAt: int(row.finished_at),
    reason: null,
  };
}

export function deadLetter(row: Row, json: ParseJson): DeadLetter {
  const message = common(row, json);
  return {
    ...message,
    state: "dead",
    maxAttempts: int(row.max_attempts),
    visibleAt: null,
    lastError: json(row.last_error) as ErrorRecord | null,
    progress: null,
    finishedAt: int(row.failed_at),
    failedAt: int(row.failed_at),
    firstFailedAt: intOrNull(row.first_failed_at),
    lastAttemptAt: message.failures.at(-1)?.at ?? int(row.failed_at),
    reason: String(row.reason),
    fingerprint: String(row.fingerprint),
    redriven: int(row.redriven),
    originalAgent: String(message.headers[ORIGIN_HEADER] ?? message.toAgent),
  };
}
