import type { FinishedTask, TaskWarning } from "../../protocol/tasks.ts";
import { isOver, type WorkflowState } from "../../protocol/workflow-states.ts";
import {
  MOST_OUTPUT_BYTES,
  MOST_OUTPUTS_BYTES,
  WORKFLOW_FAILURES,
  type WorkflowFailure,
} from "../../protocol/workflows.ts";
import type {
  StepChange,
  StepRow,
  StoredFailure,
  WorkflowChange,
  WorkflowRow,
} from "../../store/workflows/rows.ts";
import type { WorkflowStore } from "../../store/workflows/workflows.ts";
import type { Tx } from "../parts.ts";
import { afterFailure, failureOf, nextLook, type StepView } from "./decide.ts";

type Writable<T> = { -readonly [K in keyof T]: T[K] };
/** A step, or the compensation of one, as it stands in this move. */
export type Step = Writable<StepRow>;

/** How an attempt ended. */
export type Outcome =
  | { readonly result: unknown; readonly warnings: readonly TaskWarning[] }
  | { readonly failure: WorkflowFailure; readonly final: boolean };

/** Told after the commit. */
export type Tell = (event: string, data: Readonly<Record<string, unknown>>) => void;

/** A workflow and its steps while a move lasts: what happened is noted here, and written at the end. */
export class Book {
  readonly now: number;
  readonly workflow: Writable<WorkflowRow>;
  readonly steps: readonly Step[];
  readonly #undos: Map<string, Step>;
  readonly #before: WorkflowRow;
  readonly #tell: Tell;
  readonly #changes = new Map<Step, StepChange>();
  readonly #change: WorkflowChange = {};
  readonly #states: WorkflowState[] = [];

