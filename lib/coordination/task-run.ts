import { AgentCommunicationError, GateFailed, LeaseLost, ValidationFailed } from "../errors.ts";
import { receivedHandoff } from "../protocol/handoffs.ts";
import { type TaskRequest, taskRequestSchema } from "../protocol/payloads.ts";
import { type Task, type TaskProgress, type TaskWarning, warningOf } from "../protocol/tasks.ts";
import { jsonText, parse } from "../protocol/validate.ts";
import type { ClaimedMessage } from "../queue/claimed.ts";
import type { WorkContext } from "../queue/worker/worker.ts";
import type { Fence } from "../store/task-row.ts";
import { type Tx, tellTask } from "./parts.ts";
import { beginRun, type TaskRuns } from "./tasks/run-begin.ts";
import { RunClock } from "./tasks/run-clock.ts";
import type { AssignedWork, TaskContext, TaskHandler } from "./tasks/run-context.ts";
import { RunReport } from "./tasks/run-report.ts";
import { RunWaits } from "./tasks/run-waits.ts";

const MOST_PROGRESS_BYTES = 65_536;
const MOST_RESULT_BYTES = 900_000;
const MOST_NOTED = 100;

/** Taken from this agent, to be paused, or longer under way than it may. */
type Cut = "taken" | "paused" | "late";

/** There is nothing to wait for any more: the run goes on. */
class Unneeded extends Error {}

/** One run of one task: from the message to the answer. */
export class TaskRun {
  readonly #shared: TaskRuns;
  readonly #message: ClaimedMessage;
  readonly #context: WorkContext;
  readonly #request: TaskRequest;
  /** Null for a task that a message brought, and no supervisor stored. */
  #fence: Fence | null = null;
  readonly #abort = new AbortController();
  readonly #signal: AbortSignal;
  readonly #report: RunReport;
  /** The transaction of the handler's that is open now. */
  #tx: Tx | undefined;
  #answering = false;
  /** Nothing is left to be said: it was answered, handed over or parked. */
  #answered = false;
  /** Why it ends before its handler does. */
  #cut: Cut | undefined;
  readonly #clock = new RunClock(() => this.#late());
  readonly #warnings: TaskWarning[] = [];
  #waits: RunWaits | undefined;

  private constructor(
    shared: TaskRuns,
    message: ClaimedMessage,
    context: WorkContext,
    request: TaskRequest,
  ) {
    this.#shared = shared;
    this.#message = message;
    this.#context = context;
    this.#request = request;
    this.#report = new RunReport(message, request, shared);
    this.#signal = AbortSignal.any([context.signal, this.#abort.signal]);
  }

  /** Handles a TASK_ASSIGNMENT. Returning acknowledges it. */
  static async of(shared: TaskRuns, message: ClaimedMessage, context: WorkContext): Promise<void> {
    let request: TaskRequest;
    try {
      request = parse(taskRequestSchema, message.content, "content");
    } catch (error) {
      await message.deadLetter("schema", { error });
      return;
    }
    await new TaskRun(shared, message, context, request).#run();
  }

  get assignment(): number | undefined {
    return this.#fence?.assignment;
  }

  /** The task is no longer this agent's. */
  cancel(reason: string): void {
    const message = `the task ${this.#request.task_id} was taken back: ${reason}`;
    this.#end("taken", new LeaseLost(message));
  }

  /** The task is to stop here, and to go on later. */
  pause(): void {
    const message = `the task ${this.#request.task_id} is paused`;
    this.#end("paused", new AgentCommunicationError("TASK_PAUSED", message));
  }

