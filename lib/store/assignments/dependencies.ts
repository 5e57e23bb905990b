import type { Knex } from "knex";
import type { TaskState } from "../../protocol/states.ts";
import type { Db, Dialect } from "../dialect.ts";
import { int, query, type Row, translated } from "../sql.ts";
import { type AssignmentStatements, assignmentStatements } from "./statements.ts";

export type WhenFailed = "fail" | "run";

/** That one task waits for another. */
export interface Dependency {
  readonly task_id: string;
  readonly depends_on: string;
  readonly when_failed: WhenFailed;
}

/** A task that others wait for, or shall wait for. */
export interface Awaited {
  readonly taskId: string;
  readonly state: TaskState;
  readonly ended: boolean;
}

/** A task that waited. */
export interface Waiting {
  readonly taskId: string;
  readonly whenFailed: WhenFailed;
}

/** Below the most bindings that one statement may have anywhere. */
const ROWS = 500;

/**
 * Which task waits for which. A row is there until it is settled: when the awaited task has ended, it goes together
 * with what follows from that, in one transaction.
 */
export class Dependencies {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #tasks: string;
  readonly #table: string;
  readonly #statements: AssignmentStatements;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#tasks = `${prefix}tasks`;
    this.#table = `${prefix}task_dependencies`;
    this.#statements = assignmentStatements(dialect.name, prefix, dialect.now);
  }

  /**
   * Locks tasks, in the order of their ids, until the transaction ends: none of them ends before what waits for it is
   * stored. Those that are not there are not in the answer.
   */
  async lock(trx: Db, taskIds: readonly string[]): Promise<Map<string, Awaited>> {
    return this.#states(trx, this.#statements.lockTasks, taskIds);
  }

  async #states(db: Db, text: string, taskIds: readonly string[]): Promise<Map<string, Awaited>> {
    const sorted = [...new Set(taskIds)].sort();
    return translated(this.#dialect, async () => {
      const found = new Map<string, Awaited>();
      for (let from = 0; from < sorted.length; from += ROWS) {
        const ids = JSON.stringify(sorted.slice(from, from + ROWS));
        for (const row of await query(db, text, { ids })) {
          found.set(String(row.task_id), awaited(row));
        }
      }
      return found;
    });
  }

  async add(trx: Db, dependencies: readonly Dependency[]): Promise<void> {
    await translated(this.#dialect, async () => {
      for (let from = 0; from < dependencies.length; from += ROWS) {
        const items = JSON.stringify(dependencies.slice(from, from + ROWS));
        await query(trx, this.#statements.depend, { items });
      }
    });
  }

  /** Takes out up to `limit` of those that wait for this task: what follows from its end is the caller's now. */
  async settle(trx: Db, taskId: string, limit: number): Promise<Waiting[]> {
    return translated(this.#dialect, async () => {
      const found = await query(trx, this.#statements.dependents, { id: taskId, limit });
      if (found.length === 0) return [];
      const ids = JSON.stringify(found.map((row) => String(row.task_id)));
      const taken = await query(trx, this.#statements.settle, { id: taskId, ids });
      return taken.map((row) => ({
        taskId: String(row.task_id),
        whenFailed: row.when_failed as WhenFailed,
      }));
    });
  }

  /** One less to wait for. Returns how many of these tasks now wait for none. */
  async countDown(trx: Db, taskIds: readonly string[]): Promise<number> {
    if (taskIds.length === 0) return 0;
    // In one order: two of the awaited tasks may end at once.
    await this.lock(trx, taskIds);
    return translated(this.#dialect, async () => {
      const ids = JSON.stringify([...taskIds].sort());
      const rows = await query(trx, this.#statements.countDown, { ids });
      return rows.filter((row) => int(row.waits_for) === 0).length;
    });
  }

  /** What a task still waits for, up to `limit`; `state` is undefined for tasks that are no more. */
  async of(
    taskId: string,
    limit: number,
  ): Promise<{ taskId: string; state: TaskState | undefined }[]> {
    return translated(this.#dialect, async () => {
      const rows = (await this.#knex({ w: this.#table })
        .leftJoin({ t: this.#tasks }, "t.task_id", "w.depends_on")
        .select("w.depends_on", "t.state")
        .where("w.task_id", taskId)
        .orderBy("w.depends_on")
        .limit(limit)) as Row[];
      return rows.map((row) => ({
        taskId: String(row.depends_on),
        state: (row.state as TaskState | null) ?? undefined,
      }));
    });
  }

  /**
   * A page of all dependencies, from those of the given task on: those whose awaited task has ended or is no more, and
   * those that nothing waits with any longer, because the waiting task itself has ended. A page has more rows than one
   * task may have, so the next one, which begins with the last task of this one, goes on.
   */
  async strays(
    from: string,
    limit: number,
  ): Promise<{ next: string; unsettled: string[]; idle: Dependency[] }> {
    return translated(this.#dialect, async () => {
      const page = (await this.#knex(this.#table)
        .where("task_id", ">=", from)
        .orderBy("task_id")
        .limit(limit)) as unknown as Dependency[];
      const ids = page.flatMap((row) => [row.task_id, row.depends_on]);
      const states = await this.#states(this.#knex, this.#statements.states, ids);
      const live = new Set(ids.filter((id) => states.get(id)?.ended === false));
      const waiting = page.filter((row) => live.has(row.task_id));
      return {
        next: page.length < limit ? "" : (page.at(-1)?.task_id ?? ""),
        unsettled: [
          ...new Set(
            waiting.flatMap(({ depends_on }) => (live.has(depends_on) ? [] : [depends_on])),
          ),
        ],
        idle: page.filter((row) => !live.has(row.task_id)),
      };
    });
  }

  /** Forgets dependencies of tasks that have ended. */
  async forget(dependencies: readonly Dependency[]): Promise<void> {
    await translated(this.#dialect, async () => {
      for (const { task_id, depends_on } of dependencies) {
        await this.#knex(this.#table).where({ task_id, depends_on }).del();
      }
    });
  }
}

function awaited(row: Row): Awaited {
  return {
    taskId: String(row.task_id),
    state: row.state as TaskState,
    ended: row.finished_at !== null,
  };
}
