import type { Knex } from "knex";
import {
  type HandoffFilter,
  type HandoffState,
  handoffSourcesOf,
  isHandoffEnd,
} from "../protocol/handoffs.ts";
import type { EndState } from "../protocol/states.ts";
import type { Task } from "../protocol/tasks.ts";
import { agentStatements, isFresh } from "./agent-statements.ts";
import type { Db, Dialect } from "./dialect.ts";
import { handoffOf, type StoredHandoff } from "./handoff-row.ts";
import type { ParseJson } from "./rows.ts";
import { int, type Row, transaction, translated } from "./sql.ts";
import { type Fence, taskOf } from "./task-row.ts";

/** A new offer. JSON columns are text. */
export interface NewHandoff {
  readonly handoff_id: string;
  readonly from_agent: string;
  readonly to_agent: string;
  readonly required_capabilities: string | null;
  readonly task_id: string | null;
  readonly assignment: number | null;
  /** 1: the giver's run ends with the offer. */
  readonly detached: 0 | 1;
  readonly context_id: string | null;
  readonly correlation_id: string | null;
  readonly reason: string;
  readonly current_state: string | null;
  readonly context: string;
  readonly deliverables: string;
  readonly actions_required: string;
  readonly priority: number;
  readonly estimated_effort: string | null;
  readonly message_id: string;
  readonly warnings: string | null;
  readonly dueMs: number;
}

/** What a move writes besides the state. */
export interface HandoffChange {
  readonly note?: string | undefined;
  readonly outcome?: EndState | "handed_on" | undefined;
  readonly assignment?: number | undefined;
}

/** Which instant a state sets. */
const INSTANT: Partial<Record<HandoffState, string>> = {
  accepted: "accepted_at",
  active: "started_at",
  completed: "ended_at",
  rejected: "ended_at",
  returned: "ended_at",
  withdrawn: "ended_at",
};

const OPEN = "accepted_at IS NULL AND ended_at IS NULL";
const TAKEN = "accepted_at IS NOT NULL AND ended_at IS NULL";

