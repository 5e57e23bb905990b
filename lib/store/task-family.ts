import type { Knex } from "knex";
import type { Task } from "../protocol/tasks.ts";
import { type AgentStatements, agentStatements } from "./agent-statements.ts";
import type { Db, Dialect } from "./dialect.ts";
import { type Row, translated } from "./sql.ts";
import { taskOf } from "./task-row.ts";

/** How deep subtasks go: a task that makes itself a part of itself ends here. */
export const DEEPEST_SUBTASK = 16;

/** Tasks and their parts. Every step is bounded. */
export class TaskFamily {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #table: string;
  readonly #statements: AgentStatements;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#table = `${prefix}tasks`;
    this.#statements = agentStatements(dialect.name, prefix, dialect.now);
  }

  /** How many tasks are above the parts of this one, itself included; no more than `most`. */
  async depthOf(taskId: string, most: number, db: Db = this.#knex): Promise<number> {
    return translated(this.#dialect, async () => {
      let next: string | null = taskId;
      let depth = 0;
      while (next !== null && depth < most) {
        const row = (await db(this.#table)
          .select("parent_task_id")
          .where({ task_id: next })
          .first()) as Row | undefined;
        next = (row?.parent_task_id as string | null | undefined) ?? null;
        depth++;
      }
      return depth;
    });
  }

  /** Parts of these tasks, each task's in the order of their arrival. */
  async partsOf(
    taskIds: readonly string[],
    limit: number,
    { live = false, db = this.#knex }: { live?: boolean; db?: Db } = {},
  ): Promise<Task[]> {
    if (taskIds.length === 0) return [];
    return translated(this.#dialect, async () => {
      const parts = db(this.#table)
        .select("*")
        .whereRaw("parent_task_id IS NOT NULL")
        .whereIn("parent_task_id", [...taskIds]);
      if (live) parts.whereNull("finished_at");
      const rows = (await parts.orderBy(["parent_task_id", "seq"]).limit(limit)) as Row[];
      return rows.map((row) => taskOf(row, this.#statements.json));
    });
  }

  /** Locks up to `limit` parts that have not ended, until the transaction ends. Returns how many they are. */
  async lockLive(trx: Db, taskId: string, limit: number): Promise<number> {
    return translated(this.#dialect, async () => {
      const rows = (await trx(this.#table)
        .select("seq")
        .whereRaw("parent_task_id IS NOT NULL")
        .where({ parent_task_id: taskId })
        .whereNull("finished_at")
        .orderBy("seq")
        .limit(limit)
        .forUpdate()) as Row[];
      return rows.length;
    });
  }
}
