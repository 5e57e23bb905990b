import type { GateWarning, Handoff, HandoffContext, HandoffState } from "../protocol/handoffs.ts";
import type { ParseJson } from "./rows.ts";
import { int, intOrNull, type Row } from "./sql.ts";

/** A handoff with what only the library needs to know of it. */
export type StoredHandoff = Handoff & { readonly detached: boolean };

export function handoffOf(row: Row, json: ParseJson): StoredHandoff {
  return {
    handoffId: String(row.handoff_id),
    from: String(row.from_agent),
    to: String(row.to_agent),
    requiredCapabilities: json(row.required_capabilities) as string[] | null,
    taskId: text(row.task_id),
    assignment: intOrNull(row.assignment),
    detached: int(row.detached) === 1,
    contextId: text(row.context_id),
    correlationId: text(row.correlation_id),
    reason: String(row.reason),
    currentState: json(row.current_state),
    context: json(row.context) as HandoffContext,
    deliverables: json(row.deliverables) as Record<string, unknown>,
    actionsRequired: json(row.actions_required) as string[],
    priority: int(row.priority),
    estimatedEffort: text(row.estimated_effort),
    state: row.state as HandoffState,
    note: text(row.note),
    outcome: text(row.outcome) as Handoff["outcome"],
    warnings: (json(row.warnings) ?? []) as GateWarning[],
    messageId: String(row.message_id),
    seq: int(row.seq),
    createdAt: int(row.created_at),
    dueAt: int(row.due_at),
    acceptedAt: intOrNull(row.accepted_at),
    startedAt: intOrNull(row.started_at),
    endedAt: intOrNull(row.ended_at),
  };
}

function text(value: unknown): string | null {
  return (value as string | null | undefined) ?? null;
}
