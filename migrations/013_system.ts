import type { Knex } from "knex";
import type { MigrationContext } from "./columns.ts";

/** Who may send to whom, and whether the system is in maintenance. */
export function up(schema: Knex.SchemaBuilder, _context: MigrationContext): Knex.SchemaBuilder {
  return schema;
}

export function down(schema: Knex.SchemaBuilder, _context: MigrationContext): Knex.SchemaBuilder {
  return schema;
}
