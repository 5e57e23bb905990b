import type { AgentStatus } from "../protocol/agents.ts";
import { readBid } from "../protocol/auctions.ts";
import { isEnd, taskStateOf } from "../protocol/states.ts";
import {
  type ErrorContent,
  type ResponseContent,
  readError,
  readHeartbeat,
  readResponse,
  readStatus,
  type StatusContent,
  type Task,
  type TaskFailure,
  type TaskProgress,
} from "../protocol/tasks.ts";
import { MessageType } from "../protocol/types.ts";
import type { ClaimedMessage } from "../queue/claimed.ts";
import { afterCommit } from "../store/after-commit.ts";
import type { Fence } from "../store/task-row.ts";
import type { Auctions } from "./auctions/auctions.ts";
import { endTask, type Parts, type Tx, takeAway, tellTask } from "./parts.ts";
import type { SystemModes } from "./system/system-modes.ts";
import {
  agentStatus,
  answerByMessage,
  answersCurrent,
  answersQuestion,
  NEWS,
  read,
  Unusable,
  warningsOf,
} from "./tasks/answers.ts";

/** Handles messages that the supervisor does not know. Its writes in `tx` commit with the acknowledgement. */
export type MessageHook = (message: ClaimedMessage, context: { readonly tx: Tx }) => unknown;

/** Somebody else holds the message by now: what we did for it is rolled back. */
class Superseded extends Error {}

/** Applies what agents report. The change of the task and the end of its message are one transaction. */
export class Inbox {
  readonly #parts: Parts;
  readonly #hook: MessageHook | undefined;
  readonly #auctions: Auctions;
  readonly #system: SystemModes;
  /** What the hook threw. Its errors are its own, also those that look like a database that is away. */
  readonly #hookErrors = new WeakSet<object>();

  constructor(
    parts: Parts,
    hook: MessageHook | undefined,
    { auctions, system }: { readonly auctions: Auctions; readonly system: SystemModes },
  ) {
    this.#parts = parts;
    this.#auctions = auctions;
    this.#system = system;
    this.#hook = hook;
  }

