import type { Knex } from "knex";
import { Columns, dropColumns, type MigrationContext } from "./columns.ts";

type Context = MigrationContext;

/** What agents can do in which version, what they say of themselves, and their history. */
export function up(schema: Knex.SchemaBuilder, context: Context): Knex.SchemaBuilder {
  const { name } = context;
  const agents = name("agents");
  const added: ((table: Knex.CreateTableBuilder, columns: Columns) => void)[] = [
    (_table, columns) => columns.json("card"),
    (_table, columns) => columns.key("card_hash", 64),
    // Out of the card, for those who look for agents: "active", "development" or "deprecated".
    (_table, columns) => columns.key("lifecycle", 16).notNullable().defaultTo("active"),
    // Agents that must be alive for this one to get tasks; null for none.
    (_table, columns) => columns.json("needs_agents"),
    (table) => table.integer("weight").notNullable().defaultTo(1),
    // Why it drains, where it was not somebody's wish: "limits". Set back together with the status.
    (_table, columns) => columns.key("drained_by", 16),
  ];
  const history = name("agent_history");
  const tasks = name("tasks");
  const built =
    // One column each: what speaks SQL Server's protocol need not take several at once.
    added
      .reduce(
        (built, add) =>
          built.alterTable(agents, (table) => void add(table, new Columns(table, context))),
        replaced(schema, context, (table, columns) => {
          columns.key("kind", 8).notNullable().defaultTo("");
          // What sorts among its kind byte by byte: see capability-values.ts.
          columns.key("sort_key", 140).notNullable().defaultTo("");
          // As it was declared, for people; null where a capability has neither version nor value.
          columns.key("value");
          table.primary(
            ["capability", "agent_id", "kind", "sort_key"],
            name("agent_capabilities_pk"),
          );
        }),
      )
      .createTable(history, (table) => {
        const columns = new Columns(table, context);
        columns.identity("seq");
        columns.key("agent_id").notNullable();
        columns.key("event", 32).notNullable();
        columns.instant("at").notNullable();
        columns.json("data");
        // The card and what belongs to it, where this row is a change of it.
        columns.json("card");
        columns.key("card_hash", 64);
        // Since when the agent is no longer registered.
        columns.instant("gone_at");
      })
      .raw(`CREATE INDEX ${name("agent_history_agent")} ON ${history} (agent_id, seq)`)
      .raw(
        `CREATE INDEX ${name("agent_history_gone")} ON ${history} (gone_at) WHERE gone_at IS NOT NULL`,
      )
      // Who had the last task of a context.
      .raw(
        `CREATE INDEX ${name("tasks_context")} ON ${tasks} (context_id, assigned_at DESC, agent_id) WHERE context_id IS NOT NULL AND agent_id IS NOT NULL`,
      );
  // Whose turn it is. SQL Server's statement looks at all that can do a task, and would write it for nothing.
  if (context.dialect !== "mssql") {
    built.raw(
      `CREATE INDEX ${name("agents_turn")} ON ${agents} (last_assigned_at, agent_id) WHERE lost_at IS NULL`,
    );
  }
  return built;
}

export function down(schema: Knex.SchemaBuilder, context: Context): Knex.SchemaBuilder {
  const { name } = context;
  const columns = ["card", "card_hash", "lifecycle", "needs_agents", "weight", "drained_by"];
  if (context.dialect !== "mssql") {
    schema.alterTable(name("agents"), (table) => void table.dropIndex([], name("agents_turn")));
  }
  replaced(schema, context, (table) => {
    table.primary(["capability", "agent_id"], name("agent_capabilities_pk"));
  })
    .alterTable(name("tasks"), (table) => void table.dropIndex([], name("tasks_context")))
    .dropTable(name("agent_history"));
  return dropColumns(schema, name("agents"), columns, context);
}

/** The capabilities in a table of another primary key, which SQLite cannot change: all is copied there and back. */
function replaced(
  schema: Knex.SchemaBuilder,
  context: Context,
  rest: (table: Knex.CreateTableBuilder, columns: Columns) => void,
): Knex.SchemaBuilder {
  const { name } = context;
  const capabilities = name("agent_capabilities");
  const copy = name("agent_capabilities_copy");
  const both = (table: Knex.CreateTableBuilder): Columns => {
    const columns = new Columns(table, context);
    columns.key("capability").notNullable();
    columns.key("agent_id").notNullable();
    return columns;
  };
  return schema
    .createTable(copy, (table) => void both(table))
    .raw(
      `INSERT INTO ${copy} (capability, agent_id) SELECT DISTINCT capability, agent_id FROM ${capabilities}`,
    )
    .dropTable(capabilities)
    .createTable(capabilities, (table) => rest(table, both(table)))
    .raw(`CREATE INDEX ${name("agent_capabilities_agent")} ON ${capabilities} (agent_id)`)
    .raw(
      `INSERT INTO ${capabilities} (capability, agent_id) SELECT capability, agent_id FROM ${copy}`,
    )
    .dropTable(copy);
}
