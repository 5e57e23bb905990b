import { setTimeout as sleep } from "node:timers/promises";
import type { AgentRegistry } from "../agent-registry.ts";
import { AgentCommunicationError, errorRecord } from "../errors.ts";
import { Observers } from "../protocol/events.ts";
import { given } from "../protocol/given.ts";
import {
  type RunnerOptionsInput,
  type RunnerSettings,
  runnerOptionsSchema,
} from "../protocol/runner-options.ts";
import { MessageType } from "../protocol/types.ts";
import { parse } from "../protocol/validate.ts";
import type { ClaimedMessage } from "../queue/claimed.ts";
import type { MessageQueueManager } from "../queue/manager.ts";
import type { WorkContext, Worker, WorkHandler } from "../queue/worker/worker.ts";
import type { Db } from "../store/dialect.ts";
import type { BidHook } from "./auctions/auctions.ts";
import { answerCall } from "./auctions/bidding.ts";
import type { MetricsHook } from "./beat-metrics.ts";
import { Beats } from "./beats.ts";
import { Coordination } from "./coordination.ts";
import type { GatesInput } from "./handoffs/gates.ts";
import type { Handoffs } from "./handoffs/handoffs.ts";
import { RunHandoffs } from "./handoffs/in-run.ts";
import { decide, type HandoffHandler } from "./handoffs/listen.ts";
import { RunMode } from "./system/run-mode.ts";
import { TaskRun } from "./task-run.ts";
import { PAUSED } from "./tasks/pauses.ts";
import type { TaskRuns } from "./tasks/run-begin.ts";
import type { TaskHandler, TimedTaskHandler } from "./tasks/run-context.ts";

export interface AgentRunnerOptions
  extends Omit<RunnerOptionsInput, "tasks" | "onMessage" | "metrics" | "bid"> {
  /** What to do, by the task's type. A task of another type is answered with `rejected`. */
  tasks: Record<string, TaskHandler | TimedTaskHandler>;
  /**
   * Handles messages to this agent other than tasks; returning acknowledges, throwing gives back. It runs in the
   * same places as tasks do. Default: they stay in the mailbox, for a consumer of your own.
   */
  onMessage?: WorkHandler | undefined;
  /**
   * Told with every heartbeat, merged into the agent's metrics. One that fails, returns what cannot be stored, or
   * takes longer than a second costs the metrics, not the heartbeat; observers are told.
   */
  metrics?: MetricsHook | undefined;
  /**
   * Decides over what other agents offer to hand over. Default: accepts a task that it has a handler for, as soon
   * as it has room, and rejects everything else.
   */
  onHandoff?: HandoffHandler | undefined;
  /**
   * What it wants for a task that is auctioned: an amount, or null to decline. One that throws declines; observers
   * are told. Default: it declines all.
   */
  bid?: BidHook | undefined;
  /** Quality gates of this agent, besides those of the outbox. Default: none. */
  gates?: GatesInput | undefined;
  /** @internal What the agents of one outbox share. */
  coordination?: Coordination | undefined;
  /** Default: one of its own on the same tables. */
  queue?: MessageQueueManager | undefined;
  /** Default: one of its own on the same tables. */
  registry?: AgentRegistry | undefined;
  /** Who is told what happened, after it was committed. */
  observers?: Observers | undefined;
}

/** Neither waits for a place: "stop this task", and what is offered. */
const APART = [
  MessageType.TASK_CANCEL,
  MessageType.AGENT_HANDOFF,
  MessageType.HANDOFF_ACCEPTED,
  MessageType.HANDOFF_REJECTED,
  MessageType.HANDOFF_RETURNED,
  MessageType.HANDOFF_COMPLETED,
  MessageType.HANDOFF_WITHDRAWN,
  MessageType.CALL_FOR_BIDS,
  MessageType.BID_REJECTED,
  MessageType.SYSTEM_MAINTENANCE,
  MessageType.SYSTEM_READY,
];
const LONGEST_GOODBYE_MS = 1_000;

/**
 * An agent that does tasks: registers, beats, claims its assignments, runs a handler per task type, and sends
 * the result in the transaction that acknowledges the assignment. So a result is sent exactly once, whatever
 * dies; and a task that was canceled or given to another agent is not begun, or its signal aborts.
 */
