import type { TaskWarning } from "../../protocol/tasks.ts";
import type { WorkflowState } from "../../protocol/workflow-states.ts";
import type {
  Compensation,
  RetryPlan,
  StepDefinition,
  StepSeverity,
  StepState,
  WorkflowFailure,
  WorkflowMode,
  WorkflowSummary,
} from "../../protocol/workflows.ts";
import type { ParseJson } from "../rows.ts";
import { int, intOrNull, type Row } from "../sql.ts";

/** What decides about a step; read at every move of its workflow, so it is small. */
export interface StepPlan {
  readonly kind: "task" | "signal";
  readonly dependsOn: readonly string[];
  readonly severity: StepSeverity;
  readonly retry: RetryPlan;
  /** What a signal step waits for. */
  readonly signal: string | null;
  readonly taskType: string | null;
  readonly timeoutMs: number | null;
  readonly undoable: boolean;
}

/** What its task is made of; read when it begins. */
export type StepWork = StepDefinition | Compensation;

export type StepPart = "do" | "undo";

/** A step, or the compensation of one, as a move of its workflow sees it. */
export interface StepRow {
  readonly stepId: string;
  readonly part: StepPart;
  readonly position: number;
  readonly plan: StepPlan;
  readonly state: StepState;
  readonly attempt: number;
  readonly failures: number;
  readonly taskId: string | null;
  readonly dueAt: number | null;
  readonly completion: number | null;
  /** Whether its agent warned of something. */
  readonly warned: boolean;
}

/** The same with what it brought. */
export interface FullStepRow extends StepRow {
  readonly result: unknown;
  readonly error: WorkflowFailure | null;
  readonly warnings: readonly TaskWarning[];
  readonly startedAt: number | null;
  readonly finishedAt: number | null;
}

/** What a move writes of a step. */
export interface StepChange {
  state?: StepState;
  attempt?: number;
  failures?: number;
  taskId?: string | null;
  dueAt?: number | null;
  completion?: number | null;
  /** JSON text. */
  result?: string | null;
  error?: WorkflowFailure | null;
  warnings?: readonly TaskWarning[] | null;
  startedAt?: number | null;
  finishedAt?: number | null;
}

/** The reason of the end, and what is to follow. */
export interface StoredFailure extends WorkflowFailure {
  /** Whether what completed is to be undone. */
  readonly compensate: boolean;
  /** Whether somebody wanted it to end. */
  readonly canceled: boolean;
}

/** A workflow, as a move sees it. */
export interface WorkflowRow extends Omit<WorkflowSummary, "failure"> {
  readonly failure: StoredFailure | null;
  readonly resumesAs: WorkflowState | null;
  readonly version: number;
  readonly outputBytes: number;
  readonly completions: number;
  readonly deadlineMs: number | null;
  readonly dueAt: number | null;
}

export interface WorkflowChange {
  resumesAs?: WorkflowState | null;
  failure?: StoredFailure | null;
  outputBytes?: number;
  completions?: number;
  deadlineMs?: number | null;
  deadlineAt?: number | null;
  dueAt?: number | null;
  finishedAt?: number | null;
}

/** Everything of a workflow but its input, which may be large. */
export const WORKFLOW_COLUMNS = [
  "seq",
  "workflow_id",
  "workflow_type",
  "mode",
  "supervisor_id",
  "state",
  "resumes_as",
  "version",
  "context_id",
  "correlation_id",
  "on_failure",
  "failure",
  "output_bytes",
  "completions",
  "deadline_ms",
  "deadline_at",
  "due_at",
  "created_at",
  "finished_at",
];

export const STEP_COLUMNS = [
  "step_id",
  "part",
  "position",
  "plan",
  "state",
  "attempt",
  "failures",
  "task_id",
  "due_at",
  "completion",
  "warnings",
];

const text = (value: unknown): string | null => (value as string | null) ?? null;

export function workflowRow(row: Row, json: ParseJson): WorkflowRow {
  return {
    seq: int(row.seq),
    workflowId: String(row.workflow_id),
    workflowType: String(row.workflow_type),
    mode: row.mode as WorkflowMode,
    supervisorId: String(row.supervisor_id),
    state: row.state as WorkflowState,
    resumesAs: text(row.resumes_as) as WorkflowState | null,
    version: int(row.version),
    contextId: text(row.context_id),
    correlationId: text(row.correlation_id),
    onFailure: row.on_failure as "compensate" | "stop",
    failure: json(row.failure) as StoredFailure | null,
    outputBytes: int(row.output_bytes),
    completions: int(row.completions),
    deadlineMs: intOrNull(row.deadline_ms),
    deadlineAt: intOrNull(row.deadline_at),
    dueAt: intOrNull(row.due_at),
    createdAt: int(row.created_at),
    finishedAt: intOrNull(row.finished_at),
  };
}

export function stepRow(row: Row, json: ParseJson): StepRow {
  return {
    stepId: String(row.step_id),
    part: row.part as StepPart,
    position: int(row.position),
    plan: json(row.plan) as StepPlan,
    state: row.state as StepState,
    attempt: int(row.attempt),
    failures: int(row.failures),
    taskId: text(row.task_id),
    dueAt: intOrNull(row.due_at),
    completion: intOrNull(row.completion),
    warned: row.warnings !== null,
  };
}

export function fullStepRow(row: Row, json: ParseJson): FullStepRow {
  return {
    ...stepRow(row, json),
    result: json(row.result),
    error: json(row.error) as WorkflowFailure | null,
    warnings: (json(row.warnings) ?? []) as TaskWarning[],
    startedAt: intOrNull(row.started_at),
    finishedAt: intOrNull(row.finished_at),
  };
}

const JSON_COLUMNS = new Set(["failure", "error", "warnings"]);

/** The columns of a change: `finishedAt` is `finished_at`, and so on. */
export function columnsOf(
  change: StepChange | WorkflowChange,
): Record<string, string | number | null> {
  const columns: Record<string, string | number | null> = {};
  for (const [key, value] of Object.entries(change)) {
    const column = key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    columns[column] =
      value !== null && JSON_COLUMNS.has(column)
        ? JSON.stringify(value)
        : (value as string | number | null);
  }
  return columns;
}
