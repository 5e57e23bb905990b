import type { Knex } from "knex";
import { type EndState, sourcesOf, type TaskState } from "../protocol/states.ts";
import {
  OPERATION_MS,
  type Task,
  type TaskFailure,
  type TaskProgress,
  type TaskWarning,
} from "../protocol/tasks.ts";
import { type AgentStatements, agentStatements } from "./agent-statements.ts";
import type { Db, Dialect } from "./dialect.ts";
import { isTransaction, type Row, readClock, retried, transaction, translated } from "./sql.ts";
import { type Fence, taskOf } from "./task-row.ts";

/** What a statement of a move writes besides the state. */
type Values = Record<string, string | number | null | Knex.Raw>;

/** What is stored with the end of a task. */
export interface TaskOutcome {
  readonly result?: unknown;
  readonly error?: TaskFailure | undefined;
  readonly progress?: TaskProgress | undefined;
  readonly warnings?: readonly TaskWarning[] | undefined;
}

/** The limits of a run where the task itself says none, in milliseconds; see 'Deadlines' in docs/tasks.md. */
export interface RunLimits {
  /** Of the handler, or of its agent's service level: before the class of the task. */
  readonly agentMs?: number | null | undefined;
  /** Of the environment: after all others. */
  readonly defaultMs?: number | null | undefined;
}

const WAITING = ["input_required", "auth_required"] as const satisfies readonly TaskState[];

/**
 * The state is one from which a move to `to` is legal. Written so that no index fits: a task is found by its id,
 * and with old statistics the planner would rather walk the index of a state that was empty when they were made.
 */
function mayBecome(to: TaskState, from: readonly TaskState[] = sourcesOf(to)): string {
  const legal = from.filter((state) => sourcesOf(to).includes(state));
  return `COALESCE(state, '') IN (${legal.map((state) => `'${state}'`).join(", ")})`;
}

