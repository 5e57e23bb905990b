import type { Knex } from "knex";
import { expect } from "vitest";

const COLUMNS = "workflow_id, step_id, part, state, attempt, task_id";

export interface Entry {
  readonly workflow_id: string;
  readonly step_id: string;
  readonly part: "do" | "undo";
  readonly state: string;
  readonly attempt: number;
  readonly task_id: string | null;
}

/**
 * Lets the database write down every change of a step, by triggers: what nobody of the library can leave out. Not on
 * SQL Server, where a table with triggers refuses OUTPUT without INTO.
 */
export async function keepJournal(knex: Knex): Promise<void> {
  const dialect = knex.client.dialect as string;
  if (dialect === "mssql") return;
  await knex.schema.createTable("step_journal", (table) => {
    table.bigIncrements("id");
    for (const column of ["workflow_id", "step_id", "part", "state", "task_id"]) {
      table.string(column);
    }
    table.integer("attempt");
  });
  const values = COLUMNS.split(", ").map((column) => `NEW.${column}`);
  const write = `INSERT INTO step_journal (${COLUMNS}) VALUES (${values.join(", ")});`;
  if (dialect === "sqlite3") {
    for (const event of ["INSERT", "UPDATE"]) {
      await knex.raw(
        `CREATE TRIGGER steps_${event} AFTER ${event} ON outbox_workflow_steps BEGIN ${write} END`,
      );
    }
    return;
  }
  await knex.raw(
    `CREATE FUNCTION write_step() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ${write} RETURN NEW; END $$`,
  );
  await knex.raw(
    "CREATE TRIGGER steps AFTER INSERT OR UPDATE ON outbox_workflow_steps FOR EACH ROW EXECUTE FUNCTION write_step()",
  );
}

export async function journal(knex: Knex): Promise<Entry[]> {
  if (!(await knex.schema.hasTable("step_journal"))) return [];
  return (await knex("step_journal").orderBy("id")) as Entry[];
}

/** What each step, and each compensation, went through: `running 1`, `waiting 1`, `running 2`, `completed 2`. */
export function livesOf(entries: readonly Entry[], workflowId: string): Record<string, string[]> {
  const lives: Record<string, string[]> = {};
  for (const { workflow_id, step_id, part, state, attempt } of entries) {
    if (workflow_id !== workflowId) continue;
    const name = part === "undo" ? `undo ${step_id}` : step_id;
    lives[name] ??= [];
    const now = `${state} ${attempt}`;
    // The same again: only its time has changed.
    if (state !== "pending" && lives[name].at(-1) !== now) lives[name].push(now);
  }
  return lives;
}

const OVER = ["completed", "failed", "skipped", "canceled"];

/** No step ran before what it depends on had ended, none twice in one attempt, and none was undone out of order. */
export async function checkOrder(knex: Knex): Promise<number> {
  const entries = await journal(knex);
  const plans = (await knex("outbox_workflow_steps").select(
    "workflow_id",
    "step_id",
    "part",
    "plan",
  )) as {
    workflow_id: string;
    step_id: string;
    part: string;
    plan: unknown;
  }[];
  const dependsOn = new Map<string, string[]>();
  const undoable = new Set<string>();
  for (const { workflow_id, step_id, part, plan } of plans) {
    if (part === "undo") continue;
    const read = typeof plan === "string" ? JSON.parse(plan) : plan;
    dependsOn.set(`${workflow_id} ${step_id}`, read.dependsOn);
    if (read.undoable) undoable.add(`${workflow_id} ${step_id}`);
  }
  const over = new Set<string>();
  const begun = new Set<string>();
  const completed = new Map<string, string[]>();
  for (const { workflow_id, step_id, part, state, attempt } of entries) {
    const step = `${workflow_id} ${step_id}`;
    const what = `${part} ${step} ${state} ${attempt}`;
    if (state === "running") {
      expect(begun.has(what), what).toBe(false);
      begun.add(what);
      if (part === "do") {
        for (const before of dependsOn.get(step) ?? []) {
          expect(over.has(`${workflow_id} ${before}`), `${what} before ${before}`).toBe(true);
        }
      }
    }
    if (OVER.includes(state) && part === "do") over.add(step);
    if (state !== "completed") continue;
    const order = completed.get(workflow_id) ?? [];
    if (part === "do") order.push(step_id);
    else {
      const later = order.splice(order.lastIndexOf(step_id)).slice(1);
      // Of what was to be undone, it is what completed last.
      expect(
        later.filter((other) => undoable.has(`${workflow_id} ${other}`)),
        what,
      ).toEqual([]);
    }
    completed.set(workflow_id, order);
  }
  return entries.length;
}

/** What must hold whenever nobody is in the middle of a transaction: nothing is left for anyone to repair. */
export async function checkConsistent(knex: Knex): Promise<void> {
  const steps = (await knex("outbox_workflow_steps as s")
    .leftJoin("outbox_tasks as t", "t.task_id", "s.task_id")
    .whereIn("s.state", ["running", "stopping"])
    .whereNotNull("s.task_id")
    .select("s.step_id", "s.part", "t.task_id", "t.finished_at")) as Record<string, unknown>[];
  for (const step of steps) {
    expect(step.task_id, JSON.stringify(step)).not.toBeNull();
    expect(step.finished_at, JSON.stringify(step)).toBeNull();
  }
  const orphans = await knex("outbox_tasks as t")
    .whereNull("t.finished_at")
    .where("t.task_id", "like", "wf:%")
    .whereNotExists(
      knex("outbox_workflow_steps as s")
        .whereRaw("s.task_id = t.task_id")
        .whereIn("s.state", ["running", "stopping"]),
    );
  expect(orphans).toEqual([]);
  const workflows = (await knex("outbox_workflows").whereIn("state", [
    "running",
    "compensating",
  ])) as Record<string, unknown>[];
  for (const workflow of workflows) {
    if (workflow.due_at !== null) continue;
    // Nothing is due: then something is under way that will move it.
    const live = await knex("outbox_workflow_steps")
      .where({ workflow_id: String(workflow.workflow_id) })
      .whereIn("state", ["running", "stopping"]);
    expect(live.length, JSON.stringify(workflow)).toBeGreaterThan(0);
  }
}
