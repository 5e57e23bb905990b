import type { Knex } from "knex";
import { Columns, type MigrationContext } from "./columns.ts";

export function up(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder {
  const { name } = context;
  const agents = name("agents");
  const capabilities = name("agent_capabilities");
  const built = schema
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
      // When a supervisor found it lost and took its tasks away; the next heartbeat clears it.
      columns.instant("lost_at");
      columns.instant("last_assigned_at").notNullable();
    })
    // heartbeat_at is in no index: a heartbeat then writes the row alone (heap-only on PostgreSQL), and who
    // looks for lost agents reads only those that are not known to be lost.
    .raw(`CREATE INDEX ${name("agents_present")} ON ${agents} (agent_id) WHERE lost_at IS NULL`)
    .createTable(capabilities, (table) => {
      const columns = new Columns(table, context);
      columns.key("capability").notNullable();
      columns.key("agent_id").notNullable();
      table.primary(["capability", "agent_id"], name("agent_capabilities_pk"));
    })
    .raw(`CREATE INDEX ${name("agent_capabilities_agent")} ON ${capabilities} (agent_id)`);
  if (context.dialect === "postgres") {
    built.raw(`ALTER TABLE ${agents} SET (fillfactor = 60)`);
  }
  return built;
}

export function down(schema: Knex.SchemaBuilder, { name }: MigrationContext): Knex.SchemaBuilder {
  return schema.dropTable(name("agent_capabilities")).dropTable(name("agents"));
}
