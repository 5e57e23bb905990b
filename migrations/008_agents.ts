import type { Knex } from "knex";
import type { MigrationContext } from "./columns.ts";

/** What agents can do in which version, what they say of themselves, and their history. */
export function up(schema: Knex.SchemaBuilder, _context: MigrationContext): Knex.SchemaBuilder {
  return schema;
}

export function down(schema: Knex.SchemaBuilder, _context: MigrationContext): Knex.SchemaBuilder {
  return schema;
}
