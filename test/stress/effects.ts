import type { Knex } from "knex";

/** What handlers write in the transaction that acknowledges: one row per message, if all is well. */
export async function effectsTable(knex: Knex): Promise<void> {
  if (await knex.schema.hasTable("effects")) return;
  await knex.schema.createTable("effects", (table) => {
    table.string("message_id", 128);
    table.integer("process");
  });
}

/** How often each message had its effect. */
export async function effects(knex: Knex): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  for (const { message_id } of await knex("effects").select("message_id")) {
    counts.set(message_id, (counts.get(message_id) ?? 0) + 1);
  }
  return counts;
}
