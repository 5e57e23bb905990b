import {
  AgentCommunicationError,
  errorRecord,
  GateFailed,
  LeaseLost,
  ValidationFailed,
} from "../errors.ts";
import type { Observers } from "../protocol/events.ts";
import {
  type ReceivedHandoff,
  receivedHandoff,
  type TaskHandoffInput,
} from "../protocol/handoffs.ts";
import { type TaskRequest, taskRequestSchema } from "../protocol/payloads.ts";
import type { TaskProgress } from "../protocol/tasks.ts";
import { MessageType } from "../protocol/types.ts";
import { jsonText, parse, plainText } from "../protocol/validate.ts";
import type { ClaimedMessage } from "../queue/claimed.ts";
import type { WorkContext } from "../queue/worker/worker.ts";
import type { Fence } from "../store/task-row.ts";
import type { TaskStore } from "../store/tasks.ts";
import { gateErrors, type RunHandoffs } from "./handoffs/in-run.ts";
import type { InitiatedHandoff } from "./handoffs/offering.ts";
import { derivedId, type Tx, tellTask } from "./parts.ts";

/** A task as its handler gets it. */
export interface AssignedWork {
  readonly taskId: string;
  readonly taskType: string;
  readonly description: string;
  readonly parameters: Readonly<Record<string, unknown>>;
  readonly requiredCapabilities: readonly string[];
  /** 1 for the first agent that has it. */
  readonly assignment: number;
  /** ISO 8601, or null. */
  readonly deadline: string | null;
  /** What an earlier run reached, here or with another agent; null at the first. */
  readonly progress: TaskProgress | null;
  /** The sheet of the handoff that brought it here, or back (`state` tells); null where none did. */
  readonly handoff: ReceivedHandoff | null;
  readonly message: ClaimedMessage;
}

export interface TaskContext {
  /** Aborts when the task was canceled, given to another agent, or the runner stops and its deadline is near. */
  readonly signal: AbortSignal;
  /**
   * Stores how far the task is (0 to 100) and anything that a later run can go on from, up to 64 kB of JSON.
   *
   * @throws LeaseLost when the task is no longer this agent's
   */
  progress(percentage: number, data?: unknown): Promise<void>;
  /**
   * Runs `run` in the transaction that ends the task here: what it writes, its return value as the result, and
   * the acknowledgement exist together, exactly once. To be the last thing that a handler does.
   */
  tx<T>(run: (tx: Tx) => Promise<T> | T): Promise<T>;
  /**
   * Offers the task to another agent, and ends this run without an answer, in one commit: the last thing that a
   * handler does. Accepted, the task goes on there; otherwise it comes back, as a new run with `task.handoff`.
   *
   * @throws as Handoffs.initiate, and LeaseLost; then the task is this run's as before
   */
  handOff(handoff: TaskHandoffInput): Promise<InitiatedHandoff>;
}

/** Does a task. What it returns is the result (any JSON); what it throws is reported, and tried again. */
export type TaskHandler = (task: AssignedWork, context: TaskContext) => unknown;

/** What the runs of one agent share. */
export interface TaskRuns {
  readonly agentId: string;
  readonly tasks: TaskStore;
  readonly handlers: Readonly<Record<string, TaskHandler>>;
  readonly observers: Observers;
  readonly handoffs: RunHandoffs;
  readonly stacks: boolean;
  /** The runs under way, by task. */
  readonly running: Map<string, TaskRun>;
}

