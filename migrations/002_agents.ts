import type { Knex } from "knex";
import { Columns, type MigrationContext } from "./columns.ts";

export function up(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder {
  const { name } = context;
  const agents = name("agents");
  const capabilities = name("agent_capabilities");
  return schema
    .createTable(agents, (table) => {
      const columns = new Columns(table, context);
      columns.key("agent_id").notNullable();
      table.primary(["agent_id"], name("agents_pk"));
      columns.key("role", 64).notNullable();
      columns.key("status", 16).notNullable();
      table.integer("max_concurrent_tasks").notNullable();
      columns.json("metadata");
      columns.json("metrics");
      columns.instant("registered_at").notNullable();
      columns.instant("heartbeat_at").notNullable();
      // Without a heartbeat for this long the agent counts as lost.
      table.integer("stale_after_ms").notNullable();
      columns.instant("last_assigned_at").notNullable();
    })
    .raw(`CREATE INDEX ${name("agents_heartbeat")} ON ${agents} (heartbeat_at)`)
    .createTable(capabilities, (table) => {
      const columns = new Columns(table, context);
      columns.key("capability").notNullable();
      columns.key("agent_id").notNullable();
      table.primary(["capability", "agent_id"], name("agent_capabilities_pk"));
    })
    .raw(`CREATE INDEX ${name("agent_capabilities_agent")} ON ${capabilities} (agent_id)`);
}

export function down(schema: Knex.SchemaBuilder, { name }: MigrationContext): Knex.SchemaBuilder {
  return schema.dropTable(name("agent_capabilities")).dropTable(name("agents"));
}
