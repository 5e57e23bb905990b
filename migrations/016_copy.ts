import type { Knex } from "knex";
import type { MigrationContext } from "./columns.ts";

const INSTANTS = ["created_at", "visible_at"];

/**
 * Instants of a new message that its statement does not give: PostgreSQL's COPY takes values, not expressions. Of the
 * double, not of the number that extract() gives: it is read for every row, at a tenth of the cost.
 */
export function up(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder {
  if (context.dialect !== "postgres") return schema;
  const now = "CAST(floor(date_part('epoch', statement_timestamp()) * 1000) AS bigint)";
  const defaults = INSTANTS.map((column) => `ALTER ${column} SET DEFAULT ${now}`);
  return schema.raw(`ALTER TABLE ${context.name("messages")} ${defaults.join(", ")}`);
}

export function down(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder {
  if (context.dialect !== "postgres") return schema;
  const defaults = INSTANTS.map((column) => `ALTER ${column} DROP DEFAULT`);
  return schema.raw(`ALTER TABLE ${context.name("messages")} ${defaults.join(", ")}`);
}
