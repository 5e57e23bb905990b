import type { Knex } from "knex";
import { Columns, type MigrationContext } from "./columns.ts";

/**
 * Who may send to whom, and what is held back while the system is in maintenance: both are settings of all mailboxes,
 * in the row that speaks for them all.
 */
export function up(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder {
  const { name } = context;
  const mailboxes = name("mailboxes");
  // One column each: what speaks SQL Server's protocol need not take several at once.
  return schema
    .alterTable(mailboxes, (table) => void new Columns(table, context).json("held"))
    .alterTable(mailboxes, (table) => void new Columns(table, context).json("topology"))
    .createTable(name("maintenance_acks"), (table) => {
      const columns = new Columns(table, context);
      // The maintenance that it is about begins at this instant.
      columns.instant("since").notNullable();
      columns.key("agent_id").notNullable();
      columns.instant("acked_at").notNullable();
      table.primary(["since", "agent_id"], name("maintenance_acks_pk"));
    });
}

export function down(schema: Knex.SchemaBuilder, { name }: MigrationContext): Knex.SchemaBuilder {
  const mailboxes = name("mailboxes");
  return schema
    .dropTable(name("maintenance_acks"))
    .alterTable(mailboxes, (table) => table.dropColumn("topology"))
    .alterTable(mailboxes, (table) => table.dropColumn("held"));
}
