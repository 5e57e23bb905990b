import type { AgentRegistry } from "../agent-registry.ts";
import { given, noMore } from "../protocol/given.ts";
import type { Content } from "../protocol/message-input.ts";
import {
  type CoordinationStats,
  type FinishedTask,
  HOUR_MS,
  type ListTasksOptions,
  type PerformanceMetrics,
  type ProcessOptions,
  processOptionsSchema,
  type SupervisorSettings,
  supervisorOptionsSchema,
  type Task,
  type TaskInput,
} from "../protocol/tasks.ts";
import { id, parse } from "../protocol/validate.ts";
import type { TxOption } from "../queue/claimed.ts";
import type { MessageQueueManager } from "../queue/manager.ts";
import type { Db } from "../store/dialect.ts";
import { joined } from "../store/identity.ts";
import { broadcast } from "./broadcast.ts";
import { Coordination } from "./coordination.ts";
import { Inbox } from "./inbox.ts";
import type { AssignedTask, BroadcastOptions, SupervisorOptions, WaitOptions } from "./options.ts";
import type { Parts, Tx } from "./parts.ts";
import { Rounds, type RunOptions } from "./rounds.ts";
import { Sweeper } from "./sweeper.ts";
import { BuriedAnswers } from "./tasks/buried-answers.ts";
import { RunSweep } from "./tasks/run-sweep.ts";

/** How far back the stats look at ended tasks. */
const STATS_WINDOW_MS = HOUR_MS;

/**
 * Gives tasks to agents by what they can do, and follows each task to its end. Any number of supervisors may
 * run at once, in any number of processes, also several with one id: all that they know is in the database.
 */
export class SupervisorCoordinator {
  readonly supervisorId: string;
  readonly queueManager: MessageQueueManager;
  readonly agentRegistry: AgentRegistry;
  readonly #coordination: Coordination;
  readonly #settings: SupervisorSettings;
  readonly #parts: Parts;
  readonly #rounds: Rounds;

