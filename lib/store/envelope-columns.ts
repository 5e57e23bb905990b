/** The columns that the live table, the archive and the dead letters share, in one order for all statements. */
export const ENVELOPE = [
  "message_id",
  "from_agent",
  "to_agent",
  "message_type",
  "original_type",
  "kind",
  "content",
  "headers",
  "correlation_id",
  "causation_id",
  "reply_to",
  "context_id",
  "task_id",
  "subject",
  "ordering_key",
  "concurrency_key",
  "dedupe_key",
  "created_at",
  "expires_at",
  "priority",
  "cost",
  "delivery",
  "retry",
  "hops",
  "trail",
  "content_encoding",
  "failures",
] as const;

/** Those that hold JSON documents. */
export const DOCUMENTS = ["content", "headers", "retry", "trail", "failures"] as const;

const COMPUTED: readonly string[] = ["created_at", "expires_at", "failures"];

/** Those of them that a sender gives as they are; the rest the statement computes. */
export const GIVEN = ENVELOPE.filter((column) => !COMPUTED.includes(column));

/** What a claim returns, besides the envelope. */
export const CLAIMED = [
  "seq",
  "receipt",
  "attempt",
  "max_attempts",
  "visible_at",
  "progress",
  "redriven",
  "worker_id",
  "rank",
] as const;

export const DEAD = [
  "worker_id",
  "attempt",
  "max_attempts",
  "first_failed_at",
  "redriven",
] as const;

/** What observers are told of a message that no caller holds. */
export const TOLD = [
  "seq",
  "message_id",
  "from_agent",
  "to_agent",
  "message_type",
  "correlation_id",
  "task_id",
] as const;

/** `a, b` or, with a table, `t.a, t.b`. */
export function list(columns: readonly string[], table?: string): string {
  return columns.map((column) => (table === undefined ? column : `${table}.${column}`)).join(", ");
}

/**
 * A doomed message is leased to the reason that ends it, so that a claimer which dies before it has buried the
 * message leaves a lease like any other.
 */
export const DOOM_PREFIX = "!";

export function doomOf(workerId: unknown): "expired" | "max_attempts" | null {
  if (workerId === `${DOOM_PREFIX}expired`) return "expired";
  return workerId === `${DOOM_PREFIX}max_attempts` ? "max_attempts" : null;
}

/**
 * A mailbox that the plain claim leaves alone: paused, or to be asked through its gate. The row of the empty id,
 * which no agent can have, speaks for all mailboxes. Bound: agent.
 */
export const SHUT = "agent_id IN (:agent, '') AND (paused_at IS NOT NULL OR gated = 1)";

/** Messages whose end lets no other one through. */
export const UNKEYED = "ordering_key IS NULL AND concurrency_key IS NULL";