/** Moves of tasks. Every one is a compare-and-set on state, assignment and agent: what is late changes nothing. */
export class TaskMoves {
  protected readonly knex: Knex;
  protected readonly dialect: Dialect;
  protected readonly table: string;
  protected readonly messages: string;
  protected readonly archive: string;
  protected readonly statements: AgentStatements;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.knex = knex;
    this.dialect = dialect;
    this.table = `${prefix}tasks`;
    this.messages = `${prefix}messages`;
    this.archive = `${prefix}archive`;
    this.statements = agentStatements(dialect.name, prefix, dialect.now);
  }

  /** Runs `run` in the caller's transaction, or in one of its own that is tried again after a conflict. */
  async transaction<T>(run: (trx: Knex.Transaction) => Promise<T>, db: Db = this.knex): Promise<T> {
    return translated(this.dialect, () =>
      transaction(this.dialect, db, (trx) => run(trx as Knex.Transaction)),
    );
  }

  /** The database's clock. */
  async clock(): Promise<number> {
    return translated(this.dialect, () => readClock(this.knex, this.dialect));
  }

  async get(taskId: string, db: Db = this.knex): Promise<Task | undefined> {
    return translated(this.dialect, async () => {
      const row = (await db(this.table).where({ task_id: taskId }).first()) as Row | undefined;
      return row === undefined ? undefined : this.task(row);
    });
  }

  /** Locks a task until the transaction ends, and returns it as it is then. */
  async lock(trx: Db, taskId: string): Promise<Task | undefined> {
    return translated(this.dialect, async () => {
      const row = (await trx(this.table).where({ task_id: taskId }).forUpdate().first()) as
        | Row
        | undefined;
      return row === undefined ? undefined : this.task(row);
    });
  }

  /** Gives a parked task to an agent. Undefined when somebody else was faster, or it is to get none now. */
  async assign(trx: Db, task: Task, agentId: string, messageId: string): Promise<Task | undefined> {
    const ready = "waits_for = 0 AND paused_at IS NULL";
    return this.#move(
      trx,
      { ...task, agentId: null },
      "assigned",
      {
        agent_id: agentId,
        message_id: messageId,
        assignment: task.assignment + 1,
        assigned_at: trx.raw(this.dialect.now),
        started_at: null,
        run_deadline_at: null,
      },
      ready,
    );
  }

  /** The agent has begun. Undefined when the task is no longer its own: it must not begin. */
  async begin(fence: Fence, db: Db = this.knex, limits: RunLimits = {}): Promise<Task | undefined> {
    const { now } = this.dialect;
    const classes = Object.entries(OPERATION_MS).map(([name, ms]) => `WHEN '${name}' THEN ${ms}`);
    const { agentMs = null, defaultMs = null } = limits;
    return this.#move(db, fence, "working", {
      started_at: db.raw(now),
      run_deadline_at: db.raw(
        `${now} + COALESCE(run_timeout_ms, CAST(? AS bigint), CASE operation ${classes.join(" ")} END, CAST(? AS bigint))`,
        [agentMs, defaultMs] as Knex.RawBinding[],
      ),
    });
  }

  /**
   * Notes what the agent reports on the way, and how much longer it may run: with null its clock stands still.
   * Undefined when the task is no longer its own.
   */
  async report(
    fence: Fence,
    state: TaskState,
    progress: TaskProgress | undefined,
    db: Db = this.knex,
    runMs?: number | null,
  ): Promise<Task | undefined> {
    return this.#move(db, fence, state, {
      // An agent that says no more than how far it is has begun as well.
      started_at: db.raw(`COALESCE(started_at, ${this.dialect.now})`),
      ...(progress === undefined ? {} : { progress: JSON.stringify(progress) }),
      ...(runMs === undefined ? {} : { run_deadline_at: this.#from(db, runMs) }),
    });
  }

  #from(db: Db, ms: number | null): Knex.Raw | null {
    return ms === null ? null : db.raw(`${this.dialect.now} + ?`, [ms]);
  }

  async finish(
    db: Db,
    fence: Fence,
    state: EndState,
    outcome: TaskOutcome,
  ): Promise<Task | undefined> {
    const { result, error, progress, warnings = [] } = outcome;
    return this.#move(db, fence, state, {
      finished_at: db.raw(this.dialect.now),
      ...(result === undefined ? {} : { result: JSON.stringify(result) }),
      ...(error === undefined ? {} : { last_error: JSON.stringify(error) }),
      ...(progress === undefined ? {} : { progress: JSON.stringify(progress) }),
      ...(warnings.length === 0 ? {} : { warnings: JSON.stringify(warnings) }),
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
      run_deadline_at: null,
      last_error: JSON.stringify(error),
    });
  }

  /**
   * Parks a task whose run ended for now: that is no failure, so it may be assigned once more than before. With
   * `waitsFor` no agent gets it until that is 0; `started_at` stays, which tells it from one that has yet to begin.
   */
  async park(
    db: Db,
    fence: Fence,
    state: "submitted" | "input_required" | "auth_required",
    waitsFor: number,
  ): Promise<Task | undefined> {
    return this.#move(db, fence, state, {
      agent_id: null,
      message_id: null,
      assigned_at: null,
      ...(waitsFor === 0 ? { started_at: null } : {}),
      run_deadline_at: null,
      waits_for: waitsFor,
      max_assignments: db.raw("max_assignments + 1"),
    });
  }

  /** Somebody answered the last open question of a task: its run goes on, or it starts anew. */
  async answered(db: Db, taskId: string): Promise<Task | undefined> {
    const running = await this.update(
      db,
      (tasks) =>
        tasks
          .where({ task_id: taskId })
          .whereNotNull("agent_id")
          .whereRaw(mayBecome("working", WAITING)),
      { state: "working" },
    );
    if (running !== undefined) return running;
    return this.update(
      db,
      (tasks) =>
        tasks
          .where({ task_id: taskId })
          .whereNull("agent_id")
          .whereRaw(mayBecome("submitted", WAITING)),
      { state: "submitted", waits_for: 0, started_at: null },
    );
  }

  /** One of the parts that a parked task waits for has ended. Undefined where it waits for none. */
  async partEnded(db: Db, taskId: string): Promise<Task | undefined> {
    return this.update(
      db,
      (tasks) =>
        tasks
          .where({ task_id: taskId })
          .whereNull("agent_id")
          .whereNotNull("started_at")
          .whereRaw("waits_for > 0 AND COALESCE(state, '') = 'submitted'"),
      { waits_for: db.raw("waits_for - 1") },
    );
  }

  /** Cancels whatever assignment it has now. Undefined when it has ended, or is not there. */
  async cancel(db: Db, taskId: string, error: TaskFailure): Promise<Task | undefined> {
    return this.update(
      db,
      (tasks) => tasks.where({ task_id: taskId }).whereRaw(mayBecome("canceled")),
      {
        state: "canceled",
        finished_at: db.raw(this.dialect.now),
        last_error: JSON.stringify(error),
      },
    );
  }

  /** Undefined when it is paused already, has ended, or is not there. */
  async pause(db: Db, taskId: string): Promise<Task | undefined> {
    return this.update(db, (tasks) => tasks.where({ task_id: taskId }).whereNull("paused_at"), {
      paused_at: db.raw(this.dialect.now),
    });
  }

  /** Undefined when it is not paused. */
  async resume(db: Db, taskId: string): Promise<Task | undefined> {
    return this.update(db, (tasks) => tasks.where({ task_id: taskId }).whereNotNull("paused_at"), {
      paused_at: null,
    });
  }

  async #move(
    db: Db,
    fence: Fence,
    to: TaskState,
    values: Values,
    besides = "1 = 1",
  ): Promise<Task | undefined> {
    return this.update(
      db,
      (tasks) => {
        tasks
          .where({ task_id: fence.taskId, assignment: fence.assignment })
          .whereRaw(`${mayBecome(to)} AND ${besides}`);
        return fence.agentId === null
          ? tasks.whereNull("agent_id")
          : tasks.where({ agent_id: fence.agentId });
      },
      { ...values, state: to },
    );
  }

  protected async update(
    db: Db,
    narrow: (tasks: Knex.QueryBuilder) => Knex.QueryBuilder,
    values: Values,
  ): Promise<Task | undefined> {
    const update = async () => {
      const rows = await narrow(db(this.table)).whereNull("finished_at").update(values, ["*"]);
      return rows as unknown as Row[];
    };
    return translated(this.dialect, async () => {
      const [row] = isTransaction(db) ? await update() : await retried(this.dialect, update);
      return row === undefined ? undefined : this.task(row);
    });
  }

  protected async select(
    db: Db,
    narrow: (tasks: Knex.QueryBuilder) => Knex.QueryBuilder,
  ): Promise<Task[]> {
    return translated(this.dialect, async () => {
      const rows = (await narrow(db(this.table).select("*"))) as Row[];
      return rows.map((row) => this.task(row));
    });
  }

  protected task(row: Row): Task {
    return taskOf(row, this.statements.json);
  }
}
