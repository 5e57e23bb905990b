import { setTimeout as sleep } from "node:timers/promises";
import { AgentCommunicationError, MessageTimeout } from "../../errors.ts";
import { given, noMore } from "../../protocol/given.ts";
import { isEnd } from "../../protocol/states.ts";
import {
  type AnswerResult,
  type InputRequest,
  type InputRequestInput,
  type ListInputsOptions,
  listInputsSchema,
} from "../../protocol/task-inputs.ts";
import {
  cancelReason,
  type FinishedTask,
  type ListTasksOptions,
  listTasksSchema,
  type Task,
  taskIdOf,
  waitTimeoutMs,
} from "../../protocol/tasks.ts";
import { parse } from "../../protocol/validate.ts";
import type { TxOption } from "../../queue/claimed.ts";
import { joined } from "../../store/identity.ts";
import type { Coordination } from "../coordination.ts";
import type { WaitOptions } from "../options.ts";
import { cancelTask, fenceOf, type Parts, type Tx } from "../parts.ts";
import { explainTask } from "../why/why.ts";
import type { TaskExplanation } from "../why/words.ts";
import { pauseTask, resumeTask } from "./pauses.ts";
import { answerQuestion, ask } from "./questions.ts";
import { type TaskTree, treeOf } from "./subtasks.ts";

export interface AnswerOptions extends TxOption {
  /** Who answers, as `input.answeredBy` has it. Default "operator". */
  by?: string | undefined;
}

const DEFAULT_WAIT_MS = 300_000;
const SHORTEST_PAUSE_MS = 10;
const LONGEST_PAUSE_MS = 500;

/** The tasks of all supervisors: to look at, to steer, and to answer what their agents ask. */
export class Tasks {
  readonly #coordination: Coordination;
  readonly #parts: Parts;

  /** @internal Made by Coordination. */
  constructor(coordination: Coordination) {
    this.#coordination = coordination;
    this.#parts = coordination.parts;
  }