  /** True when the message is settled, false when it is someone else's by now. Errors leave it to be retried. */
  async handle(message: ClaimedMessage): Promise<boolean> {
    try {
      await this.#parts.tasks.transaction(async (trx) => {
        await this.#apply(trx, message);
        if ((await message.ack({ tx: trx })) !== "acked") throw new Superseded();
      });
      return true;
    } catch (error) {
      if (error instanceof Superseded) return false;
      if (!(error instanceof Unusable)) throw error;
      const outcome = await message.deadLetter(error.reason, { error });
      return outcome === "dead_lettered";
    }
  }

  async #apply(trx: Tx, message: ClaimedMessage): Promise<void> {
    switch (message.messageType) {
      case MessageType.TASK_RESPONSE:
        return this.#response(trx, message, read(readResponse, message));
      case MessageType.ERROR_REPORT:
        return this.#error(trx, message, read(readError, message));
      case MessageType.STATUS_UPDATE:
        return this.#status(trx, message, read(readStatus, message));
      case MessageType.HEARTBEAT: {
        const { status, health_metrics } = read(readHeartbeat, message);
        return this.#beat(trx, message, agentStatus(status), health_metrics);
      }
      case MessageType.BID: {
        const { task_id, round, amount, note } = read(readBid, message);
        if ((await this.#parts.tasks.get(task_id, trx)) === undefined) {
          throw new Unusable("unknown_task", `there is no task "${task_id}"`);
        }
        await this.#auctions.bid(task_id, message.fromAgent, { amount, note }, { tx: trx, round });
        return;
      }
      case MessageType.SYSTEM_MAINTENANCE:
        await this.#system.acknowledge(message.toAgent, { tx: trx });
        return this.#other(trx, message);
      case MessageType.INPUT_RESPONSE:
        return answerByMessage(this.#parts, trx, message);
      case MessageType.RESPONSE:
        // `reply` to INPUT_REQUEST has this type.
        if (answersQuestion(message)) return answerByMessage(this.#parts, trx, message);
        return this.#other(trx, message);
      default:
        return this.#other(trx, message);
    }
  }

  async #other(trx: Tx, message: ClaimedMessage): Promise<void> {
    if (this.#hook !== undefined) {
      await this.#callHook(this.#hook, message, trx);
      return;
    }
    if (NEWS.includes(message.messageType)) return;
    throw new Unusable("no_handler", `a supervisor does not handle ${message.messageType}`);
  }

  async #callHook(hook: MessageHook, message: ClaimedMessage, tx: Tx): Promise<void> {
    try {
      await hook(message, { tx });
    } catch (error) {
      if (error instanceof Object) this.#hookErrors.add(error);
      throw error;
    }
  }

  /** Whether an error that `handle` threw came from the hook, as it was thrown or translated. */
  isOfHook(error: unknown): boolean {
    if (!(error instanceof Error)) return false;
    const { cause } = error;
    return this.#hookErrors.has(error) || (cause instanceof Object && this.#hookErrors.has(cause));
  }

  async #response(trx: Tx, message: ClaimedMessage, content: ResponseContent): Promise<void> {
    const state = taskStateOf(content.status);
    if (state === undefined) {
      throw new Unusable("schema", `there is no task status "${content.status}"`);
    }
    const { task, fence } = await this.#find(trx, message, content);
    if (fence === undefined) return;
    if (!isEnd(state)) {
      // "working" and the like: progress that came as a response.
      await this.#progress(trx, fence, state, content.completion_percentage, content.result);
      return;
    }
    const failure: TaskFailure = {
      code: content.error_type ?? `task_${state}`,
      message: content.error_message ?? "",
      agentId: message.fromAgent,
    };
    if (state === "failed" && content.retry_possible === true) {
      await this.#takeAway(trx, message, task, failure);
      return;
    }
    const done = state === "completed";
    const result = content.result ?? content.results;
    const ended = await endTask(this.#parts, trx, fence, state, {
      ...(result === undefined ? {} : { result }),
      ...(done ? { progress: { percentage: 100, data: task.progress?.data ?? null } } : {}),
      ...(done ? { warnings: warningsOf(content) } : { error: failure }),
      executionMs: content.execution_time_ms,
    });
    if (ended === undefined) this.#tellStale(trx, message, task);
  }

  async #error(trx: Tx, message: ClaimedMessage, content: ErrorContent): Promise<void> {
    this.#tellError(trx, message, content);
    // An agent's trouble that is no task's needs no change here: it is told, and that is all.
    if ((content.task_id ?? message.taskId) === null) return;
    const { task, fence } = await this.#find(trx, message, content);
    if (fence === undefined) return;
    const error: TaskFailure = {
      code: content.error_type,
      message: content.error_message,
      agentId: message.fromAgent,
      ...(content.stack_trace === undefined ? {} : { stack: content.stack_trace }),
    };
    if (content.retry_possible) {
      await this.#takeAway(trx, message, task, error);
      return;
    }
    const failed = await endTask(this.#parts, trx, fence, "failed", { error });
    if (failed === undefined) this.#tellStale(trx, message, task);
  }

  async #takeAway(
    trx: Tx,
    message: ClaimedMessage,
    task: Task,
    failure: TaskFailure,
  ): Promise<void> {
    const taken = await takeAway(this.#parts, trx, task, failure);
    if (taken === undefined) this.#tellStale(trx, message, task);
  }

  /** It was acknowledged and changed nothing: it came late, twice, or from an agent that no longer has the task. */
  #tellStale(trx: Tx, { fromAgent, messageId, messageType }: ClaimedMessage, task: Task): void {
    tellTask(this.#parts, trx, "stale", task, {
      from: fromAgent,
      message_id: messageId,
      message_type: messageType,
      state: task.state,
    });
  }

  async #status(trx: Tx, message: ClaimedMessage, content: StatusContent): Promise<void> {
    if ((content.task_id ?? message.taskId) !== null) {
      const { fence } = await this.#find(trx, message, content);
      if (fence === undefined) return;
      const state = taskStateOf(content.status);
      const reported = state === undefined || isEnd(state) ? "working" : state;
      const { completion_percentage: percentage, details } = content;
      await this.#progress(trx, fence, reported, percentage, details);
      return;
    }
    const { availability } = content;
    const { agents } = this.#parts;
    if (availability === true) {
      // It takes back its own "not available"; the drain of an operator stays.
      const agent = await agents.get(message.fromAgent, trx);
      if (agent?.status === "draining" && agent.metrics.availability === false) {
        await agents.setStatus(message.fromAgent, "active", trx);
      }
    }
    const status = availability === false ? "draining" : agentStatus(content.status);
    await this.#beat(
      trx,
      message,
      status,
      availability === undefined ? undefined : { availability },
    );
  }

  async #progress(
    trx: Tx,
    fence: Fence,
    state: "submitted" | "assigned" | "working" | "input_required" | "auth_required",
    percentage: number | undefined,
    data: unknown,
  ): Promise<void> {
    const told = percentage !== undefined || data !== undefined;
    const progress: TaskProgress = { percentage: percentage ?? null, data: data ?? null };
    // An agent cannot give a task back, nor make it new, by calling it so.
    const reported = state === "submitted" || state === "assigned" ? "working" : state;
    const moved = await this.#parts.tasks.report(fence, reported, told ? progress : undefined, trx);
    if (moved === undefined) return;
    tellTask(this.#parts, trx, "progress", moved, {
      state: reported,
      ...(percentage === undefined ? {} : { completion_percentage: percentage }),
    });
  }

  async #beat(
    trx: Tx,
    message: ClaimedMessage,
    status: AgentStatus | undefined,
    metrics: Readonly<Record<string, unknown>> | undefined,
  ): Promise<void> {
    const { agents } = this.#parts;
    const beat = await agents.heartbeat(trx, message.fromAgent, status, metrics);
    if (beat === undefined) {
      throw new Unusable("unknown_agent", `the agent "${message.fromAgent}" is not registered`);
    }
  }

  /**
   * The task that a message is about, and the fence of the assignment that it speaks for; no fence when that
   * assignment is over, so that a late answer of an earlier agent changes nothing.
   */
  async #find(
    trx: Tx,
    message: ClaimedMessage,
    content: { task_id?: string | undefined; assignment?: number | undefined },
  ): Promise<{ task: Task; fence: Fence | undefined }> {
    const taskId = content.task_id ?? message.taskId;
    if (taskId === null) throw new Unusable("schema", "the message names no task_id");
    const task = await this.#parts.tasks.get(taskId, trx);
    if (task === undefined) throw new Unusable("unknown_task", `there is no task "${taskId}"`);
    const current =
      task.agentId === message.fromAgent &&
      task.finishedAt === null &&
      (content.assignment === undefined
        ? answersCurrent(message, task)
        : content.assignment === task.assignment);
    const fence = { taskId, assignment: task.assignment, agentId: message.fromAgent };
    if (!current) this.#tellStale(trx, message, task);
    return { task, fence: current ? fence : undefined };
  }

  #tellError(trx: Tx, message: ClaimedMessage, content: ErrorContent): void {
    const { observers } = this.#parts;
    if (!observers.active) return;
    const taskId = content.task_id ?? message.taskId ?? undefined;
    afterCommit(trx, () =>
      observers.emit([
        {
          type: "error",
          agentId: message.fromAgent,
          errorType: content.error_type,
          errorMessage: content.error_message,
          at: Date.now(),
          messageId: message.messageId,
          taskId,
          correlationId: message.correlationId ?? undefined,
        },
      ]),
    );
  }
}
