import type { Preference } from "../protocol/capabilities.ts";
import type { TaskState } from "../protocol/states.ts";
import type {
  Task,
  TaskFailure,
  TaskOperation,
  TaskProgress,
  TaskStrategy,
  TaskWarning,
} from "../protocol/tasks.ts";
import type { ParseJson } from "./rows.ts";
import { int, intOrNull, type Row } from "./sql.ts";

/** A new task as the insert takes it. JSON columns are text. */
export interface NewTask {
  readonly task_id: string;
  readonly task_type: string;
  readonly description: string;
  readonly parameters: string;
  readonly required_capabilities: string;
  readonly need_key: string;
  readonly priority: number;
  readonly supervisor_id: string;
  readonly max_assignments: number;
  readonly context_id: string | null;
  readonly correlation_id: string | null;
  readonly deadline_ms: number | null;
  readonly cost: number;
  /** JSON text of the preferences, or null. */
  readonly preferred_capabilities: string | null;
  readonly strategy: string | null;
  readonly parent_task_id: string | null;
  readonly requested_by: string | null;
  /** How many tasks must complete before it. */
  readonly waits_for: number;
  readonly run_timeout_ms: number | null;
  readonly operation: string | null;
  /** JSON text of the auction's terms, or null. */
  readonly auction: string | null;
  readonly auction_ms: number | null;
}

/** Names one assignment of a task. With `agentId` null: the time after it, while no agent has the task. */
export interface Fence {
  readonly taskId: string;
  readonly assignment: number;
  readonly agentId: string | null;
}

export function taskOf(row: Row, json: ParseJson): Task {
  return {
    taskId: String(row.task_id),
    taskType: String(row.task_type),
    description: String(row.description),
    parameters: json(row.parameters) as Record<string, unknown>,
    requiredCapabilities: json(row.required_capabilities) as string[],
    priority: int(row.priority),
    state: row.state as TaskState,
    supervisorId: String(row.supervisor_id),
    agentId: (row.agent_id as string | null) ?? null,
    previousAgentId: (row.previous_agent_id as string | null) ?? null,
    assignment: int(row.assignment),
    maxAssignments: int(row.max_assignments),
    messageId: (row.message_id as string | null) ?? null,
    progress: json(row.progress) as TaskProgress | null,
    result: json(row.result),
    lastError: json(row.last_error) as TaskFailure | null,
    contextId: (row.context_id as string | null) ?? null,
    correlationId: (row.correlation_id as string | null) ?? null,
    seq: int(row.seq),
    createdAt: int(row.created_at),
    assignedAt: intOrNull(row.assigned_at),
    startedAt: intOrNull(row.started_at),
    deadlineAt: intOrNull(row.deadline_at),
    finishedAt: intOrNull(row.finished_at),
    cost: int(row.cost),
    preferredCapabilities: (json(row.preferred_capabilities) ?? []) as Preference[],
    strategy: ((row.strategy as string | null) ?? "leastLoaded") as TaskStrategy,
    parentTaskId: (row.parent_task_id as string | null) ?? null,
    requestedBy: (row.requested_by as string | null) ?? null,
    waitsFor: int(row.waits_for),
    pausedAt: intOrNull(row.paused_at),
    warnings: (json(row.warnings) ?? []) as TaskWarning[],
    runTimeoutMs: intOrNull(row.run_timeout_ms),
    runDeadlineAt: intOrNull(row.run_deadline_at),
    operation: (row.operation as TaskOperation | null) ?? null,
    auction: json(row.auction),
    auctionEndsAt: intOrNull(row.auction_ends_at),
  };
}
