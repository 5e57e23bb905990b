import { AgentRegistry } from "../agent-registry.ts";
import { Observers } from "../protocol/events.ts";
import type { TaskInput } from "../protocol/tasks.ts";
import { MessageQueueManager } from "../queue/manager.ts";
import { AgentSlots } from "../store/agent-slots.ts";
import { AgentStore } from "../store/agents.ts";
import { connect } from "../store/connect.ts";
import type { Db, Dialect } from "../store/dialect.ts";
import { dialectFor } from "../store/dialects.ts";
import { HandoffStore } from "../store/handoffs.ts";
import { Matching } from "../store/matching/matching.ts";
import { SchemaCheck } from "../store/migrate.ts";
import { TaskFamily } from "../store/task-family.ts";
import { TaskHistory } from "../store/task-history.ts";
import { TaskInputs } from "../store/task-inputs.ts";
import { TaskStore } from "../store/tasks.ts";
import { Assigner, type SubmitOptions, type Submitted } from "./assigner.ts";
import { type Gates, type GatesInput, gatesOf } from "./handoffs/gates.ts";
import { Handoffs } from "./handoffs/handoffs.ts";
import type { Parts } from "./parts.ts";
import { submission } from "./submission.ts";
import { QuestionSweep } from "./tasks/questions.ts";
import { SubtaskFollower } from "./tasks/subtasks.ts";
import { Tasks } from "./tasks/tasks.ts";

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
 * that whoever ends a task, all that goes on from it hears of it. It holds no state of its own.
 */
export class Coordination {
  readonly knex: Db;
  readonly dialect: Dialect;
  readonly schema: SchemaCheck;
  readonly registry: AgentRegistry;
  readonly parts: Parts;
  readonly history: TaskHistory;
  readonly assigner: Assigner;
  readonly gates: Gates;
  readonly handoffs: Handoffs;
  readonly tasks: Tasks;

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
      observers,
      followers: [],
      sweepSteps: [],
    };
    this.parts.followers.push(new SubtaskFollower(this.parts));
    this.parts.sweepSteps.push(new QuestionSweep(this.parts));
    this.history = new TaskHistory(knex, dialect, prefix);
    this.assigner = new Assigner(this.parts);
    this.tasks = new Tasks(this);
    this.gates = gatesOf(given.gates);
    const handoffs = new HandoffStore(knex, dialect, prefix);
    this.handoffs = new Handoffs(knex, this.parts, this.schema, handoffs, this.gates.beforeHandoff);
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
}
