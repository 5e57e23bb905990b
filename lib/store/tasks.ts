import type { Knex } from "knex";
import { type EndState, sourcesOf, type TaskState } from "../protocol/states.ts";
import type { Task, TaskFailure, TaskFilter, TaskProgress } from "../protocol/tasks.ts";
import { type AgentStatements, agentStatements } from "./agent-statements.ts";
import type { Db, Dialect } from "./dialect.ts";
import { isTransaction, query, type Row, retried, transaction, translated } from "./sql.ts";
import { type Fence, type NewTask, taskOf } from "./task-row.ts";

/** What a statement of a move writes besides the state. */
type Values = Record<string, string | number | null | Knex.Raw>;

/** What is stored with the end of a task. */
export interface TaskOutcome {
  readonly result?: unknown;
  readonly error?: TaskFailure | undefined;
  readonly progress?: TaskProgress | undefined;
}

const PARKED = "agent_id IS NULL AND finished_at IS NULL AND waits_for = 0 AND paused_at IS NULL";
/** Of one set of requirements: the highest priority, the nearest deadline, the longest wait. */
const NEXT_FIRST = [
  { column: "priority", order: "desc" },
  { column: "urgent_at" },
  { column: "seq" },
];
const HELD = "agent_id IS NOT NULL AND finished_at IS NULL";

/**
 * The state is one from which a move to `to` is legal. Written so that no index fits: a task is found by its id,
 * and with old statistics the planner would rather walk the index of a state that was empty when they were made.
 */
function mayBecome(to: TaskState): string {
  return `COALESCE(state, '') IN (${sourcesOf(to)
    .map((state) => `'${state}'`)
    .join(", ")})`;
}

