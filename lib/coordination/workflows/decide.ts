import { isOver, type WorkflowState } from "../../protocol/workflow-states.ts";
import type {
  RetryPlan,
  StepSeverity,
  StepState,
  WorkflowFailure,
} from "../../protocol/workflows.ts";

/** How a step, or its compensation, stands. */
interface LaneView {
  readonly state: StepState;
  readonly dueAt: number | null;
}

/** A step, as far as decisions need it. */
export interface StepView extends LaneView {
  readonly stepId: string;
  readonly kind: "task" | "signal";
  readonly dependsOn: readonly string[];
  readonly severity: StepSeverity;
  /** Whether it has a compensation. */
  readonly undoable: boolean;
  /** Its place among those that completed. */
  readonly completion: number | null;
  readonly warned: boolean;
  readonly undo: LaneView | null;
}

export interface WorkflowView {
  readonly state: WorkflowState;
  readonly deadlineAt: number | null;
  readonly onFailure: "compensate" | "stop";
  /** Set once it is certain that it fails, or was canceled. */
  readonly failure: { readonly compensate: boolean; readonly canceled: boolean } | null;
}

export type Action =
  /** Begin a step, or try it again. */
  | { readonly type: "start"; readonly stepId: string }
  /** Cancel the task of a step; it ends in a transaction of its own. */
  | { readonly type: "stop"; readonly stepId: string }
  /** A step that no task is under way for will not go on. */
  | { readonly type: "drop"; readonly stepId: string }
  /** Begin the compensation of a step, or try it again. */
  | { readonly type: "undo"; readonly stepId: string }
  /** From now on it fails: its deadline has passed. */
  | { readonly type: "overdue" }
  | { readonly type: "become"; readonly state: WorkflowState };

const LIVE: readonly StepState[] = ["running", "waiting", "stopping"];
const isLive = ({ state }: LaneView): boolean => LIVE.includes(state);

/** Nothing more is to come of it, and those after it may go on. */
function isBehind({ state, severity }: StepView): boolean {
  return (
    state === "completed" || state === "skipped" || (state === "failed" && severity !== "critical")
  );
}

const isDue = ({ state, dueAt }: LaneView, now: number): boolean =>
  state === "waiting" && (dueAt === null || dueAt <= now);

/**
 * What is to be done now. Pure: the same rows and the same time give the same answer, whoever asks, so that another
 * process goes on where one died. When all of it was done, the next call says what follows from that.
 */
export function decide(workflow: WorkflowView, steps: readonly StepView[], now: number): Action[] {
  if (workflow.state === "running") {
    return workflow.failure === null
      ? goOn(workflow, steps, now)
      : windDown(workflow.failure, steps);
  }
  return workflow.state === "compensating" ? undo(steps, now) : [];
}

function goOn(workflow: WorkflowView, steps: readonly StepView[], now: number): Action[] {
  const open = steps.some((step) => step.state === "pending" || isLive(step));
  if (!open) {
    const warned = steps.some(
      (step) => step.warned || (step.state === "failed" && step.severity === "warning"),
    );
    return [{ type: "become", state: warned ? "completed_with_warnings" : "completed" }];
  }
  if (workflow.deadlineAt !== null && workflow.deadlineAt <= now) return [{ type: "overdue" }];
  const behind = new Set(steps.filter(isBehind).map(({ stepId }) => stepId));
  return steps
    .filter(
      (step) =>
        isDue(step, now) ||
        (step.state === "pending" && step.dependsOn.every((before) => behind.has(before))),
    )
    .map(({ stepId }) => ({ type: "start", stepId }));
}

/** It fails or was canceled: first all that is under way comes to its end, so that what completed is certain. */
function windDown(
  failure: NonNullable<WorkflowView["failure"]>,
  steps: readonly StepView[],
): Action[] {
  const actions = steps.flatMap((step): Action[] => {
    const { state, kind, stepId } = step;
    if (state === "running") return [{ type: kind === "signal" ? "drop" : "stop", stepId }];
    return state === "pending" || state === "waiting" ? [{ type: "drop", stepId }] : [];
  });
  if (actions.length > 0) return actions;
  if (steps.some(({ state }) => state === "stopping")) return [];
  if (failure.compensate && nextUndo(steps) !== undefined) {
    return [{ type: "become", state: "compensating" }];
  }
  return [{ type: "become", state: failure.canceled ? "canceled" : "failed" }];
}

function undo(steps: readonly StepView[], now: number): Action[] {
  for (const step of steps) {
    if (step.undo === null || step.undo.state === "completed") continue;
    if (step.undo.state === "failed") return [{ type: "become", state: "compensation_failed" }];
    const again = step.undo.state === "pending" || isDue(step.undo, now);
    return again ? [{ type: "undo", stepId: step.stepId }] : [];
  }
  const next = nextUndo(steps);
  return next === undefined
    ? [{ type: "become", state: "compensated" }]
    : [{ type: "undo", stepId: next.stepId }];
}

/** What completed last goes first. */
function nextUndo(steps: readonly StepView[]): StepView | undefined {
  let last: StepView | undefined;
  for (const step of steps) {
    if (step.state !== "completed" || !step.undoable || step.undo !== null) continue;
    if (last === undefined || (step.completion ?? 0) > (last.completion ?? 0)) last = step;
  }
  return last;
}

/** When the next look is due, if nothing happens before: null where it need not be looked at. */
export function nextLook(
  workflow: WorkflowView,
  steps: readonly StepView[],
  now: number,
): number | null {
  if (isOver(workflow.state)) return null;
  const dues: (number | null)[] = [];
  const lanes = steps.flatMap((step) => (step.undo === null ? [step] : [step, step.undo]));
  // Their tasks are to be canceled; also while it is paused.
  if (lanes.some(({ state }) => state === "stopping")) dues.push(now);
  if (workflow.state !== "paused") {
    if (workflow.state === "running" && workflow.failure === null) dues.push(workflow.deadlineAt);
    for (const { state, dueAt } of lanes) {
      if (state === "waiting" || state === "running") dues.push(dueAt);
    }
  }
  const due = dues.filter((at) => at !== null);
  return due.length === 0 ? null : due.reduce((a, b) => Math.min(a, b));
}

const LONGEST_DELAY_MS = 86_400_000;

/** The pause before the next attempt, after so many failures. */
export function pauseMs({ delayMs, factor }: RetryPlan, failures: number): number {
  const most = Math.max(delayMs, LONGEST_DELAY_MS);
  return Math.round(Math.min(most, delayMs * factor ** Math.min(failures - 1, 1_000)));
}

/** What a failed attempt leads to. */
export function afterFailure(
  retry: RetryPlan,
  { failures, final, stopping }: { failures: number; final: boolean; stopping: boolean },
): "canceled" | "failed" | { readonly pauseMs: number } {
  if (stopping) return "canceled";
  if (final || failures >= retry.maxAttempts) return "failed";
  return { pauseMs: pauseMs(retry, failures) };
}

/** That a step failed for good, as its workflow's reason to fail. */
export function failureOf(
  { onFailure }: Pick<WorkflowView, "onFailure">,
  failure: WorkflowFailure,
) {
  return { ...failure, compensate: onFailure === "compensate", canceled: false };
}
