import type { Knex } from "knex";
import { Columns, type MigrationContext } from "./columns.ts";

/** What agents bid for tasks. */
export function up(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder {
  const { name } = context;
  const bids = name("bids");
  return schema
    .createTable(bids, (table) => {
      const columns = new Columns(table, context);
      columns.key("task_id").notNullable();
      // The assignment that was to be given away: every call for bids is a round of its own.
      table.integer("round").notNullable();
      columns.key("agent_id").notNullable();
      // "called", "bid", "declined", "won" or "lost".
      columns.key("state", 16).notNullable();
      table.double("amount");
      columns.text("note");
      columns.instant("called_at").notNullable();
      columns.instant("answered_at");
      table.primary(["task_id", "round", "agent_id"], name("bids_pk"));
    })
    .raw(`CREATE INDEX ${name("bids_old")} ON ${bids} (called_at)`);
}

export function down(schema: Knex.SchemaBuilder, { name }: MigrationContext): Knex.SchemaBuilder {
  return schema.dropTable(name("bids"));
}