/** Tasks. Every move is a compare-and-set on state, assignment and agent: what is late changes nothing. */
export class TaskStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #table: string;
  readonly #archive: string;
  readonly #statements: AgentStatements;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#table = `${prefix}tasks`;
    this.#archive = `${prefix}archive`;
    this.#statements = agentStatements(dialect.name, prefix, dialect.now);
  }

  /** Runs `run` in the caller's transaction, or in one of its own that is tried again after a conflict. */
  async transaction<T>(
    run: (trx: Knex.Transaction) => Promise<T>,
    db: Db = this.#knex,
  ): Promise<T> {
    return translated(this.#dialect, () =>
      transaction(this.#dialect, db, (trx) => run(trx as Knex.Transaction)),
    );
  }

  /** Stores a task, with its first agent or without one. Undefined when the id is taken. */
  async insert(
    trx: Db,
    task: NewTask,
    first: { agentId: string; messageId: string } | undefined,
  ): Promise<Task | undefined> {
    return translated(this.#dialect, async () => {
      const [row] = await query(trx, this.#statements.insertTask, {
        ...task,
        state: first === undefined ? "submitted" : "assigned",
        assignment: first === undefined ? 0 : 1,
        agent_id: first?.agentId ?? null,
        message_id: first?.messageId ?? null,
      });
      return row === undefined ? undefined : this.#task(row);
    });
  }

  async get(taskId: string, db: Db = this.#knex): Promise<Task | undefined> {
    return translated(this.#dialect, async () => {
      const row = (await db(this.#table).where({ task_id: taskId }).first()) as Row | undefined;
      return row === undefined ? undefined : this.#task(row);
    });
  }

  /** In the order of their arrival, from after `filter.afterSeq` on. */
  async list(filter: TaskFilter): Promise<Task[]> {
    return this.#select(this.#knex, (tasks) => {
      if (filter.state !== undefined) tasks.where("state", filter.state);
      if (filter.agentId !== undefined) tasks.where("agent_id", filter.agentId);
      if (filter.supervisorId !== undefined) tasks.where("supervisor_id", filter.supervisorId);
      return tasks.where("seq", ">", filter.afterSeq).orderBy("seq").limit(filter.limit);
    });
  }

  /** Gives a parked task to an agent. Undefined when somebody else was faster. */
  async assign(trx: Db, task: Task, agentId: string, messageId: string): Promise<Task | undefined> {
    return this.#move(trx, { ...task, agentId: null }, "assigned", {
      agent_id: agentId,
      message_id: messageId,
      assignment: task.assignment + 1,
      assigned_at: trx.raw(this.#dialect.now),
      started_at: null,
    });
  }

  /** The agent has begun. Undefined when the task is no longer its own: it must not begin. */
  async begin(fence: Fence, db: Db = this.#knex): Promise<Task | undefined> {
    return this.#move(db, fence, "working", { started_at: db.raw(this.#dialect.now) });
  }

  /** Notes what the agent reports on the way. Undefined when the task is no longer its own. */
  async report(
    fence: Fence,
    state: TaskState,
    progress: TaskProgress | undefined,
    db: Db = this.#knex,
  ): Promise<Task | undefined> {
    return this.#move(
      db,
      fence,
      state,
      progress === undefined ? {} : { progress: JSON.stringify(progress) },
    );
  }

  async finish(
    db: Db,
    fence: Fence,
    state: EndState,
    outcome: TaskOutcome,
  ): Promise<Task | undefined> {
    return this.#move(db, fence, state, {
      finished_at: db.raw(this.#dialect.now),
      ...(outcome.result === undefined ? {} : { result: JSON.stringify(outcome.result) }),
      ...(outcome.error === undefined ? {} : { last_error: JSON.stringify(outcome.error) }),
      ...(outcome.progress === undefined ? {} : { progress: JSON.stringify(outcome.progress) }),
    });
  }

  /** Parks a task again, so that another agent may try. */
  async giveBack(db: Db, fence: Fence, error: TaskFailure): Promise<Task | undefined> {
    return this.#move(db, fence, "submitted", {
      agent_id: null,
      previous_agent_id: fence.agentId,
      message_id: null,
      assigned_at: null,
      started_at: null,
      last_error: JSON.stringify(error),
    });
  }

  /** Cancels whatever assignment it has now. Undefined when it has ended, or is not there. */
  async cancel(db: Db, taskId: string, error: TaskFailure): Promise<Task | undefined> {
    return this.#update(
      db,
      (tasks) => tasks.where({ task_id: taskId }).whereRaw(mayBecome("canceled")),
      {
        state: "canceled",
        finished_at: db.raw(this.#dialect.now),
        last_error: JSON.stringify(error),
      },
    );
  }

  async #move(db: Db, fence: Fence, to: TaskState, values: Values): Promise<Task | undefined> {
    return this.#update(
      db,
      (tasks) => {
        tasks
          .where({ task_id: fence.taskId, assignment: fence.assignment })
          .whereRaw(mayBecome(to));
        return fence.agentId === null
          ? tasks.whereNull("agent_id")
          : tasks.where({ agent_id: fence.agentId });
      },
      { ...values, state: to },
    );
  }

  async #update(
    db: Db,
    narrow: (tasks: Knex.QueryBuilder) => Knex.QueryBuilder,
    values: Values,
  ): Promise<Task | undefined> {
    const update = async () => {
      const rows = await narrow(db(this.#table)).whereNull("finished_at").update(values, ["*"]);
      return rows as unknown as Row[];
    };
    return translated(this.#dialect, async () => {
      const [row] = isTransaction(db) ? await update() : await retried(this.#dialect, update);
      return row === undefined ? undefined : this.#task(row);
    });
  }

  /** Tasks that an agent has, the oldest first. */
  async heldBy(agentId: string, limit: number, db: Db = this.#knex): Promise<Task[]> {
    return this.#select(db, (tasks) =>
      tasks.where("agent_id", agentId).whereRaw(HELD).orderBy("seq").limit(limit),
    );
  }

  /** Tasks whose deadline has passed, the longest ago first. */
  async overdue(limit: number): Promise<Task[]> {
    return this.#select(this.#knex, (tasks) =>
      tasks
        .whereRaw(
          `deadline_at IS NOT NULL AND finished_at IS NULL AND deadline_at <= ${this.#dialect.now}`,
        )
        .orderBy("deadline_at")
        .limit(limit),
    );
  }

  /** The first parked task of the first set of requirements after `needKey`: one step in the index. */
  async nextParked(needKey: string): Promise<{ needKey: string; task: Task } | undefined> {
    return translated(this.#dialect, async () => {
      const row = (await this.#knex(this.#table)
        .select("*")
        .whereRaw(PARKED)
        .where("need_key", ">", needKey)
        .orderBy([{ column: "need_key" }, ...NEXT_FIRST])
        .first()) as Row | undefined;
      return row === undefined
        ? undefined
        : { needKey: String(row.need_key), task: this.#task(row) };
    });
  }

  /** The parked task that is next for this set of requirements. */
  async firstParked(needKey: string): Promise<Task | undefined> {
    const [task] = await this.#select(this.#knex, (tasks) =>
      tasks.whereRaw(PARKED).where("need_key", needKey).orderBy(NEXT_FIRST).limit(1),
    );
    return task;
  }

  /** A page of the tasks that agents have, in the order of the index, from after the given one on. */
  async heldAfter(after: { agentId: string; seq: number }, limit: number): Promise<Task[]> {
    return this.#select(this.#knex, (tasks) =>
      tasks
        .whereRaw(HELD)
        // The first condition says nothing new, but gives the index a place to start from.
        .where("agent_id", ">=", after.agentId)
        .where((either) =>
          either
            .where("agent_id", ">", after.agentId)
            .orWhere((same) => same.where("agent_id", after.agentId).where("seq", ">", after.seq)),
        )
        .orderBy([{ column: "agent_id" }, { column: "seq" }])
        .limit(limit),
    );
  }

  /** Which of these messages are dead letters, with the reason and the error. */
  async buried(
    messageIds: readonly string[],
  ): Promise<Map<string, { reason: string; error: string }>> {
    return translated(this.#dialect, async () => {
      const rows = await query(this.#knex, this.#statements.buried, {
        ids: JSON.stringify(messageIds),
      });
      return new Map(
        rows.map((row) => {
          const error = this.#statements.json(row.last_error) as { message?: string } | null;
          return [
            String(row.message_id),
            { reason: String(row.reason), error: error?.message ?? "" },
          ];
        }),
      );
    });
  }

  /** Which of these messages were cancelled. */
  async cancelled(messageIds: readonly string[]): Promise<Set<string>> {
    return translated(this.#dialect, async () => {
      const rows = (await this.#knex(this.#archive)
        .select("message_id")
        .whereIn("message_id", [...messageIds])
        .where("outcome", "cancelled")) as Row[];
      return new Set(rows.map((row) => String(row.message_id)));
    });
  }

  async #select(db: Db, narrow: (tasks: Knex.QueryBuilder) => Knex.QueryBuilder): Promise<Task[]> {
    return translated(this.#dialect, async () => {
      const rows = (await narrow(db(this.#table).select("*"))) as Row[];
      return rows.map((row) => this.#task(row));
    });
  }

  #task(row: Row): Task {
    return taskOf(row, this.#statements.json);
  }
}