/** Handoffs. Every move is a compare-and-set on the state: of two that decide, the second changes nothing. */
export class HandoffStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #table: string;
  readonly #tasks: string;
  readonly #agents: string;
  readonly #steps: string;
  readonly #json: ParseJson;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#table = `${prefix}handoffs`;
    this.#tasks = `${prefix}tasks`;
    this.#agents = `${prefix}agents`;
    this.#steps = `${prefix}workflow_steps`;
    this.#json = agentStatements(dialect.name, prefix, dialect.now).json;
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

  /** Stores an offer. The id and the task's open offer are unique: the loser of a race is told so by the database. */
  async insert(trx: Db, { dueMs, ...handoff }: NewHandoff): Promise<StoredHandoff> {
    const now = trx.raw(this.#dialect.now);
    return translated(this.#dialect, async () => {
      await trx(this.#table).insert({
        ...handoff,
        state: "offered",
        created_at: now,
        due_at: trx.raw(`${this.#dialect.now} + ?`, [dueMs]),
      });
      return (await this.get(handoff.handoff_id, trx)) as StoredHandoff;
    });
  }

  async get(handoffId: string, db: Db = this.#knex): Promise<StoredHandoff | undefined> {
    const [handoff] = await this.#select(db, (rows) => rows.where({ handoff_id: handoffId }));
    return handoff;
  }

  /** In the order in which they were offered, from after `filter.afterSeq` on. */
  async list(filter: HandoffFilter): Promise<StoredHandoff[]> {
    return this.#select(this.#knex, (rows) => {
      if (filter.state !== undefined) {
        rows.where("state", filter.state);
        // Of these there are few, and an index of their own.
        if (!isHandoffEnd(filter.state)) rows.whereRaw("ended_at IS NULL");
      }
      if (filter.from !== undefined) rows.where("from_agent", filter.from);
      if (filter.to !== undefined) rows.where("to_agent", filter.to);
      if (filter.taskId !== undefined) rows.where("task_id", filter.taskId);
      return rows.where("seq", ">", filter.afterSeq).orderBy("seq").limit(filter.limit);
    });
  }

  /** Handoffs of a task that are not over, the oldest first. */
  async liveOf(taskId: string, db: Db): Promise<StoredHandoff[]> {
    return this.#select(db, (rows) =>
      rows.where({ task_id: taskId }).whereRaw("ended_at IS NULL").orderBy("seq").limit(100),
    );
  }

  /** Offers that nobody accepted in time, the longest ago first. */
  async overdue(limit: number): Promise<StoredHandoff[]> {
    return this.#select(this.#knex, (rows) =>
      rows.whereRaw(`${OPEN} AND due_at <= ${this.#dialect.now}`).orderBy("due_at").limit(limit),
    );
  }

  /** A page of the handoffs that are not over, from after the given one on. */
  async liveAfter(seq: number, limit: number): Promise<StoredHandoff[]> {
    return this.#select(this.#knex, (rows) =>
      rows.whereRaw("ended_at IS NULL").where("seq", ">", seq).orderBy("seq").limit(limit),
    );
  }

  /** Handoffs that an agent has taken over, the longest ago first. */
  async takenBy(agentId: string, limit: number): Promise<StoredHandoff[]> {
    return this.#select(this.#knex, (rows) =>
      rows.where({ to_agent: agentId }).whereRaw(TAKEN).orderBy("accepted_at").limit(limit),
    );
  }

  /**
   * Those of these live handoffs that nobody will end: the target is not there any more, or (where nobody has taken
   * it) the task has ended or gone to somebody else.
   */
  async strays(seqs: readonly number[], db: Db = this.#knex): Promise<string[]> {
    if (seqs.length === 0) return [];
    return translated(this.#dialect, async () => {
      const rows = (await db({ h: this.#table })
        .select("h.handoff_id")
        .whereIn("h.seq", [...seqs])
        .whereNull("h.ended_at")
        .where((either) =>
          either
            .where((taken) => taken.whereNotNull("h.accepted_at").whereRaw(this.#lostTarget))
            .orWhere((offered) =>
              offered.whereNull("h.accepted_at").whereNotNull("h.task_id").whereRaw(this.#movedOn),
            ),
        )
        .orderBy("h.seq")) as Row[];
      return rows.map((row) => String(row.handoff_id));
    });
  }

  get #lostTarget(): string {
    const there = `a.lost_at IS NULL AND a.status NOT IN ('offline', 'removed') AND ${isFresh(this.#dialect.now)}`;
    return `NOT EXISTS (SELECT 1 FROM ${this.#agents} a WHERE a.agent_id = h.to_agent AND ${there})`;
  }

  get #movedOn(): string {
    return `NOT EXISTS (SELECT 1 FROM ${this.#tasks} t WHERE t.task_id = h.task_id AND t.finished_at IS NULL AND t.assignment = h.assignment AND (t.agent_id IS NULL OR t.agent_id = h.from_agent))`;
  }

  /** Moves a handoff, where that is legal. Undefined when it is not: somebody else decided before. */
  async move(
    trx: Db,
    handoffId: string,
    to: HandoffState,
    change: HandoffChange = {},
  ): Promise<StoredHandoff | undefined> {
    const instant = INSTANT[to];
    const sources = handoffSourcesOf(to).map((state) => `'${state}'`);
    return translated(this.#dialect, async () => {
      const rows = (await trx(this.#table)
        .where({ handoff_id: handoffId })
        // Written so that no index fits: it is found by its id.
        .whereRaw(`COALESCE(state, '') IN (${sources.join(", ")}) AND ended_at IS NULL`)
        // What is late is for the sweep, which gives it back.
        .whereRaw(to === "accepted" ? `due_at > ${this.#dialect.now}` : "1 = 1")
        .update(
          {
            state: to,
            ...(instant === undefined ? {} : { [instant]: trx.raw(this.#dialect.now) }),
            ...(change.note === undefined ? {} : { note: change.note }),
            ...(change.outcome === undefined ? {} : { outcome: change.outcome }),
            ...(change.assignment === undefined ? {} : { assignment: change.assignment }),
          },
          ["*"],
        )) as Row[];
      const [row] = rows;
      return row === undefined ? undefined : handoffOf(row, this.#json);
    });
  }

  /**
   * Gives a task from the agent that has it (or from nobody, where it is parked) to another one. A handoff is no
   * failed attempt, so it may be assigned once more than before. Undefined when the fence no longer holds.
   */
  async reassign(
    trx: Db,
    { taskId, assignment, agentId }: Fence,
    next: { readonly agentId: string; readonly messageId: string },
  ): Promise<Task | undefined> {
    return translated(this.#dialect, async () => {
      const tasks = trx(this.#tasks)
        .where({ task_id: taskId, assignment })
        .whereRaw("finished_at IS NULL");
      const held =
        agentId === null ? tasks.whereNull("agent_id") : tasks.where({ agent_id: agentId });
      const rows = (await held.update(
        {
          state: "assigned",
          agent_id: next.agentId,
          message_id: next.messageId,
          assignment: assignment + 1,
          max_assignments: trx.raw("max_assignments + 1"),
          ...(agentId === null ? {} : { previous_agent_id: agentId }),
          assigned_at: trx.raw(this.#dialect.now),
          started_at: null,
          run_deadline_at: null,
        },
        ["*"],
      )) as Row[];
      const [row] = rows;
      return row === undefined ? undefined : taskOf(row, this.#json);
    });
  }

  /** The parts of a task that have not completed, by their ids. */
  async pendingParts(taskId: string, limit: number, db: Db): Promise<string[]> {
    return translated(this.#dialect, async () => {
      const rows = (await db(this.#tasks)
        .select("task_id")
        .whereRaw("parent_task_id IS NOT NULL")
        .where({ parent_task_id: taskId })
        .whereNot("state", "completed")
        .orderBy("seq")
        .limit(limit)) as Row[];
      return rows.map((row) => String(row.task_id));
    });
  }

  /** The steps of a workflow that have not completed, but for the one that this task does; undefined: no such workflow. */
  async pendingSteps(
    workflowId: string,
    taskId: string | null,
    limit: number,
    db: Db,
  ): Promise<string[] | undefined> {
    return translated(this.#dialect, async () => {
      const steps = () => db(this.#steps).where({ workflow_id: workflowId, part: "do" });
      const rows = (await steps()
        .select("step_id")
        .whereNull("completion")
        .where((other) => other.whereNull("task_id").orWhereNot("task_id", taskId ?? ""))
        .orderBy("position")
        .limit(limit)) as Row[];
      if (rows.length > 0) return rows.map((row) => String(row.step_id));
      return (await steps().select("step_id").first()) === undefined ? undefined : [];
    });
  }

  /** Deletes handoffs that ended longer ago than that. Returns how many. */
  async purge(retentionMs: number, limit: number): Promise<number> {
    return translated(this.#dialect, async () => {
      const rows = (await this.#knex(this.#table)
        .select("seq")
        .whereRaw(`ended_at IS NOT NULL AND ended_at < ${this.#dialect.now} - ?`, [retentionMs])
        .orderBy("ended_at")
        .limit(limit)) as Row[];
      const seqs = rows.map((row) => int(row.seq));
      if (seqs.length > 0) await this.#dialect.takeOut(this.#knex, this.#table, seqs, ["seq"]);
      return seqs.length;
    });
  }

  async #select(
    db: Db,
    narrow: (rows: Knex.QueryBuilder) => Knex.QueryBuilder,
  ): Promise<StoredHandoff[]> {
    return translated(this.#dialect, async () => {
      const rows = (await narrow(db(this.#table).select("*"))) as Row[];
      return rows.map((row) => handoffOf(row, this.#json));
    });
  }
}
