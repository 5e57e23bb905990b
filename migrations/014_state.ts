import type { Knex } from "knex";
import type { MigrationContext } from "./columns.ts";

/** Locks, events of aggregates, and the state of entities. */
export function up(schema: Knex.SchemaBuilder, _context: MigrationContext): Knex.SchemaBuilder {
  return schema;
}

export function down(schema: Knex.SchemaBuilder, _context: MigrationContext): Knex.SchemaBuilder {
  return schema;
}
