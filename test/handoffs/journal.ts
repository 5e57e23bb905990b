import type { Knex } from "knex";
import { expect } from "vitest";

const COLUMNS = "task_id, agent_id, assignment, state";
const values = COLUMNS.split(", ")
  .map((column) => `NEW.${column}`)
  .join(", ");

/**
 * Lets the database write down every change of a task, by triggers. Not on SQL Server, where a table with triggers
 * refuses OUTPUT without INTO.
 */
export async function keepJournal(knex: Knex): Promise<void> {
  const dialect = knex.client.dialect as string;
  if (dialect === "mssql") return;
  await knex.schema.createTable("task_journal", (table) => {
    table.bigIncrements("id");
    table.string("task_id");
    table.string("agent_id");
    table.integer("assignment");
    table.string("state");
  });
  const write = `INSERT INTO task_journal (${COLUMNS}) VALUES (${values});`;
  if (dialect === "sqlite3") {
    for (const event of ["INSERT", "UPDATE"]) {
      await knex.raw(
        `CREATE TRIGGER journal_${event} AFTER ${event} ON outbox_tasks BEGIN ${write} END`,
      );
    }
    return;
  }
  await knex.raw(
    `CREATE FUNCTION write_journal() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ${write} RETURN NEW; END $$`,
  );
  await knex.raw(
    "CREATE TRIGGER journal AFTER INSERT OR UPDATE ON outbox_tasks FOR EACH ROW EXECUTE FUNCTION write_journal()",
  );
}

/** No task had two owners in one assignment, none came back to an earlier one, and each ended once. */
export async function checkJournal(knex: Knex): Promise<number> {
  if (!(await knex.schema.hasTable("task_journal"))) return 0;
  const rows = (await knex("task_journal").select("*").orderBy("id")) as {
    task_id: string;
    agent_id: string | null;
    assignment: number;
    state: string;
  }[];
  const tasks = new Map<string, { assignment: number; agent: string | null; ended: boolean }>();
  for (const { task_id, agent_id, assignment, state } of rows) {
    const before = tasks.get(task_id) ?? { assignment: 0, agent: null, ended: false };
    const what = `${task_id} ${JSON.stringify(before)} -> ${agent_id} ${assignment} ${state}`;
    expect(before.ended, what).toBe(false);
    expect(assignment, what).toBeGreaterThanOrEqual(before.assignment);
    if (agent_id !== null && agent_id !== before.agent) {
      // A new owner is a new assignment: the fence of the one before holds no more.
      expect(assignment, what).toBe(before.assignment + 1);
    }
    const ended = ["completed", "failed", "canceled", "rejected"].includes(state);
    tasks.set(task_id, { assignment, agent: agent_id, ended });
  }
  return tasks.size;
}

/** What must hold whenever nobody is in the middle of a transaction. */
export async function checkConsistent(knex: Knex): Promise<void> {
  const tasks = (await knex("outbox_tasks").select("*")) as Record<string, unknown>[];
  for (const task of tasks) {
    const messages = (await knex("outbox_messages")
      .where({ message_type: "TASK_ASSIGNMENT", task_id: String(task.task_id) })
      .select("message_id", "to_agent")) as Record<string, unknown>[];
    const handoffs = (await knex("outbox_handoffs")
      .where({ task_id: String(task.task_id) })
      .whereNull("ended_at")) as Record<string, unknown>[];
    const what = JSON.stringify({ task, messages, handoffs });
    const live = task.finished_at === null;
    // One live message at most, and it is the owner's.
    if (messages.length > 0) {
      expect(messages, what).toEqual([{ message_id: task.message_id, to_agent: task.agent_id }]);
    }
    const offers = handoffs.filter(({ state }) => state === "offered");
    expect(offers.length, what).toBeLessThanOrEqual(1);
    if (!live) expect(handoffs, what).toEqual([]);
    for (const offer of offers) {
      const message = await knex("outbox_messages").where({ message_id: String(offer.message_id) });
      expect(message, what).toHaveLength(1);
    }
    // Nobody works on it: then the offer brings it on, or back.
    if (live && task.agent_id !== null && messages.length === 0) {
      expect(offers, what).toMatchObject([
        { detached: 1, assignment: task.assignment, from_agent: task.agent_id },
      ]);
    }
    for (const { state, to_agent, assignment } of handoffs) {
      if (state === "offered") continue;
      expect([to_agent, assignment], what).toEqual([task.agent_id, task.assignment]);
    }
  }
}
