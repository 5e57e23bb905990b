import type { BreakerSettings, LimitDefinition } from "../protocol/gates.ts";
import { ownRetry, type RetryChoice } from "../protocol/retry.ts";
import type { Maintenance } from "../protocol/system.ts";
import type { TopologySettings } from "../protocol/topology.ts";
import { int, intOrNull, type Row } from "./sql.ts";

export type BreakerState = "closed" | "open" | "half_open";

/** A mailbox's circuit breaker: what it is set to, and where it stands, for all processes. */
export interface Breaker extends BreakerSettings {
  readonly state: BreakerState;
  /** Failures in the monitoring period that began at `since`. */
  readonly failures: number;
  readonly since: number | null;
  /** Until when it is open. */
  readonly until: number | null;
}

export interface Mailbox {
  readonly agentId: string;
  readonly pausedAt: number | null;
  readonly pauseReason: string | null;
  readonly keyLimit: number | null;
  readonly onDeadLetter: "skip" | "halt" | null;
  readonly agingMs: number | null;
  readonly fair: boolean;
  readonly maxDepth: number | null;
  readonly retryPolicy: RetryChoice | null;
  readonly breaker: Breaker | null;
  /** Null: no gate. 0: its concurrency keys must be promoted. 1: claims go through the gate. */
  readonly gated: number | null;
  /** What is held back everywhere; in the row for all mailboxes only, as is the topology. */
  readonly held: Maintenance | null;
  readonly topology: TopologySettings | null;
}

export interface Limit extends LimitDefinition {
  readonly name: string;
  /** What the bucket holds at `refilledAt`; null: full. */
  readonly tokens: number | null;
  readonly refilledAt: number | null;
  /** Nothing passes before. */
  readonly parkedUntil: number | null;
  readonly removedAt: number | null;
}

const text = (value: unknown) => (value === null || value === undefined ? null : String(value));
const number = (value: unknown) => (value === null || value === undefined ? null : Number(value));

export function mailboxOf(row: Row, parse: (value: unknown) => unknown): Mailbox {
  const threshold = intOrNull(row.breaker_threshold);
  return {
    agentId: String(row.agent_id),
    pausedAt: intOrNull(row.paused_at),
    pauseReason: text(row.pause_reason),
    keyLimit: intOrNull(row.key_limit),
    onDeadLetter: text(row.on_dead_letter) as Mailbox["onDeadLetter"],
    agingMs: intOrNull(row.aging_ms),
    fair: intOrNull(row.fair) === 1,
    maxDepth: intOrNull(row.max_depth),
    retryPolicy: ownRetry(parse(row.retry)).policy ?? null,
    gated: intOrNull(row.gated),
    held: (parse(row.held) ?? null) as Maintenance | null,
    topology: (parse(row.topology) ?? null) as TopologySettings | null,
    breaker:
      threshold === null
        ? null
        : {
            failureThreshold: threshold,
            recoveryTimeoutMs: int(row.breaker_recovery_ms),
            monitoringPeriodMs: int(row.breaker_window_ms),
            whenOpen: String(row.breaker_when_open) as BreakerSettings["whenOpen"],
            state: String(row.breaker_state ?? "closed") as BreakerState,
            failures: intOrNull(row.breaker_failures) ?? 0,
            since: intOrNull(row.breaker_since),
            until: intOrNull(row.breaker_until),
          },
  };
}

export function limitOf(row: Row): Limit {
  const size = number(row.bucket_size);
  const max = intOrNull(row.max_in_flight);
  return {
    name: String(row.name),
    ...(row.agent_id === null ? {} : { agentId: String(row.agent_id) }),
    ...(row.message_type === null ? {} : { messageType: String(row.message_type) }),
    ...(max === null ? {} : { maxInFlight: max }),
    ...(size === null
      ? {}
      : { rate: { amount: Number(row.refill), perMs: int(row.refill_ms), burst: size } }),
    tokens: number(row.tokens),
    refilledAt: intOrNull(row.refilled_at),
    parkedUntil: intOrNull(row.parked_until),
    removedAt: intOrNull(row.removed_at),
  };
}
