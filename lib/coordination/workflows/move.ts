import { AgentCommunicationError } from "../../errors.ts";
import type { TaskInput } from "../../protocol/tasks.ts";
import { holds, type Values } from "../../protocol/workflow-paths.ts";
import { type Compensation, WORKFLOW_FAILURES } from "../../protocol/workflows.ts";
import type { StepWork, WorkflowRow } from "../../store/workflows/rows.ts";
import type { SignalStore } from "../../store/workflows/signals.ts";
import type { WorkflowStore } from "../../store/workflows/workflows.ts";
import type { SubmitOptions, Submitted } from "../assigner.ts";
import { derivedId, isFault, type Parts, type Tx } from "../parts.ts";
import { Book, facts, type Step } from "./book.ts";
import { type Action, decide, failureOf } from "./decide.ts";
import { needed, resolved } from "./inputs.ts";
import { tellWorkflow } from "./told.ts";

/** What every move works with. */
export interface Engine {
  readonly parts: Parts;
  readonly store: WorkflowStore;
  readonly signals: SignalStore;
  submit(supervisorId: string, task: TaskInput, options: SubmitOptions): Promise<Submitted>;
}

/** What the ids of our tasks begin with, so that the end of any other task costs no look. */
export const TASK_PREFIX = "wf:";

/** Steps that one commit begins at most; the rest is due at once, and the next move goes on. */
const MOST_STARTS = 50;
/** When a step that could not be sent for now is tried again. */
const POSTPONED_MS = 1_000;

/**
 * One move of one workflow: takes its row, notes what happened, does what follows from that, and writes it all. It
 * is one transaction together with what made it move, such as the end of a task.
 */
export class Move {
  readonly book: Book;
  readonly #engine: Engine;
  readonly #trx: Tx;
  #starts = 0;
  #input: { readonly value: unknown } | undefined;

  private constructor(engine: Engine, trx: Tx, book: Book) {
    this.#engine = engine;
    this.#trx = trx;
    this.book = book;
  }

  /** Undefined where there is no such workflow. */
  static async of(engine: Engine, trx: Tx, workflowId: string): Promise<Move | undefined> {
    const workflow = await engine.store.lock(trx, workflowId);
    if (workflow === undefined) return undefined;
    const rows = await engine.store.steps(trx, workflowId);
    const now = await engine.store.now(trx);
    const book = new Book(workflow, rows, now, (event, data) =>
      tellWorkflow(engine.parts, trx, workflow, event, data),
    );
    return new Move(engine, trx, book);
  }

