import type { EncodedMessage, Head } from "../protocol/envelope.ts";
import type { NewHead, NewMessage } from "./dialect.ts";
import { isPlain, PlainMessages } from "./plain-messages.ts";

/** Where messages go within their mailboxes, as far as the mailboxes' settings say. */
export interface Placing {
  laneOf(messageType: string, toAgent: string): string;
  agingMs(toAgent: string): number | null;
  /** Whether contexts take turns there. */
  fair(toAgent: string): boolean;
}

/** Messages in columns, one for each recipient, if all of them are plain. */
export function inColumns(
  messages: readonly EncodedMessage[],
  placing: Placing | undefined,
): PlainMessages | undefined {
  const plain = new PlainMessages();
  const headsOf = headsWith(placing);
  let last: NewHead[] | undefined;
  for (const { head, messageId, contentText, contentEncoding } of messages) {
    if (contentEncoding !== undefined) return undefined;
    const heads = headsOf(head);
    if (heads !== last && !heads.every(isPlain)) return undefined;
    last = heads;
    for (const own of heads) plain.add(own, messageId, contentText);
  }
  return plain;
}

/** One row per message and recipient. */
export function rowsOf(
  messages: readonly EncodedMessage[],
  placing: Placing | undefined,
): NewMessage[] {
  const headsOf = headsWith(placing);
  return messages.flatMap(({ head, messageId, contentText, contentEncoding }) =>
    headsOf(head).map((own) => ({
      ...own,
      message_id: messageId,
      content: contentText,
      content_encoding: contentEncoding ?? null,
    })),
  );
}

/** The heads of rows, made once for messages that follow each other under one head. */
function headsWith(placing: Placing | undefined): (head: Head) => NewHead[] {
  let last: Head | undefined;
  let made: NewHead[] = [];
  return (head) => {
    if (head !== last) made = headsFor(head, placing);
    last = head;
    return made;
  };
}

/** One for each recipient. */
function headsFor(head: Head, placing: Placing | undefined): NewHead[] {
  return head.toAgent.map((to_agent) => ({
    from_agent: head.fromAgent,
    to_agent,
    message_type: head.messageType,
    original_type: head.originalType,
    kind: head.kind,
    priority: head.priority,
    headers: head.headersText,
    correlation_id: head.correlationId ?? null,
    causation_id: head.causationId ?? null,
    reply_to: head.replyTo ?? null,
    context_id: head.contextId ?? null,
    task_id: head.taskId ?? null,
    subject: head.subject ?? null,
    ordering_key: head.orderingKey ?? null,
    concurrency_key: head.concurrencyKey ?? null,
    dedupe_key: head.dedupeKey ?? null,
    cost: head.cost ?? null,
    delivery: head.delivery ?? null,
    retry: head.retryText,
    hops: head.hops ?? null,
    trail: head.trail === undefined ? null : JSON.stringify(head.trail),
    lane: placing?.laneOf(head.messageType, to_agent) || null,
    rank: null,
    aging_ms: placing?.agingMs(to_agent) ?? null,
    max_attempts: head.maxAttempts,
    delay_ms: head.delayMs ?? null,
    available_at: head.availableAt ?? null,
    ttl_ms: head.ttlMs ?? null,
    expires_at: head.expiresAt ?? null,
  }));
}
