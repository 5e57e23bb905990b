import type { Knex } from "knex";
import type { SupervisorOptions } from "../coordination/options.ts";
import type { SupervisorCoordinator } from "../coordination/supervisor.ts";
import { AlreadyExists, MessageTimeout, UnknownRecipient, ValidationFailed } from "../errors.ts";
import type { Outbox } from "../outbox.ts";
import { AgentRole } from "../protocol/agents.ts";
import type { OutboxEvent } from "../protocol/events.ts";
import type { MessageInput } from "../protocol/message-input.ts";
import { isEnd } from "../protocol/states.ts";
import type { FinishedTask, Task } from "../protocol/tasks.ts";
import { parse } from "../protocol/validate.ts";
import { isOver } from "../protocol/workflow-states.ts";
import type { Workflow } from "../protocol/workflows.ts";
import type { WorkHandler, WorkOptions } from "../queue/worker/worker.ts";
import {
  type AroundTask,
  startAgent,
  startConsumer,
  type TestAgentOptions,
} from "./agent-process.ts";
import { Assertions, type Census } from "./assertions.ts";
import { durationOf, instantOf } from "./clock.ts";
import { type Delivery, deliver } from "./deliver.ts";
import type { Faults } from "./faults.ts";
import { Journal, type SentFilter, type SentMessage } from "./journal.ts";
import {
  optionsSchema,
  PREFIX,
  type TestAgent,
  type TestClock,
  type TestOutboxOptions,
} from "./options.ts";
import { type ProcessKind, TestProcess } from "./process.ts";
import { MAIN, World } from "./world.ts";

/** As long as a supervisor waits for a task by itself. */
const WITHIN_MS = 300_000;

/**
 * An outbox for a test: real, on SQLite in memory, with a clock that stands still. Agents, supervisors and
 * consumers live in processes of their own, as far as the database can tell, so that one can crash alone.
 */
export class TestOutbox {
  /** The test's own outbox. */
  readonly outbox: Outbox;
  readonly clock: TestClock;
  readonly #world: World;
  readonly #journal: Journal;
  readonly #assertions: Assertions;
  readonly #options: NonNullable<TestOutboxOptions["outbox"]>;

  /** @internal Use createTestOutbox. */
  constructor(
    world: World,
    journal: Journal,
    main: TestProcess,
    options: NonNullable<TestOutboxOptions["outbox"]>,
  ) {
    this.#world = world;
    this.#journal = journal;
    this.#assertions = new Assertions(world, journal);
    this.#options = options;
    this.outbox = main.outbox;
    this.clock = {
      get now() {
        return world.time.now;
      },
      advance: async (ms) => world.advanceTo(world.time.now + durationOf(ms, "advance")),
      advanceTo: async (instant) => world.advanceTo(instantOf(instant, "advanceTo")),
      sleep: (ms, { signal } = {}) => world.sleep(durationOf(ms, "sleep"), signal),
    };
  }

  /** The queue of the test's own outbox. */
  get queue(): Outbox["queue"] {
    return this.outbox.queue;
  }

  /** The knex of the test's own outbox, for transactions and for looking into the tables. */
  get knex(): Knex {
    return this.outbox.knex;
  }

  /** What goes wrong with the database. */
  get faults(): Faults {
    return this.#world.faults;
  }

  /** Everything that observers were told, in order; instants are the virtual clock's. */
  get events(): readonly OutboxEvent[] {
    return this.#journal.events;
  }

