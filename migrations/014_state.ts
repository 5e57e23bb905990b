import type { Knex } from "knex";
import { Columns, type MigrationContext } from "./columns.ts";

/** Locks, events of aggregates, and the state of entities. */
export function up(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder {
  const { name } = context;
  const floor = name("lock_floor");
  return schema
    .createTable(name("locks"), (table) => {
      const columns = new Columns(table, context);
      columns.key("resource_id").notNullable();
      // Null: released.
      columns.key("owner_id");
      // Grows with every owner, for ever.
      table.bigInteger("fencing_token").notNullable();
      columns.instant("locked_at").notNullable();
      // Of a released one: when that was.
      columns.instant("expires_at").notNullable();
      columns.json("metadata");
      table.primary(["resource_id"], name("locks_pk"));
    })
    .raw(`CREATE INDEX ${name("locks_expiry")} ON ${name("locks")} (expires_at)`)
    .createTable(floor, (table) => {
      const columns = new Columns(table, context);
      columns.key("id", 16).notNullable();
      // The greatest token of all locks whose rows were deleted: new rows begin above it.
      table.bigInteger("fencing_token").notNullable();
      table.primary(["id"], name("lock_floor_pk"));
    })
    .raw(`INSERT INTO ${floor} (id, fencing_token) VALUES ('floor', 0)`)
    .createTable(name("aggregates"), (table) => {
      const columns = new Columns(table, context);
      columns.key("aggregate_id").notNullable();
      columns.key("aggregate_type");
      table.bigInteger("version").notNullable();
      table.primary(["aggregate_id"], name("aggregates_pk"));
    })
    .createTable(name("events"), (table) => {
      const columns = new Columns(table, context);
      columns.identity("seq");
      // Given after the commit, so that a reader who follows it misses none that commits late.
      table.bigInteger("position");
      columns.key("event_id").notNullable();
      columns.key("aggregate_id").notNullable();
      columns.key("aggregate_type");
      table.bigInteger("version").notNullable();
      columns.key("event_type").notNullable();
      columns.json("data").notNullable();
      columns.json("metadata");
      columns.key("agent_id");
      columns.key("correlation_id");
      columns.instant("recorded_at").notNullable();
    })
    .raw(`CREATE UNIQUE INDEX ${name("events_id")} ON ${name("events")} (event_id)`)
    .raw(
      `CREATE UNIQUE INDEX ${name("events_version")} ON ${name("events")} (aggregate_id, version)`,
    )
    .raw(
      `CREATE UNIQUE INDEX ${name("events_position")} ON ${name("events")} (position) WHERE position IS NOT NULL`,
    )
    .raw(
      `CREATE INDEX ${name("events_type")} ON ${name("events")} (event_type, position) WHERE position IS NOT NULL`,
    )
    .raw(`CREATE INDEX ${name("events_new")} ON ${name("events")} (seq) WHERE position IS NULL`)
    .createTable(name("event_cursors"), (table) => {
      const columns = new Columns(table, context);
      // What was given out last: of the store under "", of each follower under its name.
      columns.key("name").notNullable();
      table.bigInteger("position").notNullable();
      columns.instant("updated_at");
      table.primary(["name"], name("event_cursors_pk"));
    })
    .raw(`INSERT INTO ${name("event_cursors")} (name, position) VALUES ('', 0)`)
    .createTable(name("snapshots"), (table) => {
      const columns = new Columns(table, context);
      columns.key("aggregate_id").notNullable();
      columns.key("name").notNullable();
      table.integer("schema_version").notNullable();
      table.bigInteger("version").notNullable();
      columns.json("state").notNullable();
      columns.instant("taken_at").notNullable();
      table.primary(["aggregate_id", "name", "schema_version"], name("snapshots_pk"));
    })
    .createTable(name("entities"), (table) => {
      const columns = new Columns(table, context);
      columns.key("entity_type").notNullable();
      columns.key("entity_id").notNullable();
      // Goes on after a deletion.
      table.bigInteger("version").notNullable();
      // Null: deleted.
      columns.json("state");
      columns.json("previous_state");
      columns.key("updated_by");
      columns.instant("updated_at").notNullable();
      table.primary(["entity_type", "entity_id"], name("entities_pk"));
    })
    .createTable(name("entity_history"), (table) => {
      const columns = new Columns(table, context);
      columns.key("entity_type").notNullable();
      columns.key("entity_id").notNullable();
      table.bigInteger("version").notNullable();
      // Null: it was deleted.
      columns.json("updates");
      columns.json("previous_state");
      columns.key("updated_by");
      columns.instant("updated_at").notNullable();
      table.primary(["entity_type", "entity_id", "version"], name("entity_history_pk"));
    });
}

export function down(schema: Knex.SchemaBuilder, { name }: MigrationContext): Knex.SchemaBuilder {
  return [
    "entity_history",
    "entities",
    "snapshots",
    "event_cursors",
    "events",
    "aggregates",
    "lock_floor",
    "locks",
  ].reduce((built, table) => built.dropTable(name(table)), schema);
}