const MOST_PROGRESS_BYTES = 65_536;
const MOST_RESULT_BYTES = 900_000;
const MOST_TEXT = 16_000;

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
  readonly #since = performance.now();
  /** The transaction of the handler's that is open now. */
  #tx: Tx | undefined;
  #answering = false;
  #answered = false;

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
    this.#abort.abort(new LeaseLost(`the task ${this.#request.task_id} was taken back: ${reason}`));
  }

  async #run(): Promise<void> {
    const { handlers, running } = this.#shared;
    const { task_id: taskId, task_type: taskType } = this.#request;
    const handler = Object.hasOwn(handlers, taskType) ? handlers[taskType] : undefined;
    if (handler === undefined) {
      const error_message = `the agent "${this.#shared.agentId}" has no handler for tasks of the type "${taskType}"`;
      await this.#answer((tx) => this.#reply({ status: "rejected", error_message }, tx));
      return;
    }
    const begun = await this.#begin();
    if (begun === "stale") return;
    running.set(taskId, this);
    try {
      const result = await handler(this.#work(begun), this.#handlerContext());
      if (this.#answered || this.#abort.signal.aborted) return;
      jsonText(result ?? null, "result", MOST_RESULT_BYTES);
      await this.#answer((tx) => this.#complete(result ?? null, tx));
    } catch (error) {
      await this.#failed(error);
    } finally {
      if (running.get(taskId) === this) running.delete(taskId);
    }
  }

  /** Marks the task as working. `stale`: it is someone else's by now, or has ended; it must not be run. */
  async #begin(): Promise<TaskProgress | null | "stale"> {
    const { agentId, tasks, handoffs } = this.#shared;
    const { task_id: taskId, assignment, handoff } = this.#request;
    const fence = { taskId, assignment, agentId };
    const task = await handoffs.begin(fence, handoff);
    if (task !== undefined) {
      this.#fence = fence;
      return task.progress;
    }
    return (await tasks.get(taskId)) === undefined ? null : "stale";
  }

  #work(progress: TaskProgress | null): AssignedWork {
    const request = this.#request;
    return {
      taskId: request.task_id,
      taskType: request.task_type,
      description: request.description,
      parameters: request.parameters,
      requiredCapabilities: request.required_capabilities,
      assignment: request.assignment,
      deadline: request.deadline ?? null,
      progress,
      handoff: receivedHandoff(request.handoff),
      message: this.#message,
    };
  }

  #handlerContext(): TaskContext {
    return {
      signal: this.#signal,
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

  async #progress(percentage: number, data: unknown): Promise<void> {
    if (typeof percentage !== "number" || !(percentage >= 0 && percentage <= 100)) {
      throw new ValidationFailed(`progress: expected 0 to 100, got ${String(percentage)}`);
    }
    const progress: TaskProgress = { percentage, data: data ?? null };
    jsonText(progress, "progress", MOST_PROGRESS_BYTES);
    if (this.#fence === null) return this.#context.progress(progress);
    const { tasks, observers } = this.#shared;
    // Inside `tx` through its connection: SQLite has no second one to wait for.
    const task = await tasks.report(this.#fence, "working", progress, this.#tx);
    if (task === undefined) {
      this.cancel("it has ended, or another agent has it");
      throw this.#abort.signal.reason;
    }
    tellTask({ observers }, this.#tx, "progress", task, {
      state: "working",
      completion_percentage: percentage,
    });
  }

  async #failed(error: unknown): Promise<void> {
    // Given back, or lost: there is nobody to tell, and the worker decides what becomes of the message.
    if (this.#context.signal.aborted || error instanceof LeaseLost) throw error;
    // Taken back: the message is gone, and nobody waits for an answer.
    if (this.#abort.signal.aborted) return;
    // Done, but the answer could not be written: the message comes again, or has gone with the commit.
    if (this.#answering || this.#answered) throw error;
    const record = errorRecord(error);
    const errors = gateErrors(error);
    const retryable = (error as { retryable?: unknown } | null)?.retryable;
    const unusable =
      error instanceof AgentCommunicationError &&
      (error.code === "VALIDATION_FAILED" || error.code === "PAYLOAD_TOO_LARGE");
    await this.#context.tx((tx) =>
      this.#reply(
        {
          error_type: "task_execution_failure",
          error_code: clean(record.code),
          error_message: clean(record.message),
          ...(errors === undefined ? {} : { errors }),
          ...(this.#shared.stacks && record.stack !== undefined
            ? { stack_trace: clean(record.stack) }
            : {}),
          retry_possible: !unusable && retryable !== false,
        },
        tx,
        MessageType.ERROR_REPORT,
      ),
    );
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
      elapsedMs: Math.round(performance.now() - this.#since),
    });
    const noted =
      warnings.length === 0
        ? {}
        : { warnings: warnings.map(({ gate, message }) => ({ code: gate, message })) };
    await this.#reply({ status: "completed", result, ...noted }, tx);
  }

  async #reply(
    content: Record<string, unknown>,
    tx: Tx,
    messageType: string = MessageType.TASK_RESPONSE,
  ): Promise<void> {
    const response = messageType === MessageType.TASK_RESPONSE;
    const { task_id, assignment } = this.#request;
    await this.#message.reply(
      {
        task_id,
        ...content,
        ...(content.status === "completed" ? { completion_percentage: 100 } : {}),
        ...(response ? { execution_time_ms: Math.round(performance.now() - this.#since) } : {}),
        ...(this.#fence === null && assignment === 0 ? {} : { assignment }),
      },
      {
        tx,
        messageType,
        messageId: derivedId(response ? "response-" : "error-", this.#message.messageId),
      },
    );
  }
}

const reportable = plainText(MOST_TEXT);

function clean(text: string): string {
  const short = text.slice(0, MOST_TEXT).replaceAll("\0", "␀").toWellFormed();
  return parse(reportable, short, "error");
}
