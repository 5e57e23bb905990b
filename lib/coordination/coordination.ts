import { AgentRegistry } from "../agent-registry.ts";
import { errorRecord } from "../errors.ts";
import { Observers } from "../protocol/events.ts";
import { type TaskInput, taskListSchema } from "../protocol/tasks.ts";
import { parse } from "../protocol/validate.ts";
import { MessageQueueManager } from "../queue/manager.ts";
import { AgentSlots } from "../store/agent-slots.ts";
import { AgentStore } from "../store/agents.ts";
import { Assignments } from "../store/assignments/assignments.ts";
import { Dependencies } from "../store/assignments/dependencies.ts";
import { AuctionStore } from "../store/auctions.ts";
import { BuriedStore } from "../store/buried.ts";
import { ChangeStore } from "../store/changes.ts";
import { connect } from "../store/connect.ts";
import type { Db, Dialect } from "../store/dialect.ts";
import { dialectFor } from "../store/dialects.ts";
import { HandoffStore } from "../store/handoffs.ts";
import { Matching } from "../store/matching/matching.ts";
import { SchemaCheck } from "../store/migrate.ts";
import { SystemStore } from "../store/system.ts";
import { TaskFamily } from "../store/task-family.ts";
import { TaskHistory } from "../store/task-history.ts";
import { TaskInputs } from "../store/task-inputs.ts";
import { TaskStore } from "../store/tasks.ts";
import { SignalStore } from "../store/workflows/signals.ts";
import { WorkflowStore } from "../store/workflows/workflows.ts";
import { Assigner, type SubmitOptions, type Submitted } from "./assigner.ts";
import { Auctions } from "./auctions/auctions.ts";
import { ChangeRequests } from "./changes/changes.ts";
import { type Gates, type GatesInput, gatesOf } from "./handoffs/gates.ts";
import { Handoffs } from "./handoffs/handoffs.ts";
import type { Parts } from "./parts.ts";
import { Dependents } from "./placing/dependents.ts";
import { Placement } from "./placing/placement.ts";
import { submission } from "./submission.ts";
import { SystemModes } from "./system/system-modes.ts";
import { QuestionSweep } from "./tasks/questions.ts";
import { SubtaskFollower } from "./tasks/subtasks.ts";
import { Tasks } from "./tasks/tasks.ts";
import { Workflows } from "./workflows/workflows.ts";

/** What a Coordination is made on; what is not given, it makes itself on the same tables. */
export interface CoordinationInput {
  readonly prefix: string;
  /** Who sends what has no other sender. */
  readonly agentId?: string | undefined;
  readonly queue?: MessageQueueManager | undefined;
  readonly registry?: AgentRegistry | undefined;
  readonly observers?: Observers | undefined;
  /** What is checked before handoffs and answers. Default: nothing. */
  readonly gates?: GatesInput | undefined;
}

/**
 * Everything that coordinates on one database, put together once and shared by all supervisors of an outbox: so
 * that whoever ends a task, all that goes on from it hears of it. All that it knows is in the database.
 */
export class Coordination {
  readonly knex: Db;
  readonly dialect: Dialect;
  readonly schema: SchemaCheck;
  readonly registry: AgentRegistry;
  readonly parts: Parts;
  readonly history: TaskHistory;
  readonly buried: BuriedStore;
  readonly assigner: Assigner;
  readonly auctions: Auctions;
  readonly placement: Placement;
  readonly gates: Gates;
  readonly handoffs: Handoffs;
  readonly changes: ChangeRequests;
  readonly workflows: Workflows;
  readonly system: SystemModes;
  readonly tasks: Tasks;
  readonly #dependents: Dependents;
  readonly #unlisten: () => void;

