import type { TaskState } from "../protocol/states.ts";
import type { Task, TaskFailure, TaskProgress } from "../protocol/tasks.ts";
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
  };
}
