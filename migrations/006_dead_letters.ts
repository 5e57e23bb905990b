import type { Knex } from "knex";
import type { MigrationContext } from "./columns.ts";

/** Dead letters of one cause are found by it, in the order of their sequence. */
export function up(schema: Knex.SchemaBuilder, { name }: MigrationContext): Knex.SchemaBuilder {
  return schema.raw(
    `CREATE INDEX ${name("dead_letters_cause")} ON ${name("dead_letters")} (fingerprint, seq)`,
  );
}

export function down(schema: Knex.SchemaBuilder, { name }: MigrationContext): Knex.SchemaBuilder {
  return schema.alterTable(name("dead_letters"), (table) => {
    table.dropIndex([], name("dead_letters_cause"));
  });
}