  /**
   * Starts an agent: registers it, and lets it do tasks; as `outbox.runAgent`, in a process of its own. It beats as
   * the virtual clock goes on. `around` is called instead of each task's handler, to hold a run up or to let it fail.
   *
   * @throws AlreadyExists while something of this id runs; one that crashed may be started again
   */
  async agent(options: TestAgentOptions, around?: AroundTask): Promise<TestAgent> {
    const process = await this.#open(options.agentId, "agent");
    await startAgent(this.#world, process, options, around);
    return { agentId: process.id, outbox: process.outbox };
  }

  /**
   * Starts a supervisor in a process of its own. It needs no `start`: its rounds are part of `settle` and `advance`.
   *
   * @throws AlreadyExists
   */
  async supervisor(
    supervisorId = "supervisor",
    options: Parameters<Outbox["supervisor"]>[1] = {},
  ): Promise<SupervisorCoordinator> {
    const process = await this.#open(supervisorId, "supervisor");
    const { heartbeatIntervalMs = 30_000 } = options as SupervisorOptions;
    await process.outbox.agents.registerAgent({
      agentId: supervisorId,
      role: AgentRole.SUPERVISOR,
      maxConcurrentTasks: 0,
      staleAfterMs: 3 * heartbeatIntervalMs,
    });
    process.supervisor = process.outbox.supervisor(supervisorId, options);
    return process.supervisor;
  }

  /**
   * Works a mailbox, as `queue.work`, in a process of its own, until the returned call.
   *
   * @throws AlreadyExists
   */
  async consumer(
    agentId: string,
    handler: WorkHandler,
    options: WorkOptions = {},
  ): Promise<() => Promise<void>> {
    const process = await this.#open(agentId, "consumer");
    startConsumer(this.#world, process, handler, options);
    return async () => {
      await process.close();
      if (this.#world.processes.get(agentId) === process) this.#world.processes.delete(agentId);
    };
  }

  /** Sends a message to one mailbox and lets it be handled: by `handler`, or by who works the mailbox already. */
  deliver(message: MessageInput, handler?: WorkHandler): Promise<Delivery> {
    return deliver(this.#world, this.#journal, message, handler, (agentId, given) =>
      this.consumer(agentId, given, { concurrency: 1 }),
    );
  }

  /**
   * Lets everything happen that can happen now, without time going on: messages are handled, supervisors make their
   * rounds, answers come, until nothing moves.
   *
   * @throws NotSettled naming what still moves
   */
  settle(): Promise<void> {
    return this.#world.settle();
  }

  /**
   * Lets time go on until the task has ended, from one thing that falls due to the next.
   *
   * @throws MessageTimeout when it has not ended after `withinMs` of virtual time (default 300,000), or when nothing
   *   is due that could end it; with the task's state, and why it waits
   */
  async waitForTask(
    taskId: string,
    { withinMs = WITHIN_MS }: { withinMs?: number | undefined } = {},
  ): Promise<FinishedTask> {
    const task = await this.#ended(
      withinMs,
      () => this.#task(taskId),
      ({ state }) => isEnd(state),
    );
    if (isEnd(task.state)) return task as FinishedTask;
    const why = await this.outbox.tasks.why(taskId).catch(() => undefined);
    throw this.#unfinished(`the task "${taskId}" is ${task.state}`, withinMs, why?.explanation, {
      ...{ taskId, state: task.state, agentId: task.agentId },
    });
  }

