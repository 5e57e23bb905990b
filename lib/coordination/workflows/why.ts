import { AgentCommunicationError } from "../../errors.ts";
import { isOver, type WorkflowState } from "../../protocol/workflow-states.ts";
import type { StepState } from "../../protocol/workflows.ts";
import type { FullStepRow, WorkflowRow } from "../../store/workflows/rows.ts";
import { explainTask } from "../why/why.ts";
import type { TaskExplanation } from "../why/words.ts";
import type { Engine } from "./move.ts";

export interface StepExplanation {
  readonly stepId: string;
  /** True for the compensation of the step. */
  readonly compensation: boolean;
  readonly state: StepState;
  /** In one sentence, for people. */
  readonly reason: string;
  /** The steps that must end first. */
  readonly waitsFor: readonly string[];
  /** What its task waits for; of the first 20 steps. Null where there is no task under way. */
  readonly task: TaskExplanation | null;
  /** The signal that must come. */
  readonly signal: string | null;
  /** When it goes on by itself, or is given up. */
  readonly dueAt: number | null;
}

export interface WorkflowExplanation {
  readonly workflowId: string;
  readonly state: WorkflowState;
  /** In one sentence, for people. */
  readonly reason: string;
  /** The steps that are not over: the first 100. */
  readonly steps: readonly StepExplanation[];
}

const MOST_STEPS = 100;
const MOST_TASKS = 20;
const OVER: readonly StepState[] = ["completed", "failed", "skipped", "canceled"];

/** Says of each open step what keeps it. */
export async function explain(
  engine: Engine,
  workflow: WorkflowRow,
  rows: readonly FullStepRow[],
  now: number,
): Promise<WorkflowExplanation> {
  const open = rows.filter(({ state }) => !OVER.includes(state)).slice(0, MOST_STEPS);
  const states = new Map(
    rows.flatMap(({ part, stepId, state }) => (part === "do" ? [[stepId, state]] : [])),
  );
  const steps: StepExplanation[] = [];
  for (const row of open) {
    const waitsFor =
      row.state === "pending"
        ? row.plan.dependsOn.filter((before) => !OVER.includes(states.get(before) ?? "pending"))
        : [];
    const asked = row.taskId !== null && (row.state === "running" || row.state === "stopping");
    const task = asked && steps.length < MOST_TASKS ? await whyTask(engine, row.taskId) : null;
    steps.push({
      stepId: row.stepId,
      compensation: row.part === "undo",
      state: row.state,
      waitsFor,
      task,
      signal: row.state === "running" ? row.plan.signal : null,
      dueAt: row.dueAt,
      reason: reasonOf(row, { workflow, waitsFor, task, now }),
    });
  }
  return {
    workflowId: workflow.workflowId,
    state: workflow.state,
    reason: summary(workflow, steps),
    steps,
  };
}

/** Null where the task has gone: a sweep sees to that. */
async function whyTask({ parts }: Engine, taskId: string | null): Promise<TaskExplanation | null> {
  try {
    return taskId === null ? null : await explainTask(parts, taskId);
  } catch (error) {
    if (error instanceof AgentCommunicationError && error.code === "UNKNOWN_TASK") return null;
    throw error;
  }
}

interface Known {
  readonly workflow: WorkflowRow;
  readonly waitsFor: readonly string[];
  readonly task: TaskExplanation | null;
  readonly now: number;
}

function reasonOf(row: FullStepRow, { workflow, waitsFor, task, now }: Known): string {
  if (row.state === "stopping") return "its task is being canceled";
  if (row.state === "running") {
    if (row.plan.signal !== null) return `the signal "${row.plan.signal}" has not come`;
    const how = task === null ? "has not ended" : `is ${task.state}: ${task.explanation}`;
    return `its task "${row.taskId}" ${how}`;
  }
  if (row.state === "waiting") {
    const left = Math.max(0, (row.dueAt ?? now) - now);
    const said = row.error === null ? "could not be sent" : `failed (${row.error.message})`;
    return `attempt ${row.attempt} ${said}; the next one is due in ${left} ms`;
  }
  if (workflow.state === "paused") return "the workflow is paused";
  if (waitsFor.length === 0) return "it begins with the next sweep of a supervisor";
  return `${waitsFor.length} of the steps before it have not ended: ${waitsFor.slice(0, 10).join(", ")}`;
}

function summary(
  { state, failure, resumesAs }: WorkflowRow,
  steps: readonly StepExplanation[],
): string {
  if (isOver(state)) {
    return failure === null
      ? `it is ${state}`
      : `it is ${state}: ${failure.code}: ${failure.message}`;
  }
  if (state === "paused") return `it is paused, and goes on as ${resumesAs} after resume`;
  const under = steps.filter(({ state }) => state !== "pending");
  const names = under.slice(0, 5).map(({ stepId, reason }) => `${stepId}: ${reason}`);
  const what = failure === null ? state : `${state}, and ending (${failure.code})`;
  return `it is ${what}; ${names.length === 0 ? "nothing is under way" : names.join("; ")}`;
}
