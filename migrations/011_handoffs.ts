import type { Knex } from "knex";
import { Columns, type MigrationContext } from "./columns.ts";

/** Handoffs from agent to agent. */
export function up(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder {
  const { name } = context;
  const handoffs = name("handoffs");
  // Offered, and neither taken nor over. Told by instants, which filtered indexes on every server understand.
  const open = "accepted_at IS NULL AND ended_at IS NULL";
  return schema
    .createTable(handoffs, (table) => {
      const columns = new Columns(table, context);
      columns.identity("seq");
      columns.key("handoff_id").notNullable();
      columns.key("from_agent").notNullable();
      columns.key("to_agent").notNullable();
      // What the target had to be able to do, where it was looked for.
      columns.json("required_capabilities");
      columns.key("task_id");
      // The assignment that is handed over: the giver's while it is offered, then the target's.
      table.integer("assignment");
      // 1: the giver's run ended with the offer, so that it needs a new message if the task comes back.
      table.integer("detached").notNullable().defaultTo(0);
      columns.key("context_id");
      columns.key("correlation_id");
      columns.text("reason").notNullable();
      columns.json("current_state");
      columns.json("context").notNullable();
      columns.json("deliverables").notNullable();
      columns.json("actions_required").notNullable();
      table.integer("priority").notNullable();
      columns.key("estimated_effort", 255);
      columns.key("state", 16).notNullable();
      // The message that offered it.
      columns.key("message_id").notNullable();
      // What was said when it was accepted, rejected, returned or withdrawn.
      columns.text("note");
      // How its task ended.
      columns.key("outcome", 16);
      columns.json("warnings");
      columns.instant("created_at").notNullable();
      columns.instant("due_at").notNullable();
      columns.instant("accepted_at");
      columns.instant("started_at");
      columns.instant("ended_at");
    })
    .raw(`CREATE UNIQUE INDEX ${name("handoffs_id")} ON ${handoffs} (handoff_id)`)
    .raw(
      `CREATE UNIQUE INDEX ${name("handoffs_offer")} ON ${handoffs} (task_id) WHERE task_id IS NOT NULL AND ${open}`,
    )
    .raw(`CREATE INDEX ${name("handoffs_due")} ON ${handoffs} (due_at) WHERE ${open}`)
    .raw(
      `CREATE INDEX ${name("handoffs_live_task")} ON ${handoffs} (task_id, seq) WHERE task_id IS NOT NULL AND ended_at IS NULL`,
    )
    .raw(`CREATE INDEX ${name("handoffs_live")} ON ${handoffs} (seq) WHERE ended_at IS NULL`)
    .raw(
      `CREATE INDEX ${name("handoffs_taken")} ON ${handoffs} (to_agent, accepted_at) WHERE accepted_at IS NOT NULL AND ended_at IS NULL`,
    )
    .raw(`CREATE INDEX ${name("handoffs_from")} ON ${handoffs} (from_agent, seq)`)
    .raw(`CREATE INDEX ${name("handoffs_to")} ON ${handoffs} (to_agent, seq)`)
    .raw(
      `CREATE INDEX ${name("handoffs_task")} ON ${handoffs} (task_id, seq) WHERE task_id IS NOT NULL`,
    )
    .raw(
      `CREATE INDEX ${name("handoffs_ended")} ON ${handoffs} (ended_at) WHERE ended_at IS NOT NULL`,
    );
}

export function down(schema: Knex.SchemaBuilder, { name }: MigrationContext): Knex.SchemaBuilder {
  return schema.dropTable(name("handoffs"));
}
