import type { Knex } from "knex";
import { Columns, type MigrationContext } from "./columns.ts";

/** Workflows, their steps, and the signals that were given to them. */
export function up(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder {
  const { name } = context;
  const workflows = name("workflows");
  const steps = name("workflow_steps");
  const signals = name("workflow_signals");
  return schema
    .createTable(workflows, (table) => {
      const columns = new Columns(table, context);
      columns.identity("seq");
      columns.key("workflow_id").notNullable();
      columns.key("workflow_type").notNullable();
      columns.key("mode", 16).notNullable();
      // Who its tasks belong to, and their answers go to.
      columns.key("supervisor_id").notNullable();
      columns.key("state", 32).notNullable();
      // What a paused one goes on as.
      columns.key("resumes_as", 32);
      // Grows with every change: the fence of those who read it before.
      table.integer("version").notNullable().defaultTo(0);
      columns.json("input").notNullable();
      columns.key("context_id");
      columns.key("correlation_id");
      columns.key("on_failure", 16).notNullable();
      // Why it fails, from the moment on in which that is certain.
      columns.json("failure");
      // Bytes of all outputs, and how many steps have completed.
      columns.instant("output_bytes").notNullable().defaultTo(0);
      table.integer("completions").notNullable().defaultTo(0);
      columns.instant("deadline_ms");
      columns.instant("deadline_at");
      // When a sweep has to look at it next.
      columns.instant("due_at");
      columns.instant("created_at").notNullable();
      columns.instant("finished_at");
    })
    .raw(`CREATE UNIQUE INDEX ${name("workflows_id")} ON ${workflows} (workflow_id)`)
    .raw(`CREATE INDEX ${name("workflows_due")} ON ${workflows} (due_at) WHERE due_at IS NOT NULL`)
    .raw(`CREATE INDEX ${name("workflows_state")} ON ${workflows} (state, seq)`)
    .raw(`CREATE INDEX ${name("workflows_type")} ON ${workflows} (workflow_type, seq)`)
    .raw(
      `CREATE INDEX ${name("workflows_ended")} ON ${workflows} (finished_at) WHERE finished_at IS NOT NULL`,
    )
    .createTable(steps, (table) => {
      const columns = new Columns(table, context);
      columns.key("workflow_id").notNullable();
      columns.key("step_id", 64).notNullable();
      // "do", or "undo" for its compensation.
      columns.key("part", 8).notNullable();
      table.integer("position").notNullable();
      // What decides about it, and what its task is made of: the first is read at each move, the second once.
      columns.json("plan").notNullable();
      columns.json("work").notNullable();
      columns.key("state", 16).notNullable();
      // How often it was begun, ever; and how often it failed since it was last made new.
      table.integer("attempt").notNullable().defaultTo(0);
      table.integer("failures").notNullable().defaultTo(0);
      // The task of the attempt under way, or the last one.
      columns.key("task_id");
      // When it is tried again, or waited long enough.
      columns.instant("due_at");
      // Its place among those that completed.
      table.integer("completion");
      columns.json("result");
      columns.json("error");
      columns.json("warnings");
      columns.instant("started_at");
      columns.instant("finished_at");
      table.primary(["workflow_id", "step_id", "part"], name("workflow_steps_pk"));
    })
    .raw(
      `CREATE INDEX ${name("workflow_steps_task")} ON ${steps} (task_id) WHERE task_id IS NOT NULL AND finished_at IS NULL`,
    )
    .createTable(signals, (table) => {
      const columns = new Columns(table, context);
      columns.key("workflow_id").notNullable();
      columns.key("name").notNullable();
      columns.json("data").notNullable();
      columns.key("sent_by");
      columns.instant("sent_at").notNullable();
      table.primary(["workflow_id", "name"], name("workflow_signals_pk"));
    });
}

export function down(schema: Knex.SchemaBuilder, { name }: MigrationContext): Knex.SchemaBuilder {
  return schema
    .dropTable(name("workflow_signals"))
    .dropTable(name("workflow_steps"))
    .dropTable(name("workflows"));
}
