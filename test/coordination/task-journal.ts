import type { Knex } from "knex";

/** One change of a task, as a trigger wrote it down: in the transaction of the change, in the order of the changes. */
export interface TaskChange {
  readonly id: number;
  readonly taskId: string;
  readonly cost: number;
  readonly before: Moment | null;
  readonly after: Moment;
}

interface Moment {
  readonly state: string;
  readonly agentId: string | null;
  readonly assignment: number;
  readonly ended: boolean;
}

const COLUMNS = ["state", "agent_id", "assignment", "finished_at"] as const;

/** Not on SQL Server, where a table with triggers refuses OUTPUT without INTO. */
export async function keepTaskJournal(knex: Knex): Promise<void> {
  await knex.schema.createTable("task_journal", (table) => {
    table.bigIncrements("id");
    table.string("task_id", 128);
    table.integer("cost");
    for (const when of ["old", "new"]) {
      table.string(`${when}_state`, 32);
      table.string(`${when}_agent_id`, 128);
      table.integer(`${when}_assignment`);
      table.bigInteger(`${when}_finished_at`);
    }
  });
  const sqlite = (knex.client.dialect as string) === "sqlite3";
  for (const event of ["INSERT", "UPDATE"] as const) {
    const old = event === "INSERT" ? [] : COLUMNS.map((name) => [`old_${name}`, `OLD.${name}`]);
    const pairs = [
      ["task_id", "NEW.task_id"],
      ["cost", "NEW.cost"],
      ...old,
      ...COLUMNS.map((name) => [`new_${name}`, `NEW.${name}`]),
    ];
    const insert = `INSERT INTO task_journal (${pairs.map(([name]) => name).join(", ")}) VALUES (${pairs.map(([, value]) => value).join(", ")});`;
    const statements = sqlite
      ? [`CREATE TRIGGER journal_${event} AFTER ${event} ON outbox_tasks BEGIN ${insert} END`]
      : [
          `CREATE FUNCTION journal_${event}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ${insert} RETURN NULL; END $$`,
          `CREATE TRIGGER journal_${event} AFTER ${event} ON outbox_tasks FOR EACH ROW EXECUTE FUNCTION journal_${event}()`,
        ];
    for (const statement of statements) await knex.raw(statement);
  }
}

export async function readTaskJournal(knex: Knex): Promise<TaskChange[]> {
  const rows = (await knex("task_journal").orderBy("id")) as Record<string, unknown>[];
  const moment = (row: Record<string, unknown>, when: string): Moment => ({
    state: String(row[`${when}_state`]),
    agentId: (row[`${when}_agent_id`] as string | null) ?? null,
    assignment: Number(row[`${when}_assignment`]),
    ended: row[`${when}_finished_at`] !== null,
  });
  return rows.map((row) => ({
    id: Number(row.id),
    taskId: String(row.task_id),
    cost: Number(row.cost),
    before: row.old_state === null ? null : moment(row, "old"),
    after: moment(row, "new"),
  }));
}

/**
 * What the journal shows that must never be. An assignment is written while its agent's row is locked, so those of
 * one agent stand in the order of their commits; a task that ended may stand a moment before its commit, which can
 * only make an agent look less busy than it was.
 */
export function faultsOf(
  changes: readonly TaskChange[],
  slots: Readonly<Record<string, number>>,
): string[] {
  const faults: string[] = [];
  const used = new Map<string, number>();
  const last = new Map<string, Moment>();
  const holds = (moment: Moment | null | undefined) =>
    moment && !moment.ended ? moment.agentId : null;
  for (const { id, taskId, cost, before, after } of changes) {
    const fault = (what: string) => faults.push(`change ${id} of ${taskId}: ${what}`);
    if (JSON.stringify(last.get(taskId) ?? null) !== JSON.stringify(before)) {
      fault("does not go on from the one before");
    }
    last.set(taskId, after);
    if (before?.ended === true && JSON.stringify(before) !== JSON.stringify(after)) {
      fault(`it had ended as ${before.state}, and is ${after.state} now`);
    }
    const [from, to] = [holds(before), holds(after)];
    if (from !== null && to !== null && from !== to)
      fault(`${from} still had it, and ${to} has it`);
    const step = after.assignment - (before?.assignment ?? 0);
    const given = from === null && to !== null;
    if (step !== (given ? 1 : 0)) fault(`its assignment number went up by ${step}`);
    if (from !== null && to !== from) used.set(from, (used.get(from) ?? 0) - cost);
    if (to !== null && to !== from) {
      const now = (used.get(to) ?? 0) + cost;
      used.set(to, now);
      if (now > (slots[to] ?? 0)) fault(`${to} has ${now} of ${slots[to]} slots`);
    }
  }
  return faults;
}