export class AgentRunner {
  readonly agentId: string;
  readonly queue: MessageQueueManager;
  readonly registry: AgentRegistry;
  readonly #settings: RunnerSettings;
  readonly #runs: TaskRuns;
  readonly #onMessage: WorkHandler | undefined;
  readonly #handoffs: Handoffs;
  readonly #onHandoff: HandoffHandler;
  readonly #beats: Beats;
  readonly #mode: RunMode;
  readonly #observers: Observers;
  #workers: Worker[] = [];
  #starting: Promise<void> | undefined;
  #beating: { stop: AbortController; ended: Promise<void> } | undefined;
  #stopping: Promise<void> | undefined;

  /**
   * @param knex an open knex instance; never closed by this class
   * @throws ValidationFailed for unknown or wrong options
   */
  constructor(knex: Db, options: AgentRunnerOptions) {
    const { coordination, onHandoff, gates, queue, registry, ...others } = given(options);
    const { observers = new Observers(), ...rest } = others;
    const settings = parse(runnerOptionsSchema, rest, "options");
    const { prefix, agentId } = settings;
    const shared =
      coordination ?? new Coordination(knex, { prefix, agentId, queue, registry, observers });
    this.agentId = agentId;
    this.queue = shared.parts.queue;
    this.registry = shared.registry;
    this.#settings = settings;
    this.#onMessage = settings.onMessage as WorkHandler | undefined;
    this.#beats = new Beats({
      agentId,
      registry: this.registry,
      intervalMs: settings.heartbeatIntervalMs,
      metrics: settings.metrics as MetricsHook | undefined,
      register: () => this.#register(),
      beaten: () => this.#dropTaken(),
      tell: (error) => this.#tell(error),
    });
    this.#observers = observers;
    const handlers = timed(settings.tasks as AgentRunnerOptions["tasks"]);
    const handoffs = new RunHandoffs(shared, gates);
    this.#handoffs = shared.handoffs;
    this.#onHandoff = onHandoff ?? handoffs.decider(handlers);
    this.#mode = new RunMode(shared.system, agentId);
    this.#runs = {
      agentId,
      mode: this.#mode,
      coordination: shared,
      handlers,
      observers,
      handoffs,
      stacks: settings.stacks ?? process.env.NODE_ENV !== "production",
      sla: settings.card?.sla,
      runTimeoutMs: settings.runTimeoutMs,
      running: new Map(),
    };
  }

  /** Tasks under way now. */
  get activeTasks(): number {
    return this.#runs.running.size;
  }

  /**
   * Registers the agent and begins to work. Returns this runner.
   *
   * @throws ServiceUnavailable when the database cannot be reached: a start is not retried
   */
  async start(): Promise<this> {
    if (this.#stopping !== undefined) {
      throw new AgentCommunicationError("CLOSED", "this runner was stopped");
    }
    this.#starting ??= this.#start();
    try {
      await this.#starting;
    } catch (error) {
      this.#starting = undefined;
      throw error;
    }
    return this;
  }

  async #start(): Promise<void> {
    await this.#register();
    await this.#mode.look();
    if (this.#stopping !== undefined) {
      await this.#tellStatus("offline");
      throw new AgentCommunicationError("CLOSED", "this runner was stopped while it started");
    }
    const { maxConcurrentTasks, leaseMs } = this.#settings;
    const handle: WorkHandler = (message, context) => this.#handle(message, context);
    const all = this.#onMessage !== undefined;
    this.#workers = [
      this.queue.work(this.agentId, handle, {
        concurrency: maxConcurrentTasks,
        leaseMs,
        ...(all ? {} : { messageTypes: [MessageType.TASK_ASSIGNMENT] }),
      }),
      // Apart, so that "stop this task" gets through while every place is taken by a task.
      this.queue.work(this.agentId, handle, { concurrency: 8, leaseMs, messageTypes: APART }),
      ...this.#settings.serve.map((mailbox) =>
        this.queue.work(mailbox, (...given) => this.#onMessage?.(...given), {
          concurrency: maxConcurrentTasks,
          leaseMs,
        }),
      ),
    ];
    const stop = new AbortController();
    this.#beating = { stop, ended: this.#beats.run(stop.signal) };
  }

  /**
   * Takes no more tasks, lets those under way end until shortly before the deadline, gives the others back, and
   * goes offline, so that a supervisor hands them on at once. Returns within `deadlineMs` (default 10,000) and
   * a little.
   */
  async stop(options: { deadlineMs?: number } = {}): Promise<void> {
    this.#stopping ??= this.#stop(options);
    await this.#stopping;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #stop(options: { deadlineMs?: number }): Promise<void> {
    const beating = this.#beating;
    if (beating === undefined) {
      // A start under way ends itself when it sees the stop; it is waited for, but not for ever.
      const started = this.#starting?.catch(() => undefined);
      await Promise.race([started, sleep(LONGEST_GOODBYE_MS, undefined, { ref: false })]);
      return;
    }
    // It goes on beating while its last tasks end; the status stays.
    const told = this.#tellStatus("draining");
    await Promise.all(this.#workers.map((worker) => worker.stop(options)));
    beating.stop.abort();
    // A database that does not answer must not hold up the stop: then the silence tells.
    const away = Promise.all([told, beating.ended]).then(() => this.#tellStatus("offline"));
    await Promise.race([away, sleep(LONGEST_GOODBYE_MS, undefined, { ref: false })]);
  }

  async #tellStatus(status: "draining" | "offline"): Promise<void> {
    try {
      await this.registry.updateHeartbeat(this.agentId, { status });
    } catch (error) {
      this.#tell(error);
    }
  }

  async #handle(message: ClaimedMessage, context: WorkContext): Promise<void> {
    if (message.messageType === MessageType.TASK_ASSIGNMENT) {
      await TaskRun.of(this.#runs, message, context);
    } else if (message.messageType === MessageType.TASK_CANCEL) {
      const { task_id, assignment, reason } = message.content as Record<string, unknown>;
      const run = this.#runs.running.get(String(task_id));
      if (run !== undefined && (run.assignment ?? assignment) === assignment) {
        if (reason === PAUSED) run.pause();
        else run.cancel(typeof reason === "string" ? reason : "canceled");
      }
    } else if (message.messageType === MessageType.CALL_FOR_BIDS) {
      const { auctions } = this.#runs.coordination;
      const hook = this.#settings.bid as BidHook | undefined;
      await answerCall(auctions, message, hook, (error) => this.#tell(error));
    } else if (message.messageType === MessageType.AGENT_HANDOFF) {
      await decide(this.#handoffs, message, context, this.#onHandoff);
    } else {
      await this.#mode.heard(message);
      // What became of its own handoffs is in the database; whoever wants to hear of it has `onMessage`.
      await this.#onMessage?.(message, context);
    }
  }

  async #register(): Promise<void> {
    const { role, capabilities, maxConcurrentTasks, metadata, heartbeatIntervalMs, card, weight } =
      this.#settings;
    await this.registry.registerAgent({
      agentId: this.agentId,
      role,
      capabilities,
      maxConcurrentTasks,
      metadata,
      card,
      weight,
      staleAfterMs: Math.max(100, heartbeatIntervalMs * 3),
    });
  }

  /** Aborts runs whose task was taken away while this process was frozen or cut off. */
  async #dropTaken(): Promise<void> {
    const { running, coordination } = this.#runs;
    const { tasks } = coordination.parts;
    if (running.size === 0) return;
    const runs = [...running];
    const held = await tasks.heldBy(this.agentId, this.#settings.maxConcurrentTasks * 2 + 100);
    const assignments = new Map(held.map((task) => [task.taskId, task.assignment]));
    for (const [taskId, run] of runs) {
      if (run.assignment === undefined || assignments.get(taskId) === run.assignment) continue;
      run.cancel("it has ended, or another agent has it");
    }
  }

  #tell(error: unknown): void {
    const record = errorRecord(error);
    this.#observers.emit([
      {
        type: "error",
        agentId: this.agentId,
        errorType: record.code,
        errorMessage: record.message,
        at: Date.now(),
      },
    ]);
  }
}

/** Makes an AgentRunner and starts it. Stop it with `stop`, or hold it with `await using`. */
export async function runAgent(knex: Db, options: AgentRunnerOptions): Promise<AgentRunner> {
  return new AgentRunner(knex, options).start();
}

function timed(tasks: AgentRunnerOptions["tasks"]): Record<string, TimedTaskHandler> {
  return Object.fromEntries(
    Object.entries(tasks).map(([taskType, handler]) => [
      taskType,
      typeof handler === "function" ? { run: handler } : handler,
    ]),
  );
}