  constructor(workflow: WorkflowRow, rows: readonly StepRow[], now: number, tell: Tell) {
    this.#before = workflow;
    this.workflow = { ...workflow };
    this.now = now;
    this.#tell = tell;
    this.steps = rows.filter(({ part }) => part === "do").map((row) => ({ ...row }));
    this.#undos = new Map(
      rows.filter(({ part }) => part === "undo").map((row) => [row.stepId, { ...row }]),
    );
  }

  step(stepId: string): Step {
    return this.steps.find((step) => step.stepId === stepId) as Step;
  }

  undoOf(stepId: string): Step | undefined {
    return this.#undos.get(stepId);
  }

  /** A compensation that was made in this move. */
  add(undo: Step): Step {
    this.#undos.set(undo.stepId, undo);
    return undo;
  }

  views(): StepView[] {
    return this.steps.map((step) => ({
      stepId: step.stepId,
      kind: step.plan.kind,
      state: step.state,
      dueAt: step.dueAt,
      dependsOn: step.plan.dependsOn,
      severity: step.plan.severity,
      undoable: step.plan.undoable,
      completion: step.completion,
      warned: step.warned,
      undo: this.#undos.get(step.stepId) ?? null,
    }));
  }

  set({ state, ...change }: WorkflowChange & { readonly state?: WorkflowState }): void {
    if (state !== undefined) {
      this.workflow.state = state;
      this.#states.push(state);
    }
    Object.assign(this.workflow, change);
    Object.assign(this.#change, change);
  }

  setStep(step: Step, change: StepChange): void {
    const { result: _result, error: _error, startedAt: _from, finishedAt: _to, ...rest } = change;
    const { warnings, ...seen } = rest;
    Object.assign(step, seen);
    if (warnings !== undefined) step.warned = warnings !== null;
    this.#changes.set(step, { ...this.#changes.get(step), ...change });
  }

  /** What a step brought in this very move, which is not written yet. */
  freshResult(stepId: string): { readonly value: unknown } | undefined {
    const step = this.step(stepId);
    const text = this.#changes.get(step)?.result;
    return step.state === "completed" && typeof text === "string"
      ? { value: JSON.parse(text) }
      : undefined;
  }

  /** The step, or the compensation, that waits for this task. */
  #waiting(taskId: string): Step | undefined {
    return [...this.steps, ...this.#undos.values()].find(
      (step) => step.taskId === taskId && (step.state === "running" || step.state === "stopping"),
    );
  }

  /** Notes the end of a task; nothing, where no step waits for it any more. */
  taskEnded(task: FinishedTask): void {
    const step = this.#waiting(task.taskId);
    if (step === undefined) return;
    if (task.state === "completed") {
      this.settle(step, { result: task.result, warnings: task.warnings });
      return;
    }
    const failure: WorkflowFailure = {
      code: task.lastError?.code ?? `task_${task.state}`,
      message: task.lastError?.message ?? "",
      taskId: task.taskId,
      ...(task.agentId === null ? {} : { agentId: task.agentId }),
    };
    // One that somebody canceled is not begun again.
    this.settle(step, { failure, final: task.state === "canceled" });
  }

  taskMissing(taskId: string): void {
    const step = this.#waiting(taskId);
    if (step === undefined) return;
    const failure = {
      code: WORKFLOW_FAILURES.TASK_MISSING,
      message: "its task is gone, and nobody said how it ended",
      taskId,
    };
    this.settle(step, { failure, final: false });
  }

  /** Lets the steps go on that wait for this signal. */
  signaled(name: string, data: unknown): void {
    for (const step of this.steps) {
      if (step.state !== "running" || step.plan.signal !== name) continue;
      this.settle(step, { result: data, warnings: [] });
    }
  }

  /** Gives up signals that did not come in time. */
  giveUpSignals(): void {
    for (const step of this.steps) {
      const { state, plan, dueAt } = step;
      if (state !== "running" || plan.kind !== "signal") continue;
      if (dueAt === null || dueAt > this.now) continue;
      const failure = {
        code: WORKFLOW_FAILURES.SIGNAL_TIMEOUT,
        message: `the signal "${plan.signal}" did not come within ${plan.timeoutMs} ms`,
      };
      this.settle(step, { failure, final: true });
    }
  }

  /** Makes steps new. */
  reset(stepIds: ReadonlySet<string>): void {
    for (const step of this.steps) {
      if (!stepIds.has(step.stepId)) continue;
      this.setStep(step, {
        state: "pending",
        failures: 0,
        taskId: null,
        dueAt: null,
        completion: null,
        result: null,
        error: null,
        warnings: null,
        startedAt: null,
        finishedAt: null,
      });
    }
  }

  /** Lets compensations that failed be tried again. */
  resetUndos(): void {
    for (const undo of this.#undos.values()) {
      if (undo.state !== "failed") continue;
      this.setStep(undo, { state: "pending", failures: 0, error: null, finishedAt: null });
    }
  }

  /** Notes that it fails, or is to end; the first reason stays. */
  fail(failure: StoredFailure): void {
    if (this.workflow.failure === null) this.set({ failure });
  }

  /** Notes how an attempt ended. */
  settle(step: Step, outcome: Outcome): void {
    const checked = "failure" in outcome ? outcome : this.#kept(step, outcome);
    if (checked === undefined) return;
    const { failure, final } = checked;
    const stopping = step.state === "stopping";
    const failures = step.failures + 1;
    const next = afterFailure(step.plan.retry, { failures, final, stopping });
    const error = { ...failure, stepId: step.stepId };
    if (typeof next === "object") {
      const dueAt = this.now + next.pauseMs;
      this.setStep(step, { state: "waiting", failures, taskId: null, dueAt, error });
      this.tellStep(step, "workflow_step_retried", {
        ...facts(error),
        retry_in_ms: next.pauseMs,
      });
      return;
    }
    this.setStep(step, { state: next, failures, dueAt: null, error, finishedAt: this.now });
    this.tellStep(step, `workflow_step_${next}`, {
      ...facts(error),
      severity: step.plan.severity,
    });
    if (next === "failed" && step.part === "do" && step.plan.severity === "critical") {
      this.fail(failureOf(this.workflow, error));
    }
  }

  /** Keeps a result; one that is larger than a workflow keeps is a failure. */
  #kept(
    step: Step,
    { result, warnings }: Extract<Outcome, { readonly result: unknown }>,
  ): Extract<Outcome, { readonly failure: unknown }> | undefined {
    const change = { state: "completed", dueAt: null, finishedAt: this.now, error: null } as const;
    if (step.part === "undo") {
      // What compensations return is looked at by nobody.
      this.setStep(step, change);
      this.tellStep(step, "workflow_step_compensated");
      return undefined;
    }
    const text = JSON.stringify(result ?? null);
    const bytes = Buffer.byteLength(text);
    const total = this.workflow.outputBytes + bytes;
    if (bytes > MOST_OUTPUT_BYTES || total > MOST_OUTPUTS_BYTES) {
      const message =
        bytes > MOST_OUTPUT_BYTES
          ? `the result has ${bytes} bytes, more than ${MOST_OUTPUT_BYTES}`
          : `all results together have ${total} bytes, more than ${MOST_OUTPUTS_BYTES}`;
      const { OUTPUT_TOO_LARGE } = WORKFLOW_FAILURES;
      return { failure: { code: OUTPUT_TOO_LARGE, message }, final: true };
    }
    const completion = this.workflow.completions + 1;
    this.set({ outputBytes: total, completions: completion });
    const noted = warnings.length === 0 ? {} : { warnings };
    this.setStep(step, { ...change, result: text, completion, ...noted });
    this.tellStep(step, "workflow_step_completed");
    return undefined;
  }

  tell(event: string, data: Readonly<Record<string, unknown>> = {}): void {
    this.#tell(event, data);
  }

  tellStep(step: Step, event: string, data: Record<string, unknown> = {}): void {
    this.#tell(event, {
      step_id: step.stepId,
      ...(step.part === "undo" ? { compensation: true } : {}),
      attempt: step.attempt,
      ...data,
    });
  }

  /** Writes what was noted. `soon`: there is more to do than one commit does. */
  async write(trx: Tx, store: WorkflowStore, soon: boolean): Promise<void> {
    const { workflow, now } = this;
    const over = isOver(workflow.state);
    this.set({
      dueAt: soon && !over ? now : nextLook(workflow, this.views(), now),
      ...(over && workflow.finishedAt === null ? { finishedAt: now } : {}),
    });
    for (const [step, change] of this.#changes) {
      await store.change(trx, workflow.workflowId, step, change);
    }
    await store.move(trx, this.#before, this.#states, this.#change);
  }
}

export const facts = ({ code, message }: WorkflowFailure) => ({
  error_type: code,
  error_message: message,
});
