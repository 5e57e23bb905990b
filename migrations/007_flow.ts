import type { Knex } from "knex";
import { Columns, type MigrationContext } from "./columns.ts";

/** Windows between two agents, and mailboxes of limited depth. */
export function up(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder {
  const { name } = context;
  const keys = name("keys");
  // One column each: what speaks SQL Server's protocol need not take several at once.
  return (
    schema
      // How many more messages a mailbox of limited depth had room for when they were counted last, less those
      // that were sent since.
      .alterTable(keys, (table) => table.integer("room"))
      .alterTable(keys, (table) => void new Columns(table, context).instant("room_at"))
      .raw(
        `CREATE INDEX ${name("messages_blocked")} ON ${name("messages")} (to_agent, seq) WHERE state = 2`,
      )
  );
}

export function down(schema: Knex.SchemaBuilder, { name }: MigrationContext): Knex.SchemaBuilder {
  return schema
    .alterTable(name("messages"), (table) => table.dropIndex([], name("messages_blocked")))
    .raw(`DELETE FROM ${name("keys")} WHERE kind IN ('window', 'depth')`)
    .raw(`ALTER TABLE ${name("keys")} DROP COLUMN room_at`)
    .raw(`ALTER TABLE ${name("keys")} DROP COLUMN room`);
}
