import type { Knex } from "knex";
import type { MigrationContext } from "./columns.ts";

/** Change requests and who approved them. */
export function up(schema: Knex.SchemaBuilder, _context: MigrationContext): Knex.SchemaBuilder {
  return schema;
}

export function down(schema: Knex.SchemaBuilder, _context: MigrationContext): Knex.SchemaBuilder {
  return schema;
}
