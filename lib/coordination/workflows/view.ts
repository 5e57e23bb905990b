import type { Workflow, WorkflowFailure, WorkflowSummary } from "../../protocol/workflows.ts";
import type { FullStepRow, WorkflowRow } from "../../store/workflows/rows.ts";

/** A workflow as it is shown: without what only the engine needs to know. */
export function summaryOf(row: WorkflowRow): WorkflowSummary {
  return {
    workflowId: row.workflowId,
    workflowType: row.workflowType,
    mode: row.mode,
    supervisorId: row.supervisorId,
    state: row.state,
    failure: plain(row.failure),
    contextId: row.contextId,
    correlationId: row.correlationId,
    onFailure: row.onFailure,
    seq: row.seq,
    createdAt: row.createdAt,
    deadlineAt: row.deadlineAt,
    finishedAt: row.finishedAt,
  };
}

function plain(failure: WorkflowRow["failure"]): WorkflowFailure | null {
  if (failure === null) return null;
  const { compensate: _compensate, canceled: _canceled, ...shown } = failure;
  return shown;
}

const progressOf = ({
  state,
  attempt,
  taskId,
  dueAt,
  error,
  startedAt,
  finishedAt,
}: FullStepRow) => ({ state, attempt, taskId, dueAt, error, startedAt, finishedAt });

/** All of it, with what the steps brought, and what went wrong gathered in one place. */
export function workflowOf(
  row: WorkflowRow,
  input: unknown,
  rows: readonly FullStepRow[],
): Workflow {
  const steps = rows.filter(({ part }) => part === "do");
  const undos = new Map(rows.flatMap((row) => (row.part === "undo" ? [[row.stepId, row]] : [])));
  const failed = ({ state, error }: FullStepRow) =>
    state === "failed" && error !== null ? [error] : [];
  const undoErrors = [...undos.values()].flatMap(failed);
  const summary = summaryOf(row);
  return {
    ...summary,
    failure: row.state === "compensation_failed" ? (undoErrors[0] ?? null) : summary.failure,
    input,
    steps: steps.map((step) => {
      const undo = undos.get(step.stepId);
      return {
        ...progressOf(step),
        stepId: step.stepId,
        kind: step.plan.kind,
        taskType: step.plan.taskType,
        signal: step.plan.signal,
        dependsOn: step.plan.dependsOn,
        severity: step.plan.severity,
        result: step.result,
        completion: step.completion,
        compensation: undo === undefined ? null : progressOf(undo),
      };
    }),
    result: Object.fromEntries(
      steps.flatMap(({ state, stepId, result }) =>
        state === "completed" ? [[stepId, result]] : [],
      ),
    ),
    errors: [
      ...steps.filter(({ plan }) => plan.severity === "critical").flatMap(failed),
      ...undoErrors,
    ],
    warnings: steps.flatMap((step) => [
      ...(step.plan.severity === "warning" ? failed(step) : []),
      ...step.warnings.map((warning) => ({ ...warning, stepId: step.stepId })),
    ]),
  };
}