  /** The task, or null. */
  async get(taskId: string): Promise<Task | null> {
    return (await this.#parts.tasks.get(taskIdOf(taskId))) ?? null;
  }

  /**
   * What exactly a task waits for: which requirement no agent meets, who is full, drains or is lost, which task, question
   * or message it depends on; and what to do about it.
   *
   * @throws AgentCommunicationError UNKNOWN_TASK
   */
  async why(taskId: string): Promise<TaskExplanation> {
    await this.#coordination.schema.ensure();
    return explainTask(this.#parts, taskIdOf(taskId));
  }

  /** In the order of their arrival, a page at a time. */
  async list(options: ListTasksOptions = {}): Promise<Task[]> {
    return this.#parts.tasks.list(parse(listTasksSchema, options, "options"));
  }

  /**
   * The task and all its subtasks, 1,000 at most.
   *
   * @throws AgentCommunicationError UNKNOWN_TASK
   */
  async tree(taskId: string): Promise<TaskTree> {
    const checked = taskIdOf(taskId);
    const root = await this.#parts.tasks.get(checked);
    if (root === undefined) throw unknownTask(checked);
    return treeOf(this.#parts.family, root);
  }

  /**
   * Ends a task as canceled, and with it its subtasks that have not ended, in one commit. Its message is taken back;
   * an agent that has begun is told to stop, and its result, if it comes, changes nothing. False when the task had
   * ended already.
   *
   * @throws AgentCommunicationError UNKNOWN_TASK
   */
  async cancel(taskId: string, reason?: string, options: TxOption = {}): Promise<boolean> {
    const why = parse(cancelReason, reason, "reason") ?? "canceled";
    return this.#steer(taskId, options, (trx, id) => cancelTask(this.#parts, trx, id, why));
  }

  /**
   * Gives the task to no agent until it is resumed. An agent that has begun is told to stop (its signal's reason is
   * `TASK_PAUSED`), may store how far it came, and loses the task without that counting as a failed assignment;
   * one that does not stop within 30 s loses it anyway. Deadlines go on. False when it is paused or has ended.
   *
   * @throws AgentCommunicationError UNKNOWN_TASK
   */
  async pause(taskId: string, options: TxOption = {}): Promise<boolean> {
    return this.#steer(taskId, options, (trx, id) => pauseTask(this.#parts, trx, id));
  }

  /**
   * Lets a paused task go on: an agent gets it, with the progress that was stored. False when it is not paused.
   *
   * @throws AgentCommunicationError UNKNOWN_TASK
   */
  async resume(taskId: string, options: TxOption = {}): Promise<boolean> {
    return this.#steer(taskId, options, (trx, id) => resumeTask(this.#parts, trx, id));
  }

  async #steer(
    taskId: string,
    options: TxOption,
    act: (trx: Tx, taskId: string) => Promise<Task | undefined>,
  ): Promise<boolean> {
    const checked = taskIdOf(taskId);
    const tx = await this.#join(options);
    const { tasks } = this.#parts;
    const moved = await tasks.transaction(async (trx) => {
      const task = await act(trx, checked);
      if (task === undefined && (await tasks.get(checked, trx)) === undefined) {
        throw unknownTask(checked);
      }
      return task;
    }, tx ?? this.#coordination.knex);
    if (moved !== undefined && tx === undefined) await this.#place(moved);
    return moved !== undefined;
  }

  /** Waits for no sweep. What cannot be placed now is placed by one. */
  async #place(task: Task): Promise<void> {
    const { state, agentId, waitsFor, pausedAt } = task;
    if (state !== "submitted" || agentId !== null || waitsFor > 0 || pausedAt !== null) return;
    await this.#coordination.placement.runFor(task).catch(() => undefined);
  }

  /**
   * Waits until a task has ended, however it ended. It only looks: some supervisor has to run.
   *
   * @throws MessageTimeout after `timeoutMs` (default 300,000), AgentCommunicationError UNKNOWN_TASK, and the reason
   *   of the signal
   */
  async wait(taskId: string, options: WaitOptions = {}): Promise<FinishedTask> {
    return this.waitWith(taskId, options, DEFAULT_WAIT_MS, async (look, left, signal) => {
      const pause = Math.min(SHORTEST_PAUSE_MS * 1.5 ** look, LONGEST_PAUSE_MS);
      await sleep(Math.min(pause, left), undefined, { signal }).catch(() => undefined);
    });
  }

  /** @internal As `wait`, for whoever has something to do in between. */
  async waitWith(
    taskId: string,
    options: WaitOptions,
    defaultMs: number,
    pause: (look: number, left: number, signal: AbortSignal | undefined) => Promise<void>,
  ): Promise<FinishedTask> {
    const checked = taskIdOf(taskId);
    const { signal, timeoutMs: asked, ...rest } = given(options);
    noMore(rest);
    const timeoutMs = parse(waitTimeoutMs, asked, "options.timeoutMs") ?? defaultMs;
    const deadline = performance.now() + timeoutMs;
    for (let look = 0; ; look++) {
      signal?.throwIfAborted();
      const task = await this.#parts.tasks.get(checked);
      if (task === undefined) throw unknownTask(checked);
      if (isEnd(task.state)) return task as FinishedTask;
      const left = deadline - performance.now();
      if (left <= 0) {
        throw new MessageTimeout(`the task "${checked}" is ${task.state} after ${timeoutMs} ms`, {
          details: { taskId: checked, state: task.state, agentId: task.agentId, timeoutMs },
        });
      }
      await pause(look, left, signal);
    }
  }

  /** What agents ask, in the order in which they asked: the open questions, or with `all` every one. */
  async inputs(options: ListInputsOptions = {}): Promise<InputRequest[]> {
    await this.#coordination.schema.ensure();
    return this.#parts.inputs.list(parse(listInputsSchema, options, "options"));
  }

  /**
   * Asks something on behalf of the agent that has the task, as `context.requestInput` does in a handler, and returns
   * the question without waiting for its answer. A question that was asked before is returned as it stands.
   *
   * @throws ValidationFailed, AgentCommunicationError UNKNOWN_TASK, TASK_STATE when no agent has the task
   */
  async requestInput(
    taskId: string,
    request: InputRequestInput,
    options: TxOption = {},
  ): Promise<InputRequest> {
    const checked = taskIdOf(taskId);
    const tx = await this.#join(options);
    const { tasks } = this.#parts;
    return tasks.transaction(async (trx) => {
      const task = await tasks.get(checked, trx);
      if (task === undefined) throw unknownTask(checked);
      const asked =
        task.agentId === null ? undefined : await ask(this.#parts, trx, fenceOf(task), request);
      if (asked !== undefined) return asked.input;
      throw new AgentCommunicationError(
        "TASK_STATE",
        `the task "${checked}" is ${task.state}: only the agent that has it can ask`,
        { details: { taskId: checked, state: task.state } },
      );
    }, tx ?? this.#coordination.knex);
  }

  /**
   * Answers what an agent asks. Of several answers the first one counts; the outcome tells.
   *
   * @throws ValidationFailed when the answer does not meet the question's schema, AgentCommunicationError
   *   UNKNOWN_INPUT
   */
  async answer(
    inputId: string,
    answer: unknown,
    options: AnswerOptions = {},
  ): Promise<AnswerResult> {
    const { by = "operator", ...rest } = given(options);
    const tx = await this.#join(rest);
    const { task, ...result } = await this.#parts.tasks.transaction(
      (trx) => answerQuestion(this.#parts, trx, inputId, answer, by),
      tx ?? this.#coordination.knex,
    );
    if (task !== undefined && tx === undefined) await this.#place(task);
    return result;
  }

  async #join(options: TxOption): Promise<Tx | undefined> {
    const { tx: given_, ...rest } = given(options);
    noMore(rest);
    const tx = given_ === undefined ? undefined : (joined(this.#coordination.knex, given_) as Tx);
    await this.#coordination.schema.ensure(tx);
    return tx;
  }
}

function unknownTask(taskId: string): AgentCommunicationError {
  return new AgentCommunicationError("UNKNOWN_TASK", `there is no task "${taskId}"`, {
    details: { taskId },
  });
}
