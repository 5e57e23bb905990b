import type { Knex } from "knex";
import { Columns, type MigrationContext } from "./columns.ts";

/** Change requests, who decided about them for which module, how their tests went, and who moved them when. */
export function up(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder {
  const { name } = context;
  const requests = name("change_requests");
  const history = name("change_history");
  return schema
    .createTable(requests, (table) => {
      const columns = new Columns(table, context);
      columns.identity("seq");
      columns.key("request_id").notNullable();
      columns.key("requesting_agent").notNullable();
      columns.json("affected_modules").notNullable();
      columns.key("change_type", 32).notNullable();
      columns.text("description").notNullable();
      columns.json("changes").notNullable();
      columns.json("impact_analysis").notNullable();
      columns.json("testing_plan").notNullable();
      columns.key("state", 16).notNullable();
      // Grows with each amendment: decisions and test reports are about one revision.
      table.integer("revision").notNullable();
      columns.instant("created_at").notNullable();
      columns.instant("updated_at").notNullable();
    })
    .raw(`CREATE UNIQUE INDEX ${name("change_requests_id")} ON ${requests} (request_id)`)
    .raw(`CREATE INDEX ${name("change_requests_state")} ON ${requests} (state, seq)`)
    .createTable(name("change_approvals"), (table) => {
      const columns = new Columns(table, context);
      columns.key("request_id").notNullable();
      table.integer("revision").notNullable();
      columns.key("module").notNullable();
      columns.key("decision", 16).notNullable();
      columns.key("decided_by").notNullable();
      columns.text("note");
      columns.instant("decided_at").notNullable();
      table.primary(["request_id", "revision", "module"], name("change_approvals_pk"));
    })
    .createTable(name("change_reports"), (table) => {
      const columns = new Columns(table, context);
      columns.key("request_id").notNullable();
      table.integer("revision").notNullable();
      columns.key("module").notNullable();
      table.integer("passed").notNullable();
      table.integer("failed").notNullable();
      columns.text("url");
      columns.key("reported_by").notNullable();
      columns.instant("reported_at").notNullable();
      table.primary(["request_id", "revision", "module"], name("change_reports_pk"));
    })
    .createTable(history, (table) => {
      const columns = new Columns(table, context);
      columns.identity("seq");
      columns.key("request_id").notNullable();
      columns.key("from_state", 16);
      columns.key("to_state", 16).notNullable();
      columns.key("moved_by").notNullable();
      columns.text("note");
      // 1: completed without the test reports that its plan asks for.
      table.integer("forced").notNullable();
      columns.instant("at").notNullable();
    })
    .raw(`CREATE INDEX ${name("change_history_request")} ON ${history} (request_id, seq)`);
}

export function down(schema: Knex.SchemaBuilder, { name }: MigrationContext): Knex.SchemaBuilder {
  for (const table of ["change_history", "change_reports", "change_approvals", "change_requests"]) {
    schema.dropTable(name(table));
  }
  return schema;
}
