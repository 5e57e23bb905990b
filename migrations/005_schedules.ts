import type { Knex } from "knex";
import { Columns, type MigrationContext } from "./columns.ts";

/** Messages that are sent again and again: by a cron expression, or at fixed intervals. */
export function up(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder {
  const { name } = context;
  const schedules = name("schedules");
  const built = schema
    .createTable(schedules, (table) => {
      const columns = new Columns(table, context);
      columns.key("name").notNullable();
      table.primary(["name"], name("schedules_pk"));
      // Either cron and time_zone, or every_ms.
      columns.key("cron", 255);
      columns.key("time_zone", 64);
      columns.instant("every_ms");
      columns.instant("start_at");
      columns.instant("end_at");
      columns.json("message").notNullable();
      columns.key("catch_up", 8).notNullable();
      table.integer("max_catch_up").notNullable();
      // The next due time. Null: there is none any more.
      columns.instant("next_run_at");
      // When it is to be looked at: the next due time, or later after a firing that failed. Null while it is
      // paused, and after its end.
      columns.instant("due_at");
      // The last due time that was sent, when that happened, and as what.
      columns.instant("last_run_at");
      columns.instant("last_fired_at");
      columns.key("last_message_id");
      table.bigInteger("runs").notNullable();
      table.bigInteger("skipped").notNullable();
      columns.instant("paused_at");
      columns.text("pause_reason");
      // Of the firings that failed since the last one that did not.
      table.integer("failures").notNullable();
      columns.json("last_error");
      columns.instant("created_at").notNullable();
      columns.instant("updated_at").notNullable();
    })
    .raw(`CREATE INDEX ${name("schedules_due")} ON ${schedules} (due_at) WHERE due_at IS NOT NULL`);
  if (context.dialect === "mssql") {
    built.raw(`ALTER TABLE ${schedules} SET (LOCK_ESCALATION = DISABLE)`);
  }
  return built;
}

export function down(schema: Knex.SchemaBuilder, { name }: MigrationContext): Knex.SchemaBuilder {
  return schema.dropTable(name("schedules"));
}
