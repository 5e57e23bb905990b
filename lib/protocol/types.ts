/**
 * The two axes of "type": a closed `kind`, which the library itself acts on, and an open `messageType`, which
 * belongs to the application. Names that mean the same share one value.
 */

export const MESSAGE_KINDS = [
  "task",
  "request",
  "response",
  "event",
  "command",
  "notification",
  "heartbeat",
  "batch",
  "control",
] as const;

export type MessageKind = (typeof MESSAGE_KINDS)[number];

/** The message types that the library knows. Any other string is a type too. */
export const MessageType = {
  TASK_ASSIGNMENT: "TASK_ASSIGNMENT",
  TASK_REQUEST: "TASK_ASSIGNMENT",
  TASK_RESPONSE: "TASK_RESPONSE",
  TASK_RESULT: "TASK_RESPONSE",
  TASK_CANCEL: "TASK_CANCEL",
  INPUT_REQUEST: "INPUT_REQUEST",
  INPUT_RESPONSE: "INPUT_RESPONSE",
  STATUS_UPDATE: "STATUS_UPDATE",
  STATE_UPDATE: "STATE_UPDATE",
  HEARTBEAT: "HEARTBEAT",
  ERROR_REPORT: "ERROR_REPORT",
  ERROR_NOTIFICATION: "ERROR_REPORT",
  COORDINATION: "COORDINATION",
  COORDINATION_REQUEST: "COORDINATION",
  REQUEST: "REQUEST",
  RESPONSE: "RESPONSE",
  EVENT: "EVENT",
  COMMAND: "COMMAND",
  NOTIFICATION: "NOTIFICATION",
  BATCH: "BATCH",
  AGENT_HANDOFF: "AGENT_HANDOFF",
  HANDOFF_ACCEPTED: "HANDOFF_ACCEPTED",
  HANDOFF_REJECTED: "HANDOFF_REJECTED",
  HANDOFF_RETURNED: "HANDOFF_RETURNED",
  HANDOFF_COMPLETED: "HANDOFF_COMPLETED",
  HANDOFF_WITHDRAWN: "HANDOFF_WITHDRAWN",
  CALL_FOR_BIDS: "CALL_FOR_BIDS",
  BID: "BID",
  BID_REJECTED: "BID_REJECTED",
  CHANGE_REQUEST_UPDATED: "CHANGE_REQUEST_UPDATED",
  SYSTEM_MAINTENANCE: "SYSTEM_MAINTENANCE",
  SYSTEM_READY: "SYSTEM_READY",
} as const;

export type KnownMessageType = (typeof MessageType)[keyof typeof MessageType];

const KIND_OF: Record<KnownMessageType, MessageKind> = {
  TASK_ASSIGNMENT: "task",
  TASK_RESPONSE: "response",
  TASK_CANCEL: "control",
  INPUT_REQUEST: "request",
  INPUT_RESPONSE: "response",
  STATUS_UPDATE: "event",
  STATE_UPDATE: "event",
  HEARTBEAT: "heartbeat",
  ERROR_REPORT: "notification",
  COORDINATION: "command",
  REQUEST: "request",
  RESPONSE: "response",
  EVENT: "event",
  COMMAND: "command",
  NOTIFICATION: "notification",
  BATCH: "batch",
  AGENT_HANDOFF: "request",
  CHANGE_REQUEST_UPDATED: "notification",
  SYSTEM_MAINTENANCE: "control",
  SYSTEM_READY: "control",
  HANDOFF_ACCEPTED: "notification",
  HANDOFF_REJECTED: "notification",
  HANDOFF_RETURNED: "notification",
  HANDOFF_COMPLETED: "notification",
  HANDOFF_WITHDRAWN: "notification",
  CALL_FOR_BIDS: "request",
  BID: "response",
  BID_REJECTED: "notification",
};

/** The kind of a message whose sender named none: that of its known type, otherwise "event". */
export function kindOf(messageType: string): MessageKind {
  return Object.hasOwn(KIND_OF, messageType) ? KIND_OF[messageType as KnownMessageType] : "event";
}

export interface NormalType {
  readonly messageType: string;
  /** What the sender wrote, where it differs. */
  readonly originalType: string | null;
}

/** `task_request`, `TASK_REQUEST` and `TASK_ASSIGNMENT` become one; types of the application stay as they are. */
export function normalType(written: string): NormalType {
  const upper = written.toUpperCase();
  const messageType = Object.hasOwn(MessageType, upper)
    ? MessageType[upper as keyof typeof MessageType]
    : written;
  return { messageType, originalType: messageType === written ? null : written };
}

/**
 * How often a handler may see a message. AT_MOST_ONCE: it is finished before it is handed out. AT_LEAST_ONCE: it
 * comes again until it is acknowledged. EXACTLY_ONCE: as before, and the consumer remembers what it has done.
 */
export const DELIVERY_MODES = ["AT_MOST_ONCE", "AT_LEAST_ONCE", "EXACTLY_ONCE"] as const;

export type DeliveryMode = (typeof DELIVERY_MODES)[number];

/** Higher is served first. Any integer from 0 to 100 is a priority; these are the named ones. */
export const MessagePriority = {
  LOW: 10,
  NORMAL: 20,
  MEDIUM: 20,
  HIGH: 30,
  CRITICAL: 40,
  URGENT: 40,
} as const;

export type PriorityName = keyof typeof MessagePriority | Lowercase<keyof typeof MessagePriority>;
export type Priority = number | PriorityName;

export const DEFAULT_PRIORITY: number = MessagePriority.NORMAL;

/** The number behind a priority in any of its spellings, or undefined when it is none. */
export function priorityValue(priority: unknown): number | undefined {
  if (typeof priority === "number") {
    return Number.isInteger(priority) && priority >= 0 && priority <= 100 ? priority : undefined;
  }
  if (typeof priority !== "string") return undefined;
  const upper = priority.toUpperCase();
  return Object.hasOwn(MessagePriority, upper)
    ? MessagePriority[upper as keyof typeof MessagePriority]
    : undefined;
}

/** The name of a priority, or its number where it has no name. */
export function priorityName(priority: number): string {
  return { 10: "LOW", 20: "NORMAL", 30: "HIGH", 40: "CRITICAL" }[priority] ?? String(priority);
}
