/**
 * What happened, told after it was committed. The queue, the registry and the supervisor hand these to the
 * observers of the outbox; file logging, metrics and tracing are such observers and nothing more, so that
 * taking them away changes no behaviour.
 */

/** The life of a message as the audit log tells it. */
export type MessageEventName =
  | "sent"
  | "delivered"
  | "received"
  | "read"
  | "processed"
  | "retried"
  | "released"
  | "expired"
  | "rejected"
  | "cancelled"
  | "dead_lettered"
  | "replayed";

export interface MessageEvent {
  readonly type: "message";
  readonly event: MessageEventName;
  readonly messageId: string;
  readonly fromAgent: string;
  readonly toAgent: string;
  readonly messageType: string;
  /** Milliseconds since the epoch. */
  readonly at: number;
  readonly correlationId?: string | undefined;
  readonly traceId?: string | undefined;
  readonly taskId?: string | undefined;
  readonly attempt?: number | undefined;
  readonly reason?: string | undefined;
  readonly durationMs?: number | undefined;
}

export interface AgentEvent {
  readonly type: "agent";
  /** For example `registered`, `deregistered`, `draining`, `status_change`, `lost`. */
  readonly event: string;
  readonly agentId: string;
  readonly at: number;
  readonly data: Readonly<Record<string, unknown>>;
}

export type TaskEventName =
  | "submitted"
  | "assigned"
  | "reassigned"
  | "progress"
  | "input_required"
  | "auth_required"
  /** A question was answered; `data.input_id`. */
  | "input_answered"
  | "paused"
  | "resumed"
  /** A report that changed nothing: it came late, twice, or from an agent that no longer has the task. */
  | "stale"
  | "completed"
  | "failed"
  | "cancelled"
  | "rejected";

export interface TaskEvent {
  readonly type: "task";
  readonly event: TaskEventName;
  readonly taskId: string;
  /** Null while no agent has the task. */
  readonly agentId: string | null;
  readonly at: number;
  /** Ends carry `duration_ms` and `success`. */
  readonly data: Readonly<Record<string, unknown>>;
  readonly correlationId?: string | undefined;
  readonly attempt?: number | undefined;
}

export interface MetricEvent {
  readonly type: "metric";
  readonly agentId: string;
  readonly metric: string;
  readonly value: number;
  readonly unit: string;
  readonly at: number;
}

export interface ErrorEvent {
  readonly type: "error";
  readonly agentId: string;
  readonly errorType: string;
  readonly errorMessage: string;
  readonly at: number;
  readonly data?: Readonly<Record<string, unknown>> | undefined;
  readonly messageId?: string | undefined;
  readonly taskId?: string | undefined;
  readonly correlationId?: string | undefined;
}

export type OutboxEvent = MessageEvent | AgentEvent | TaskEvent | MetricEvent | ErrorEvent;

/** Called with what was committed, in order. It must not block; what it throws is dropped. */
export type Observer = (events: readonly OutboxEvent[]) => void;

function tell(observers: ReadonlySet<Observer>, events: readonly OutboxEvent[]): void {
  for (const observer of observers) {
    try {
      observer(events);
    } catch {
      // An observer is never allowed to fail what it observes (guarantee G12).
    }
  }
}

function added(observers: Set<Observer>, observer: Observer): () => void {
  observers.add(observer);
  return () => {
    observers.delete(observer);
  };
}

const everywhere = new Set<Observer>();

/** Observes every outbox of this process, those opened later included. Returns the call that stops it. */
export function observeEverything(observer: Observer): () => void {
  return added(everywhere, observer);
}

/** Hands events to every observer; one that throws disturbs neither the others nor the caller. */
export class Observers {
  readonly #observers = new Set<Observer>();

  /** Adds an observer and returns the call that takes it away again. */
  add(observer: Observer): () => void {
    return added(this.#observers, observer);
  }

  get active(): boolean {
    return this.#observers.size > 0 || everywhere.size > 0;
  }

  emit(events: readonly OutboxEvent[]): void {
    if (events.length === 0) return;
    tell(this.#observers, events);
    tell(everywhere, events);
  }
}