  /**
   * As `waitForTask`, for a workflow. A supervisor with its `supervisorId` must run in the test.
   *
   * @throws MessageTimeout
   */
  async waitForWorkflow(
    workflowId: string,
    { withinMs = WITHIN_MS }: { withinMs?: number | undefined } = {},
  ): Promise<Workflow> {
    const look = async () => {
      const workflow = await this.outbox.workflows.get(workflowId);
      if (workflow === null) throw new ValidationFailed(`there is no workflow "${workflowId}"`);
      return workflow;
    };
    const over = ({ state }: Workflow) => isOver(state);
    const workflow = await this.#ended(withinMs, look, over);
    if (over(workflow)) return workflow;
    const why = await this.outbox.workflows.why(workflowId).catch(() => undefined);
    const { state } = workflow;
    throw this.#unfinished(`the workflow "${workflowId}" is ${state}`, withinMs, why?.reason, {
      ...{ workflowId, state },
    });
  }

  /** The process dies without a goodbye: nothing more of it reaches the database; lease and heartbeat lapse. */
  async crashAgent(agentId: string): Promise<void> {
    await this.#world.kill(this.#process(agentId));
  }

  /** The process stands still, as in a long pause of its machine: lease and heartbeat lapse, until `thawAgent`. */
  freezeAgent(agentId: string): void {
    this.#process(agentId).connected.freeze();
  }

  /** A frozen process goes on where it stood, and beats. */
  async thawAgent(agentId: string): Promise<void> {
    const process = this.#process(agentId);
    process.connected.thaw();
    if (process.kind === "consumer") return;
    await process.outbox.agents.updateHeartbeat(agentId).catch((error: unknown) => {
      if (!(error instanceof UnknownRecipient)) throw error;
    });
  }

  /** What was sent, by whomever, in the order of its commits. */
  sent(filter: SentFilter = {}): Promise<SentMessage[]> {
    return this.#journal.sent(this.#world.queue, filter);
  }

  /** @throws AssertionError unless the message was processed */
  async assertDelivered(messageId: string): Promise<void> {
    await this.#assertions.assertDelivered(messageId);
  }

  /** @throws AssertionError unless the message failed and was tried again so many times */
  assertRetried(messageId: string, times: number): Promise<void> {
    return this.#assertions.assertRetried(messageId, times);
  }

  /** @throws AssertionError unless the message is a dead letter, for this reason where one is given */
  async assertDeadLettered(messageId: string, reason?: string): Promise<void> {
    await this.#assertions.assertDeadLettered(messageId, reason);
  }

  /**
   * Returns how many of the messages that were sent ended how.
   *
   * @throws AssertionError when one is nowhere, or was processed twice
   */
  expectNoLoss(): Promise<Census> {
    return this.#assertions.expectNoLoss();
  }

  /** Ends everything that runs, and the database with it. */
  close(): Promise<void> {
    return this.#world.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #open(id: string, kind: ProcessKind): Promise<TestProcess> {
    const before = this.#world.processes.get(id);
    if (before !== undefined && before.connected.state !== "dead") {
      throw new AlreadyExists(`"${id}" runs in this test already`);
    }
    const process = await TestProcess.open(id, kind, {
      database: this.#world.database,
      options: this.#options,
      observe: this.#journal.observe,
    });
    this.#world.processes.set(id, process);
    return process;
  }

  #process(id: string): TestProcess {
    const process = this.#world.processes.get(id);
    if (process !== undefined && process.kind !== "main") return process;
    throw new ValidationFailed(`nothing of the id "${id}" runs in this test`);
  }

  async #task(taskId: string): Promise<Task> {
    const task = await this.#world.tasks.get(taskId);
    if (task === undefined) throw new ValidationFailed(`there is no task "${taskId}"`);
    return task;
  }

  /** Lets time go on until it is so, or `withinMs` have passed. */
  async #ended<T>(withinMs: number, look: () => Promise<T>, over: (now: T) => boolean): Promise<T> {
    const until = this.clock.now + durationOf(withinMs, "withinMs");
    await this.#world.advanceTo(this.clock.now);
    for (;;) {
      const now = await look();
      if (over(now) || this.clock.now >= until) return now;
      await this.#world.advanceTo((await this.#world.nextDue(until)) ?? until);
    }
  }

  #unfinished(what: string, withinMs: number, why = "", details: object): MessageTimeout {
    const supervised = [...this.#world.processes.values()].some((one) => one.kind === "supervisor");
    const alone = supervised ? "" : "; no supervisor runs in this test that could hear of its end";
    return new MessageTimeout(
      `${what} after ${withinMs} ms of virtual time${alone}${why === "" ? "" : `: ${why}`}`,
      { details: { ...details, withinMs } },
    );
  }
}

/** Opens an outbox for a test, on a fresh database in memory. Close it, or hold it with `await using`. */
export async function createTestOutbox(options: TestOutboxOptions = {}): Promise<TestOutbox> {
  const { now, patienceMs, mostCalls, outbox } = parse(optionsSchema, options, "options");
  const world = new World({
    now: instantOf(now, "now"),
    prefix: PREFIX,
    patienceMs,
    mostCalls,
  });
  const journal = new Journal(() => world.time.now);
  try {
    await world.database.migrate();
    const main = await TestProcess.open(MAIN, "main", {
      database: world.database,
      options: outbox,
      observe: journal.observe,
    });
    world.processes.set(MAIN, main);
    return new TestOutbox(world, journal, main, outbox);
  } catch (error) {
    await world.close();
    throw error;
  }
}
