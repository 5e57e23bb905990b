import type { Task, TaskFilter } from "../protocol/tasks.ts";
import type { Db } from "./dialect.ts";
import { query, type Row, translated } from "./sql.ts";
import { TaskMoves } from "./task-moves.ts";
import type { NewTask } from "./task-row.ts";

const HELD = "agent_id IS NOT NULL AND finished_at IS NULL";

/** Tasks: what is stored, and what is looked for. The moves are in TaskMoves. */
export class TaskStore extends TaskMoves {
  /** Stores a task, with its first agent or without one. Undefined when the id is taken. */
  async insert(
    trx: Db,
    task: NewTask,
    first: { agentId: string; messageId: string } | undefined,
  ): Promise<Task | undefined> {
    return translated(this.dialect, async () => {
      const [row] = await query(trx, this.statements.insertTask, {
        ...task,
        state: first === undefined ? "submitted" : "assigned",
        assignment: first === undefined ? 0 : 1,
        agent_id: first?.agentId ?? null,
        message_id: first?.messageId ?? null,
      });
      return row === undefined ? undefined : this.task(row);
    });
  }

  /** In the order of their arrival, from after `filter.afterSeq` on. */
  async list(filter: TaskFilter): Promise<Task[]> {
    return this.select(this.knex, (tasks) => {
      if (filter.state !== undefined) tasks.where("state", filter.state);
      if (filter.agentId !== undefined) tasks.where("agent_id", filter.agentId);
      if (filter.supervisorId !== undefined) tasks.where("supervisor_id", filter.supervisorId);
      return tasks.where("seq", ">", filter.afterSeq).orderBy("seq").limit(filter.limit);
    });
  }

  /** Tasks that an agent has, the oldest first. */
  async heldBy(agentId: string, limit: number, db: Db = this.knex): Promise<Task[]> {
    return this.select(db, (tasks) =>
      tasks.where("agent_id", agentId).whereRaw(HELD).orderBy("seq").limit(limit),
    );
  }

  /** The ids of parts of a task that have not completed, the oldest first. */
  async uncompletedChildren(taskId: string, limit: number, db: Db = this.knex): Promise<string[]> {
    return translated(this.dialect, async () => {
      const rows = (await db(this.table)
        .select("task_id")
        .whereRaw("parent_task_id IS NOT NULL")
        .where({ parent_task_id: taskId })
        .whereNot("state", "completed")
        .orderBy("seq")
        .limit(limit)) as Row[];
      return rows.map((row) => String(row.task_id));
    });
  }

  /** Runs that took longer than they may, the longest ago first. */
  async overrun(limit: number): Promise<Task[]> {
    return this.select(this.knex, (tasks) =>
      tasks
        .whereRaw(
          `run_deadline_at IS NOT NULL AND finished_at IS NULL AND run_deadline_at <= ${this.dialect.now}`,
        )
        .orderBy("run_deadline_at")
        .limit(limit),
    );
  }

  /** Tasks whose deadline has passed, the longest ago first. */
  async overdue(limit: number): Promise<Task[]> {
    return this.select(this.knex, (tasks) =>
      tasks
        .whereRaw(
          `deadline_at IS NOT NULL AND finished_at IS NULL AND deadline_at <= ${this.dialect.now}`,
        )
        .orderBy("deadline_at")
        .limit(limit),
    );
  }

  /** A page of the tasks that agents have, in the order of the index, from after the given one on. */
  async heldAfter(after: { agentId: string; seq: number }, limit: number): Promise<Task[]> {
    return this.select(this.knex, (tasks) =>
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
    return translated(this.dialect, async () => {
      const rows = await query(this.knex, this.statements.buried, {
        ids: JSON.stringify(messageIds),
      });
      return new Map(
        rows.map((row) => {
          const error = this.statements.json(row.last_error) as { message?: string } | null;
          return [
            String(row.message_id),
            { reason: String(row.reason), error: error?.message ?? "" },
          ];
        }),
      );
    });
  }

  /** Whether one of these messages is there, read or not, and has not ended. */
  async anyWaiting(trx: Db, messageIds: readonly string[]): Promise<boolean> {
    return translated(this.dialect, async () => {
      const found = await trx(this.messages)
        .select("message_id")
        .whereIn("message_id", [...messageIds])
        .first();
      return found !== undefined;
    });
  }

  /** Which of these messages were acknowledged longer ago than that. */
  async acknowledged(messageIds: readonly string[], olderThanMs: number): Promise<Set<string>> {
    return translated(this.dialect, async () => {
      const rows = (await this.knex(this.archive)
        .select("message_id")
        .whereIn("message_id", [...messageIds])
        .where("outcome", "processed")
        .whereRaw(`finished_at <= ${this.dialect.now} - CAST(? AS bigint)`, [
          olderThanMs,
        ])) as Row[];
      return new Set(rows.map((row) => String(row.message_id)));
    });
  }

  /** Which of these messages were cancelled. */
  async cancelled(messageIds: readonly string[]): Promise<Set<string>> {
    return translated(this.dialect, async () => {
      const rows = (await this.knex(this.archive)
        .select("message_id")
        .whereIn("message_id", [...messageIds])
        .where("outcome", "cancelled")) as Row[];
      return new Set(rows.map((row) => String(row.message_id)));
    });
  }
}