  /**
   * @param knex an open knex instance; never closed by this class
   * @throws ValidationFailed for a bad id and for unknown or wrong options
   */
  constructor(supervisorId: string, knex: Db, options: SupervisorOptions = {}) {
    const { coordination, queue, registry, observers, onMessage, ...rest } = given(options);
    this.supervisorId = parse(id, supervisorId, "supervisorId");
    this.#settings = parse(supervisorOptionsSchema, rest, "options");
    const { prefix, taskRetentionMs, unansweredMs } = this.#settings;
    const shared =
      coordination ??
      new Coordination(knex, { prefix, agentId: this.supervisorId, queue, registry, observers });
    const { parts, placement, history, buried } = shared;
    this.#coordination = shared;
    this.#parts = parts;
    this.queueManager = parts.queue;
    this.agentRegistry = shared.registry;
    this.#rounds = new Rounds({
      supervisorId: this.supervisorId,
      parts,
      inbox: new Inbox(parts, onMessage, shared),
      // Before a task counts as unanswered, its answer is looked for.
      own: [
        new BuriedAnswers(parts, buried, { supervisorId: this.supervisorId, unansweredMs }),
        new RunSweep(parts, unansweredMs),
      ],
      sweeper: new Sweeper(parts, placement, history, taskRetentionMs),
      registry: shared.registry,
      system: shared.system,
      settings: this.#settings,
    });
  }

  /**
   * Stores a task and gives it to the best agent: of those that have every required capability and room, the
   * least loaded. The task, its assignment and the message to the agent are one commit. Without such an agent
   * the task is parked (`state: "submitted"`, `agentId: null`) until one appears. An agent never has more than
   * its `maxConcurrentTasks`, however many supervisors assign at once.
   *
   * With `tx` all of it happens in the caller's transaction; keep that short, because it holds the agent's row
   * and so its heartbeats.
   *
   * @throws ValidationFailed, PayloadTooLarge, ServiceUnavailable
   */
  async assignTask(task: TaskInput, options: TxOption = {}): Promise<AssignedTask> {
    const tx = this.#join(options);
    const submitted = await this.#coordination.submit(this.supervisorId, task, { tx });
    return { ...submitted.task, duplicate: submitted.duplicate };
  }

  /**
   * Assigns up to 1,000 tasks in one transaction, many times faster than one by one. They may depend on each other
   * (`dependsOn` with the `taskId` of another one of them). Answers in the order given.
   *
   * @throws as assignTask; AgentCommunicationError UNKNOWN_TASK for a dependency that is not there
   */
  async assignTasks(tasks: readonly TaskInput[], options: TxOption = {}): Promise<AssignedTask[]> {
    const tx = this.#join(options);
    const submitted = await this.#coordination.submitAll(this.supervisorId, tasks, { tx });
    return submitted.map(({ task, duplicate }) => ({ ...task, duplicate }));
  }

  /**
   * Handles what agents sent to this supervisor, then makes one bounded sweep: lost agents, deadlines, parked
   * tasks. Returns how many messages were handled.
   */
  async processIncomingMessages(options: ProcessOptions = {}): Promise<number> {
    const { limit } = parse(processOptionsSchema, options, "options");
    return this.#rounds.round(limit);
  }

  /** The task, or null. */
  async getTask(taskId: string): Promise<Task | null> {
    return this.#coordination.tasks.get(taskId);
  }

  /** Tasks of all supervisors in the order of their arrival, a page at a time. */
  async listTasks(options: ListTasksOptions = {}): Promise<Task[]> {
    return this.#coordination.tasks.list(options);
  }

  /**
   * Ends a task as canceled, with its subtasks. Its message is taken back; an agent that has begun is told to stop
   * (TASK_CANCEL), and its result, if it comes, changes nothing. False when the task had ended already.
   *
   * @throws AgentCommunicationError UNKNOWN_TASK
   */
  async cancelTask(taskId: string, reason?: string, options: TxOption = {}): Promise<boolean> {
    return this.#coordination.tasks.cancel(taskId, reason, options);
  }

  /**
   * Waits until a task has ended, however it ended. Handles this supervisor's messages meanwhile, unless `run`
   * does.
   *
   * @throws MessageTimeout, AgentCommunicationError UNKNOWN_TASK
   */
  async waitForTask(taskId: string, options: WaitOptions = {}): Promise<FinishedTask> {
    return this.#coordination.tasks.waitWith(
      taskId,
      options,
      this.#settings.taskTimeoutMs,
      (look, left, signal) => this.#rounds.pause(look, left, signal),
    );
  }

  /** Figures over the tasks of all supervisors. What they cost does not grow with backlog or history. */
  async getCoordinationStats(): Promise<CoordinationStats> {
    return this.#coordination.history.stats(STATS_WINDOW_MS);
  }

  /** Throughput, utilisation and completion in one call. */
  async getPerformanceMetrics(): Promise<PerformanceMetrics> {
    const queue = await this.queueManager.getQueueStats();
    const agents = await this.agentRegistry.getRegistryStats();
    const tasks = await this.getCoordinationStats();
    return {
      messageThroughput: queue.messagesPerMinute,
      agentUtilization: agents.averageLoad,
      taskCompletionRate: tasks.completionRate,
    };
  }

  /**
   * Sends a message to every agent that is there (neither offline nor lost), except this supervisor, in one
   * transaction. Returns how many they are.
   *
   * @throws ValidationFailed, PayloadTooLarge
   */
  async broadcastMessage(
    messageType: string,
    content: Content | object,
    options: BroadcastOptions = {},
  ): Promise<number> {
    const { priority, ...rest } = given(options);
    const db = this.#join(rest) ?? this.#coordination.knex;
    return this.#parts.tasks.transaction(
      (trx) =>
        broadcast(this.#parts, trx, {
          fromAgent: this.supervisorId,
          messageType,
          content,
          priority,
        }),
      db,
    );
  }

  /**
   * Handles messages, sweeps and beats until the signal aborts; returns then, after the round under way. A
   * supervisor that is not registered registers itself, as one that takes no tasks. Survives a database that
   * goes away: it tries again with growing pauses, and tells observers.
   */
  async run(options: RunOptions = {}): Promise<void> {
    return this.#rounds.run(options);
  }

  /** `run` in the background, until `stop`. */
  start(options: Omit<RunOptions, "signal"> = {}): void {
    this.#rounds.start(options);
  }

  /** Ends what `start` began; returns when the round under way is over, and what it set off in the background. */
  async stop(): Promise<void> {
    await this.#rounds.stop();
    await this.#coordination.idle();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  #join(options: TxOption): Tx | undefined {
    const { tx, ...rest } = given(options);
    noMore(rest);
    return tx === undefined ? undefined : (joined(this.#coordination.knex, tx) as Tx);
  }
}
