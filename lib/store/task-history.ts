import type { Knex } from "knex";
import type { CoordinationStats } from "../protocol/tasks.ts";
import type { Dialect } from "./dialect.ts";
import { int, type Row, retried, translated } from "./sql.ts";

/** Counting stops here: what stats cost must not grow with the backlog or with the history. */
const COUNTED = 10_000;

/** Telling about tasks as a whole, and forgetting old ones. Every step is bounded. */
export class TaskHistory {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #table: string;
  readonly #inputs: string;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#table = `${prefix}tasks`;
    this.#inputs = `${prefix}task_inputs`;
  }

  async stats(windowMs: number): Promise<CoordinationStats> {
    return translated(this.#dialect, async () => {
      const parked = await this.#count((tasks) => tasks.where("state", "submitted"));
      const assigned = await this.#count((tasks) => tasks.where("state", "assigned"));
      const working = await this.#count((tasks) => tasks.where("state", "working"));
      const waiting = await this.#count((tasks) =>
        tasks.whereIn("state", ["input_required", "auth_required"]),
      );
      const most = (n: number) => Math.min(n, COUNTED);
      return {
        parked: most(parked),
        assigned: most(assigned),
        working: most(working),
        waiting: most(waiting),
        capped: [parked, assigned, working, waiting].some((n) => n > COUNTED),
        ...(await this.#ended(windowMs)),
        windowMs,
      };
    });
  }

  async #count(narrow: (tasks: Knex.QueryBuilder) => Knex.QueryBuilder): Promise<number> {
    const inner = narrow(this.#knex(this.#table).select("seq"))
      .limit(COUNTED + 1)
      .as("x");
    const row = (await this.#knex.from(inner).count({ total: "*" }).first()) as unknown as Row;
    return int(row.total);
  }

  /** How the last tasks ended. */
  async #ended(windowMs: number) {
    const recent = this.#knex(this.#table)
      .select("state", this.#knex.raw("finished_at - created_at AS took"))
      .whereRaw(
        `finished_at IS NOT NULL AND finished_at > ${this.#dialect.now} - CAST(? AS bigint)`,
        [windowMs],
      )
      .orderBy("finished_at", "desc")
      .limit(COUNTED)
      .as("x");
    const rows = (await this.#knex
      .from(recent)
      .select("x.state")
      .count({ total: "*" })
      .sum({ took: "x.took" })
      .groupBy("x.state")) as unknown as Row[];
    const of = (state: string): number => {
      const row = rows.find((one) => one.state === state);
      return row === undefined ? 0 : int(row.total);
    };
    const all = rows.reduce((sum, row) => sum + int(row.total), 0);
    const completed = of("completed");
    const took = int(rows.find((row) => row.state === "completed")?.took ?? 0);
    return {
      completed,
      failed: of("failed"),
      canceled: of("canceled"),
      rejected: of("rejected"),
      completionRate: all === 0 ? null : completed / all,
      averageDurationMs: completed === 0 ? null : Math.round(took / completed),
    };
  }

  /** Deletes at most `limit` tasks that ended longer ago, with what was asked in them. Returns how many. */
  async purge(olderThanMs: number, limit: number): Promise<number> {
    return translated(this.#dialect, async () => {
      const rows = (await this.#knex(this.#table)
        .select("seq", "task_id")
        .whereRaw(
          `finished_at IS NOT NULL AND finished_at <= ${this.#dialect.now} - CAST(? AS bigint)`,
          [olderThanMs],
        )
        .orderBy("finished_at")
        .limit(limit)) as Row[];
      if (rows.length === 0) return 0;
      const seqs = rows.map((row) => int(row.seq));
      const taskIds = rows.map((row) => String(row.task_id));
      // First, so that a process that dies in between leaves no answer for a later task of the same id.
      await retried(this.#dialect, () =>
        this.#knex(this.#inputs).whereIn("task_id", taskIds).del(),
      );
      return retried(this.#dialect, () => this.#knex(this.#table).whereIn("seq", seqs).del());
    });
  }
}
