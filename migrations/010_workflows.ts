import type { Knex } from "knex";
import type { MigrationContext } from "./columns.ts";

/** Workflows and their steps. */
export function up(schema: Knex.SchemaBuilder, _context: MigrationContext): Knex.SchemaBuilder {
  return schema;
}

export function down(schema: Knex.SchemaBuilder, _context: MigrationContext): Knex.SchemaBuilder {
  return schema;
}
