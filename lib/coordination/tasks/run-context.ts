import type { ReceivedHandoff, TaskHandoffInput } from "../../protocol/handoffs.ts";
import type { InputRequest, InputRequestInput } from "../../protocol/task-inputs.ts";
import type { Task, TaskInput, TaskProgress, TaskWarning } from "../../protocol/tasks.ts";
import type { ClaimedMessage } from "../../queue/claimed.ts";
import type { InitiatedHandoff } from "../handoffs/offering.ts";
import type { AssignedTask } from "../options.ts";
import type { Tx } from "../parts.ts";

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
  /** What earlier runs asked and was answered, in the order in which it was asked; at most 100. */
  readonly inputs: readonly InputRequest[];
  /** The sheet of the handoff that brought it here, or back (`state` tells); null where none did. */
  readonly handoff: ReceivedHandoff | null;
  readonly message: ClaimedMessage;
}

/** A question, and how long to wait for its answer here. */
export type InputQuestion = InputRequestInput & {
  /** So many milliseconds the run waits with its place; then it ends, and starts anew. Default 30,000. */
  waitMs?: number | undefined;
};

/** A part of a task. What it does not say (context, correlation, who is asked) it has from its task. */
export type SubtaskInput = Omit<TaskInput, "parentTaskId"> & {
  /** Names it within its task, so that a new run finds it again. Default: by its type, parameters and order. */
  key?: string | undefined;
};

export interface TaskContext {
  /**
   * Aborts when this run is not worth going on with. Its reason's `code` tells: LEASE_LOST when the task was canceled
   * or given to another agent, TASK_PAUSED, TASK_TIMEOUT when the run took longer than it may, TASK_PARKED after
   * `waitForInput`, CLOSED when the runner stops and its deadline is near.
   */
  readonly signal: AbortSignal;
  /** The system is in maintenance: a handler that runs on must not write. */
  readonly readOnly: boolean;
  /**
   * Stores how far the task is (0 to 100) and anything that a later run can go on from, up to 64 kB of JSON.
   *
   * @throws LeaseLost when the task is no longer this agent's
   */
  progress(percentage: number, data?: unknown): Promise<void>;
  /** Notes something that does not keep the task from being completed: it is stored with the result. At most 100. */
  warn(warning: string | TaskWarning): void;
  /**
   * Asks the task's `requestedBy`, or its supervisor, and returns the answer. The question is stored, and sent once:
   * a new run that asks the same gets the same answer. Who waits longer than `waitMs` gives its place to another
   * task: this run ends by a throw (TASK_PARKED), and a new one starts when the answer is there.
   *
   * @throws ValidationFailed, MessageTimeout when its `dueMs` passed, and the reason of the signal
   */
  requestInput(question: InputQuestion): Promise<unknown>;
  /**
   * Ends this run by a throw (TASK_PARKED) that counts as no failure, until every open question of the task is
   * answered; returns at once where none is open.
   */
  waitForInput(): Promise<void>;
  /**
   * Makes a part of this task, for any agent that can do it; canceled with this task. A new run that makes it again
   * gets the one that is there.
   *
   * @throws ValidationFailed, AgentCommunicationError TASK_TOO_DEEP below 16 levels
   */
  subtask(task: SubtaskInput): Promise<AssignedTask>;
  /**
   * Waits until all parts of this task have ended, however they ended, and returns them (1,000 at most). After
   * `waitMs` (default 30,000) the place goes to another task, as with `requestInput`.
   */
  subtasks(options?: { waitMs?: number | undefined }): Promise<Task[]>;
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

/** A handler whose runs may take so many milliseconds; the task's own `runTimeoutMs` goes before it. */
export interface TimedTaskHandler {
  run: TaskHandler;
  timeoutMs?: number | undefined;
}