  get #workflow(): WorkflowRow {
    return this.book.workflow;
  }

  /** Does all that follows from how things stand, and writes it. */
  async finish(): Promise<void> {
    if (this.#workflow.state === "running") this.book.giveUpSignals();
    let again = true;
    while (again) again = await this.#round();
    await this.book.write(this.#trx, this.#engine.store, this.#starts >= MOST_STARTS);
  }

  /** One round of decisions; false when there is nothing left to do now. */
  async #round(): Promise<boolean> {
    const { book } = this;
    const actions = decide(this.#workflow, book.views(), book.now);
    for (const action of actions) {
      if (action.type === "start" || action.type === "undo") {
        if (this.#starts >= MOST_STARTS) return false;
        this.#starts++;
        const step = book.step(action.stepId);
        await this.#begin(action.type === "undo" ? await this.#undoOf(step) : step);
        // What it failed with may change everything.
        if (this.#workflow.state === "running" && this.#workflow.failure !== null) return true;
      } else {
        this.#note(action);
      }
    }
    return actions.length > 0;
  }

  #note(action: Exclude<Action, { type: "start" | "undo" }>): void {
    const { book } = this;
    if (action.type === "become") {
      book.set({ state: action.state });
      const { failure } = this.#workflow;
      book.tell(`workflow_${action.state}`, failure === null ? {} : facts(failure));
    } else if (action.type === "overdue") {
      const code = WORKFLOW_FAILURES.DEADLINE;
      book.fail(
        failureOf(this.#workflow, { code, message: "the deadline of the workflow passed" }),
      );
    } else if (action.type === "stop") {
      book.setStep(book.step(action.stepId), { state: "stopping" });
    } else {
      const canceled = { state: "canceled", dueAt: null, finishedAt: book.now } as const;
      book.setStep(book.step(action.stepId), canceled);
    }
  }

  /** The row of a step's compensation, made where there is none yet. */
  async #undoOf(step: Step): Promise<Step> {
    const there = this.book.undoOf(step.stepId);
    if (there !== undefined) return there;
    const { store } = this.#engine;
    const { workflowId } = this.#workflow;
    const work = await store.work(this.#trx, workflowId, step.stepId, "do");
    const { compensation } = work as { compensation: Compensation };
    const plan = {
      kind: "task" as const,
      severity: "critical" as const,
      dependsOn: [],
      signal: null,
      retry: compensation.retry,
      taskType: compensation.taskType,
      timeoutMs: compensation.timeoutMs ?? null,
      undoable: false,
    };
    const fresh = { stepId: step.stepId, part: "undo" as const, position: step.position, plan };
    const text = JSON.stringify(compensation);
    await store.insertSteps(this.#trx, workflowId, [{ ...fresh, work: text }]);
    return this.book.add({
      ...fresh,
      state: "pending",
      attempt: 0,
      failures: 0,
      taskId: null,
      dueAt: null,
      completion: null,
      warned: false,
    });
  }

  /** Begins an attempt: sends its task, or waits for its signal; or it turns out that it is skipped or fails. */
  async #begin(step: Step): Promise<void> {
    const { book } = this;
    const { workflowId } = this.#workflow;
    const work = await this.#engine.store.work(this.#trx, workflowId, step.stepId, step.part);
    const values = await this.#values(work);
    if ("when" in work && work.when !== undefined && !holds(work.when, values)) {
      book.setStep(step, { state: "skipped", finishedAt: book.now });
      book.tellStep(step, "workflow_step_skipped");
      return;
    }
    if (!("taskType" in work)) return this.#await(step);
    const inputs = resolved(work, values);
    if ("parameters" in inputs) return this.#send(step, work, inputs.parameters);
    book.setStep(step, { attempt: step.attempt + 1, startedAt: book.now });
    const failure = { code: WORKFLOW_FAILURES.INPUT_MISSING, message: inputs.missing };
    book.settle(step, { failure, final: true });
  }

  /** Waits for a signal; one that came before is there already. */
  async #await(step: Step): Promise<void> {
    const { book } = this;
    const { signal, timeoutMs } = step.plan;
    book.setStep(step, {
      state: "running",
      attempt: step.attempt + 1,
      dueAt: timeoutMs === null ? null : book.now + timeoutMs,
      startedAt: book.now,
    });
    const { workflowId } = this.#workflow;
    const early = await this.#engine.signals.get(this.#trx, workflowId, signal as string);
    if (early !== undefined) book.settle(step, { result: early.data, warnings: [] });
    else book.tellStep(step, "workflow_step_started", { signal });
  }

  async #send(
    step: Step,
    work: Extract<StepWork, { readonly taskType: string }>,
    parameters: Record<string, unknown>,
  ): Promise<void> {
    const { book } = this;
    const { store } = this.#engine;
    const { supervisorId } = this.#workflow;
    const task = this.#task(step, work, parameters);
    const attempt = step.attempt + 1;
    const begun = { state: "running", attempt, dueAt: null, startedAt: book.now } as const;
    try {
      const sent = await store.savepoint(this.#trx, (tx) =>
        this.#engine.submit(supervisorId, task, { tx, wait: false }),
      );
      book.setStep(step, { ...begun, taskId: sent.task.taskId });
      book.tellStep(step, "workflow_step_started", { task_id: sent.task.taskId });
    } catch (error) {
      const refusal = refused(error);
      if (refusal === undefined) throw error;
      if (refusal.retryable) {
        // Nothing was begun: it is as before, only later.
        book.setStep(step, { state: "waiting", dueAt: book.now + POSTPONED_MS });
        return;
      }
      book.setStep(step, begun);
      const code = WORKFLOW_FAILURES.UNSENDABLE;
      const message = `${refusal.code}: ${refusal.message}`;
      book.settle(step, { failure: { code, message }, final: true });
    }
  }

  #task(
    step: Step,
    work: Extract<StepWork, { readonly taskType: string }>,
    parameters: Record<string, unknown>,
  ): TaskInput {
    const { seq, workflowId, contextId, correlationId } = this.#workflow;
    const undo = step.part === "undo" ? "undo:" : "";
    return {
      // With the number of the row, which no later workflow of the same id has.
      taskId: derivedId(
        TASK_PREFIX,
        `${seq}:${workflowId}:${step.stepId}:${undo}${step.attempt + 1}`,
      ),
      taskType: work.taskType,
      description: work.description,
      parameters,
      requiredCapabilities: work.requiredCapabilities as TaskInput["requiredCapabilities"],
      preferredCapabilities: work.preferredCapabilities as TaskInput["preferredCapabilities"],
      strategy: work.strategy,
      cost: work.cost,
      priority: work.priority,
      maxAssignments: work.maxAssignments,
      deadlineMs: step.plan.timeoutMs ?? undefined,
      contextId: contextId ?? undefined,
      correlationId: correlationId ?? undefined,
    };
  }

  async #values(work: StepWork): Promise<Values> {
    const { stepIds, input } = needed(work);
    const { store } = this.#engine;
    const { workflowId } = this.#workflow;
    if (input) this.#input ??= { value: await store.input(this.#trx, workflowId) };
    const results = await store.results(this.#trx, workflowId, stepIds);
    for (const stepId of stepIds) {
      const fresh = this.book.freshResult(stepId);
      if (fresh !== undefined) results.set(stepId, fresh.value);
    }
    return { input: this.#input?.value, results };
  }
}

function refused(error: unknown): AgentCommunicationError | undefined {
  return error instanceof AgentCommunicationError && !isFault(error) ? error : undefined;
}