  constructor(knex: Db, { prefix, agentId, ...given }: CoordinationInput) {
    const observers = given.observers ?? new Observers();
    const dialect = dialectFor(connect(knex).dialect, prefix);
    this.knex = knex;
    this.dialect = dialect;
    this.schema = new SchemaCheck(knex, dialect.name, prefix);
    this.registry = given.registry ?? new AgentRegistry(knex, { prefix, observers });
    this.parts = {
      queue: given.queue ?? new MessageQueueManager(knex, { prefix, observers, agentId }),
      tasks: new TaskStore(knex, dialect, prefix),
      inputs: new TaskInputs(knex, dialect, prefix),
      family: new TaskFamily(knex, dialect, prefix),
      agents: new AgentStore(knex, dialect, prefix),
      slots: new AgentSlots(knex, dialect, prefix),
      matching: new Matching(knex, dialect, prefix),
      assignments: new Assignments(knex, dialect, prefix),
      dependencies: new Dependencies(knex, dialect, prefix),
      observers,
      followers: [],
      auctioned: [],
      sweepSteps: [],
      freed: () => this.placement.poke(),
    };
    const tell = (error: unknown) => tellError(observers, agentId ?? "coordination", error);
    this.placement = new Placement(this.parts, tell);
    this.#dependents = new Dependents(this.parts, tell);
    this.#unlisten = this.registry.onRoom(this.parts.freed);
    this.parts.followers.push(this.#dependents);
    this.parts.sweepSteps.push(this.#dependents);
    this.parts.followers.push(new SubtaskFollower(this.parts));
    this.parts.sweepSteps.push(new QuestionSweep(this.parts));
    this.history = new TaskHistory(knex, dialect, prefix);
    this.buried = new BuriedStore(knex, dialect, prefix);
    this.assigner = new Assigner(this.parts);
    this.auctions = new Auctions(knex, this.parts, this.schema, {
      store: new AuctionStore(knex, dialect, prefix),
      assigner: this.assigner,
    });
    this.tasks = new Tasks(this);
    this.gates = gatesOf(given.gates);
    const handoffs = new HandoffStore(knex, dialect, prefix);
    this.handoffs = new Handoffs(knex, this.parts, this.schema, handoffs, this.gates.beforeHandoff);
    this.changes = new ChangeRequests(
      knex,
      this.parts,
      this.schema,
      new ChangeStore(knex, dialect, prefix),
    );
    this.system = new SystemModes(
      knex,
      this.parts,
      this.schema,
      new SystemStore(knex, dialect, prefix),
    );
    this.workflows = new Workflows(knex, this.schema, {
      parts: this.parts,
      store: new WorkflowStore(knex, dialect, prefix),
      signals: new SignalStore(dialect, prefix),
      submit: (supervisorId, task, options) => this.submit(supervisorId, task, options),
    });
  }

  /**
   * Stores a task and gives it to the best agent, or parks it: see SupervisorCoordinator.assignTask. Followers of
   * ended tasks say `wait: false`, because they hold the row of a task.
   *
   * @throws ValidationFailed, PayloadTooLarge
   */
  async submit(
    supervisorId: string,
    task: TaskInput,
    options: SubmitOptions = {},
  ): Promise<Submitted> {
    const checked = submission(supervisorId, task);
    await this.schema.ensure(options.tx);
    return this.assigner.submit(checked, options);
  }

  /**
   * Stores many tasks in one transaction; they may depend on each other. Answers in the order given.
   *
   * @throws ValidationFailed, PayloadTooLarge
   */
  async submitAll(
    supervisorId: string,
    tasks: readonly TaskInput[],
    { tx }: Pick<SubmitOptions, "tx"> = {},
  ): Promise<Submitted[]> {
    const checked = parse(taskListSchema, tasks, "tasks").map((task, n) =>
      submission(supervisorId, task as TaskInput, `tasks.${n}`),
    );
    await this.schema.ensure(tx);
    return checked.length === 0 ? [] : this.assigner.submitAll(checked, tx);
  }

  /** Until what the calls so far set off in the background is done. */
  async idle(): Promise<void> {
    await this.#dependents.idle();
    await this.placement.idle();
  }

  /** Ends what runs in the background; what is under way is waited for. */
  async close(): Promise<void> {
    this.#unlisten();
    await this.placement.close();
    await this.#dependents.idle();
  }
}

/** Tells observers of an error that no call ends with. */
function tellError(observers: Observers, agentId: string, error: unknown): void {
  if (!observers.active) return;
  const { code, message } = errorRecord(error);
  observers.emit([
    { type: "error", agentId, errorType: code, errorMessage: message, at: Date.now() },
  ]);
}
