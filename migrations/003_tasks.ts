import type { Knex } from "knex";
import { Columns, type MigrationContext } from "./columns.ts";

export function up(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder {
  const { name } = context;
  const tasks = name("tasks");
  return (
    schema
      .createTable(tasks, (table) => {
        const columns = new Columns(table, context);
        columns.identity("seq");
        columns.key("task_id").notNullable();
        columns.key("task_type").notNullable();
        columns.text("description").notNullable();
        columns.json("parameters").notNullable();
        columns.json("required_capabilities").notNullable();
        // One value per distinct set of requirements, so that parked tasks are looked at per set, not one by one.
        columns.key("need_key", 64).notNullable();
        table.smallint("priority").notNullable();
        columns.key("state", 16).notNullable();
        columns.key("supervisor_id").notNullable();
        columns.key("agent_id");
        // Who had it before it was given back: a retry goes to another agent where there is one.
        columns.key("previous_agent_id");
        // The message that carries the current assignment.
        columns.key("message_id");
        // The fence: it grows with every assignment; a result of an older one changes nothing.
        table.integer("assignment").notNullable();
        table.integer("max_assignments").notNullable();
        columns.json("progress");
        columns.json("result");
        columns.json("last_error");
        columns.key("context_id");
        columns.key("correlation_id");
        columns.instant("created_at").notNullable();
        columns.instant("assigned_at");
        columns.instant("started_at");
        columns.instant("deadline_at");
        columns.instant("finished_at");
      })
      .raw(`CREATE UNIQUE INDEX ${name("tasks_id")} ON ${tasks} (task_id)`)
      .raw(
        `CREATE INDEX ${name("tasks_live")} ON ${tasks} (agent_id, seq) WHERE agent_id IS NOT NULL AND finished_at IS NULL`,
      )
      .raw(
        `CREATE INDEX ${name("tasks_parked")} ON ${tasks} (need_key, priority DESC, seq) WHERE agent_id IS NULL AND finished_at IS NULL`,
      )
      .raw(
        `CREATE INDEX ${name("tasks_deadline")} ON ${tasks} (deadline_at) WHERE deadline_at IS NOT NULL AND finished_at IS NULL`,
      )
      .raw(`CREATE INDEX ${name("tasks_state")} ON ${tasks} (state, seq)`)
      // With all that the statistics read, so that they read the index alone.
      .raw(
        `CREATE INDEX ${name("tasks_finished")} ON ${tasks} (finished_at, state, created_at) WHERE finished_at IS NOT NULL`,
      )
  );
}

export function down(schema: Knex.SchemaBuilder, { name }: MigrationContext): Knex.SchemaBuilder {
  return schema.dropTable(name("tasks"));
}