  #late(): void {
    const message = `the run of the task ${this.#request.task_id} took longer than it may`;
    this.#end("late", new AgentCommunicationError("TASK_TIMEOUT", message));
  }

  #end(cut: Cut, reason: Error): void {
    if (!this.#answered) this.#cut ??= cut;
    this.#abort.abort(reason);
  }

  async #run(): Promise<void> {
    const { handlers, running } = this.#shared;
    const { task_id: taskId, task_type: taskType } = this.#request;
    const handler = Object.hasOwn(handlers, taskType) ? handlers[taskType] : undefined;
    if (handler === undefined) {
      const error_message = `the agent "${this.#shared.agentId}" has no handler for tasks of the type "${taskType}"`;
      await this.#answer((tx) => this.#report.response(tx, { status: "rejected", error_message }));
      return;
    }
    const begun = await this.#begin(handler.timeoutMs);
    if (begun === "stale") return;
    running.set(taskId, this);
    try {
      if (begun !== null && begun.pausedAt !== null) this.pause();
      await this.#handle(handler.run, begun);
    } catch (error) {
      await this.#failed(error);
    } finally {
      this.#clock.stop();
      if (this.#cut !== "paused") this.#report.compareWith(this.#shared);
      if (running.get(taskId) === this) running.delete(taskId);
    }
  }

  async #handle(handle: TaskHandler, begun: Task | null): Promise<void> {
    const context = this.#handlerContext(begun);
    const work = await this.#work(begun);
    const result = this.#cut === undefined ? await handle(work, context) : undefined;
    if (this.#answered || this.#cut === "taken") return;
    // What it returns after it was told to stop may be half of the result.
    if (this.#cut !== undefined) this.#abort.signal.throwIfAborted();
    jsonText(result ?? null, "result", MOST_RESULT_BYTES);
    await this.#answer((tx) => this.#complete(result ?? null, tx));
  }

  async #begin(timeoutMs: number | undefined): Promise<Task | null | "stale"> {
    const begun = await beginRun(this.#shared, this.#request, timeoutMs);
    if (begun === "stale") return "stale";
    this.#fence = begun.fence;
    this.#clock.start(begun.leftMs);
    return begun.task;
  }

  async #work(task: Task | null): Promise<AssignedWork> {
    const request = this.#request;
    // Only a run that is not the first one can find answers.
    const again = task !== null && (task.assignment > 1 || this.#message.attempt > 1);
    const { inputs } = this.#shared.coordination.parts;
    return {
      taskId: request.task_id,
      taskType: request.task_type,
      description: request.description,
      parameters: request.parameters,
      requiredCapabilities: request.required_capabilities,
      assignment: request.assignment,
      deadline: request.deadline ?? null,
      progress: task?.progress ?? null,
      inputs: again ? await inputs.answersOf(request.task_id, MOST_NOTED) : [],
      handoff: receivedHandoff(request.handoff),
      message: this.#message,
    };
  }

  #handlerContext(task: Task | null): TaskContext {
    const { mode } = this.#shared;
    const waits = new RunWaits({
      coordination: this.#shared.coordination,
      task,
      fence: this.#fence,
      signal: this.#signal,
      clock: this.#clock,
      tx: () => this.#tx,
      park: (park) => this.#park(park),
    });
    this.#waits = waits;
    return {
      signal: this.#signal,
      get readOnly() {
        return mode.readOnly;
      },
      warn: (warning) => this.#warn(warning),
      requestInput: (question) => waits.requestInput(question),
      waitForInput: () => waits.waitForInput(),
      subtask: (subtask) => waits.subtask(subtask),
      subtasks: (options) => waits.subtasks(options),
      progress: (percentage, data) => this.#progress(percentage, data),
      tx: async (run) => {
        try {
          const value = await this.#context.tx(async (tx) => {
            this.#tx = tx;
            const result = await run(tx);
            jsonText(result ?? null, "result", MOST_RESULT_BYTES);
            await this.#complete(result ?? null, tx);
            return result;
          });
          this.#answered = true;
          return value;
        } finally {
          this.#tx = undefined;
        }
      },
      handOff: async (handoff) => {
        const { handoffs, agentId } = this.#shared;
        const offered = await this.#context.tx((tx) =>
          handoffs.offer(tx, this.#fence, agentId, handoff),
        );
        this.#answered = true;
        return offered;
      },
    };
  }

  #warn(given: string | TaskWarning): void {
    const warning = warningOf(given);
    if (this.#warnings.length < MOST_NOTED) this.#warnings.push(warning);
  }

  /** Ends the run without an answer, and with it the message: another run starts when the time has come. */
  async #park(park: (tx: Tx) => Promise<Task | undefined>): Promise<boolean> {
    try {
      await this.#context.tx(async (tx) => {
        if ((await park(tx)) === undefined) throw new Unneeded();
      });
    } catch (error) {
      if (error instanceof Unneeded) return false;
      throw error;
    }
    this.#answered = true;
    this.#shared.coordination.parts.freed();
    const message = `the task ${this.#request.task_id} waits: this run is over`;
    this.#abort.abort(new AgentCommunicationError("TASK_PARKED", message));
    return true;
  }

  async #progress(percentage: number, data: unknown): Promise<void> {
    if (typeof percentage !== "number" || !(percentage >= 0 && percentage <= 100)) {
      throw new ValidationFailed(`progress: expected 0 to 100, got ${String(percentage)}`);
    }
    const progress: TaskProgress = { percentage, data: data ?? null };
    jsonText(progress, "progress", MOST_PROGRESS_BYTES);
    if (this.#fence === null) return this.#context.progress(progress);
    const { coordination, observers } = this.#shared;
    const { tasks } = coordination.parts;
    const state = this.#waits?.state ?? "working";
    // Inside `tx` through its connection: SQLite has no second one to wait for.
    const task = await tasks.report(this.#fence, state, progress, this.#tx);
    if (task === undefined) {
      this.cancel("it has ended, or another agent has it");
      throw this.#abort.signal.reason;
    }
    tellTask({ observers }, this.#tx, "progress", task, {
      state,
      completion_percentage: percentage,
    });
  }

  async #failed(error: unknown): Promise<void> {
    // Given back, or lost: there is nobody to tell, and the worker decides what becomes of the message.
    if (this.#context.signal.aborted || error instanceof LeaseLost) throw error;
    // Taken back: the message is gone, and nobody waits for an answer. Or parked, which ended the handler.
    if (this.#cut === "taken" || (this.#answered && this.#abort.signal.aborted)) return;
    const fence = this.#fence;
    if (this.#cut === "paused" && fence !== null) {
      const { tasks } = this.#shared.coordination.parts;
      await this.#park((tx) => tasks.park(tx, fence, "submitted", 0));
      return;
    }
    // Done, but the answer could not be written: the message comes again, or has gone with the commit.
    if (this.#answering || this.#answered) throw error;
    const late = this.#cut === "late";
    const thrown = late ? this.#abort.signal.reason : error;
    await this.#context.tx((tx) => this.#report.failure(tx, thrown, late));
  }

  /** The answer and the acknowledgement are one commit. */
  async #answer(reply: (tx: Tx) => Promise<void>): Promise<void> {
    this.#answering = true;
    try {
      await this.#context.tx(reply);
    } catch (error) {
      // What a gate holds back is reported like an error of the handler.
      if (error instanceof GateFailed) this.#answering = false;
      throw error;
    }
    this.#answered = true;
  }

  /** @throws GateFailed */
  async #complete(result: unknown, tx: Tx): Promise<void> {
    const { agentId, handoffs } = this.#shared;
    const warnings = await handoffs.passAnswer(tx, {
      agentId,
      taskId: this.#request.task_id,
      result,
      elapsedMs: this.#report.elapsedMs,
    });
    const all = [
      ...this.#warnings,
      ...warnings.map(({ gate, message }) => ({ code: gate, message })),
    ];
    const noted = all.length === 0 ? {} : { warnings: all };
    await this.#report.response(tx, { status: "completed", result, ...noted });
  }
}
