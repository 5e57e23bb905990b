import type { MessageEvent, MessageEventName } from "../protocol/events.ts";

/** What observers are told of a message, wherever it comes from: a send, a claim or a row. */
export interface EventFields {
  readonly messageId: string;
  readonly fromAgent: string;
  readonly toAgent: string;
  readonly messageType: string;
  readonly correlationId?: string | null | undefined;
  readonly taskId?: string | null | undefined;
}

export function messageEvent(
  event: MessageEventName,
  message: EventFields,
  extra: Pick<MessageEvent, "at" | "attempt" | "reason" | "durationMs">,
): MessageEvent {
  return {
    type: "message",
    event,
    messageId: message.messageId,
    fromAgent: message.fromAgent,
    toAgent: message.toAgent,
    messageType: message.messageType,
    correlationId: message.correlationId ?? undefined,
    taskId: message.taskId ?? undefined,
    ...extra,
  };
}

export function fieldsOf(row: {
  readonly message_id: unknown;
  readonly from_agent: unknown;
  readonly to_agent: unknown;
  readonly message_type: unknown;
  readonly correlation_id?: unknown;
  readonly task_id?: unknown;
}): EventFields {
  return {
    messageId: String(row.message_id),
    fromAgent: String(row.from_agent),
    toAgent: String(row.to_agent),
    messageType: String(row.message_type),
    correlationId: (row.correlation_id as string | null) ?? undefined,
    taskId: (row.task_id as string | null) ?? undefined,
  };
}
