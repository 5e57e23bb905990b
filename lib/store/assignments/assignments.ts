import type { Knex } from "knex";
import type { Task } from "../../protocol/tasks.ts";
import { agentStatements } from "../agent-statements.ts";
import type { Db, Dialect } from "../dialect.ts";
import { type ParseJson, rowsAsJson } from "../rows.ts";
import { int, query, type Row, translated } from "../sql.ts";
import { type NewTask, taskOf } from "../task-row.ts";
import {
  type AssignmentStatements,
  assignmentStatements,
  DOCUMENTS,
  NEXT_FIRST,
  PARKED,
} from "./statements.ts";

/** An agent whose row is ours until the transaction ends, and the slots that its tasks use. */
export interface LockedAgent {
  readonly agentId: string;
  readonly maxConcurrentTasks: number;
  readonly used: number;
  readonly weight: number;
  readonly deprecated: boolean;
  readonly lastAssignedAt: number;
  /** As it was when the row was locked: see Candidate. */
  readonly cardHash: string | null;
}

/** Which task goes to whom, and the message that tells it. */
export interface Assignment {
  readonly task: Pick<Task, "seq" | "assignment">;
  readonly agentId: string;
  readonly messageId: string;
}

/** A new task, with its first agent where it has one. */
export interface FirstAssignment {
  readonly task: NewTask;
  readonly first: { readonly agentId: string; readonly messageId: string } | undefined;
}

/** How many rows one statement stores. */
const ROWS = 500;

/** Gives many tasks to many agents in a few statements. */
export class Assignments {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #table: string;
  readonly #statements: AssignmentStatements;
  readonly #json: ParseJson;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#table = `${prefix}tasks`;
    this.#statements = assignmentStatements(dialect.name, prefix, dialect.now);
    this.#json = agentStatements(dialect.name, prefix, dialect.now).json;
  }

  /**
   * Locks those of these agents that take tasks and that nobody else holds, and counts their slots, by a statement
   * of its own: at READ COMMITTED that one sees what every earlier holder committed.
   */
  async lockAgents(trx: Db, agentIds: readonly string[]): Promise<LockedAgent[]> {
    if (agentIds.length === 0) return [];
    return translated(this.#dialect, async () => {
      const locked = await query(trx, this.#statements.lockAgents, {
        ids: JSON.stringify(agentIds),
      });
      if (locked.length === 0) return [];
      const ids = JSON.stringify(locked.map((row) => String(row.agent_id)));
      const counted = await query(trx, this.#statements.used, { ids });
      const used = new Map(counted.map((row) => [String(row.agent_id), int(row.used)]));
      const agents = locked.map((row) => lockedAgent(row, used));
      // The locks came in the order of the ids; the caller's order is that of the best.
      const place = new Map(agentIds.map((agentId, n) => [agentId, n]));
      return agents.sort((a, b) => (place.get(a.agentId) ?? 0) - (place.get(b.agentId) ?? 0));
    });
  }

  /** Notes that these agents, which we hold, got tasks. */
  async touch(trx: Db, agentIds: readonly string[]): Promise<void> {
    if (agentIds.length === 0) return;
    await translated(this.#dialect, () =>
      query(trx, this.#statements.touch, { ids: JSON.stringify([...agentIds].sort()) }),
    );
  }

  /** Locks up to `limit` parked tasks of one need, the most urgent first; passes over those that others hold. */
  async lockParked(trx: Db, needKey: string, limit: number): Promise<Task[]> {
    return translated(this.#dialect, async () =>
      (await query(trx, this.#statements.parked, { key: needKey, limit })).map((row) =>
        this.#task(row),
      ),
    );
  }

  /** Those that were still parked, as they are now; others are not in the answer. */
  async assign(trx: Db, assignments: readonly Assignment[]): Promise<Task[]> {
    return translated(this.#dialect, async () => {
      const assigned: Task[] = [];
      for (const part of parts(assignments)) {
        const items = part.map(({ task, agentId, messageId }) => ({
          seq: task.seq,
          assignment: task.assignment,
          agent_id: agentId,
          message_id: messageId,
        }));
        const rows = await query(trx, this.#statements.assign, { items: JSON.stringify(items) });
        assigned.push(...rows.map((row) => this.#task(row)));
      }
      return assigned.sort((a, b) => a.seq - b.seq);
    });
  }

  /** Stores tasks; returns those whose id was not taken. */
  async insert(trx: Db, tasks: readonly FirstAssignment[]): Promise<Task[]> {
    return translated(this.#dialect, async () => {
      const stored: Task[] = [];
      for (const part of parts(tasks)) {
        const items = part.map(({ task, first }) => ({
          ...task,
          state: first === undefined ? "submitted" : "assigned",
          assignment: first === undefined ? 0 : 1,
          agent_id: first?.agentId ?? null,
          message_id: first?.messageId ?? null,
        }));
        const rows = await query(trx, this.#statements.insert, {
          items: rowsAsJson(items, DOCUMENTS),
        });
        stored.push(...rows.map((row) => this.#task(row)));
      }
      return stored;
    });
  }

  /** Those of these tasks that are there. */
  async some(db: Db | undefined, taskIds: readonly string[]): Promise<Task[]> {
    return translated(this.#dialect, async () => {
      const found: Task[] = [];
      for (const part of parts(taskIds)) {
        const ids = JSON.stringify(part);
        const rows = await query(db ?? this.#knex, this.#statements.some, { ids });
        found.push(...rows.map((row) => this.#task(row)));
      }
      return found;
    });
  }

  /** The first parked task of the first need after `needKey`: one step in the index. */
  async nextParked(needKey: string): Promise<{ needKey: string; task: Task } | undefined> {
    return this.#first((tasks) =>
      tasks.where("need_key", ">", needKey).orderByRaw(`need_key, ${NEXT_FIRST}`),
    );
  }

  /** The parked task that is next of this need. */
  async firstParked(needKey: string): Promise<Task | undefined> {
    const found = await this.#first((tasks) =>
      tasks.where("need_key", needKey).orderByRaw(NEXT_FIRST),
    );
    return found?.task;
  }

  async #first(
    narrow: (tasks: Knex.QueryBuilder) => Knex.QueryBuilder,
  ): Promise<{ needKey: string; task: Task } | undefined> {
    return translated(this.#dialect, async () => {
      const parked = this.#knex(this.#table).select("*").whereRaw(PARKED);
      const row = (await narrow(parked).first()) as Row | undefined;
      return row && { needKey: String(row.need_key), task: this.#task(row) };
    });
  }

  #task(row: Row): Task {
    return taskOf(row, this.#json);
  }
}

function lockedAgent(row: Row, used: ReadonlyMap<string, number>): LockedAgent {
  const agentId = String(row.agent_id);
  return {
    agentId,
    maxConcurrentTasks: int(row.max_concurrent_tasks),
    used: used.get(agentId) ?? 0,
    weight: int(row.weight),
    deprecated: row.lifecycle === "deprecated",
    lastAssignedAt: int(row.last_assigned_at),
    cardHash: row.card_hash === null ? null : String(row.card_hash),
  };
}

function* parts<T>(list: readonly T[]): Generator<T[]> {
  for (let from = 0; from < list.length; from += ROWS) yield list.slice(from, from + ROWS);
}
