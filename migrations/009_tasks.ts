import type { Knex } from "knex";
import { Columns, dropColumns, type MigrationContext } from "./columns.ts";

/** What a task costs, waits for, asks and belongs to. */
export function up(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder {
  const { name } = context;
  const tasks = name("tasks");
  const added: ((table: Knex.CreateTableBuilder, columns: Columns) => void)[] = [
    // How many of its agent's slots it takes.
    (table) => table.integer("cost").notNullable().defaultTo(1),
    (_table, columns) => columns.json("preferred_capabilities"),
    (_table, columns) => columns.key("strategy", 16),
    (_table, columns) => columns.key("parent_task_id"),
    (_table, columns) => columns.key("requested_by"),
    // How many of the tasks that it depends on have not completed yet; until it is 0 no agent gets it.
    (table) => table.integer("waits_for").notNullable().defaultTo(0),
    (_table, columns) => columns.instant("paused_at"),
    // Its deadline, or the end of time: of one priority the most urgent goes first.
    (_table, columns) =>
      columns.instant("urgent_at").notNullable().defaultTo(Number.MAX_SAFE_INTEGER),
    (_table, columns) => columns.json("warnings"),
    // How long one run may take as the task says it, and when the run under way must end.
    (_table, columns) => columns.instant("run_timeout_ms"),
    (_table, columns) => columns.instant("run_deadline_at"),
    // The class of its work, which says how long a run may take where nobody says it more precisely.
    (_table, columns) => columns.key("operation", 16),
    (_table, columns) => columns.json("auction"),
    (_table, columns) => columns.instant("auction_ends_at"),
  ];
  const inputs = name("task_inputs");
  const dependencies = name("task_dependencies");
  return (
    added
      // One column each: what speaks SQL Server's protocol need not take several at once.
      .reduce(
        (built, add) =>
          built.alterTable(tasks, (table) => void add(table, new Columns(table, context))),
        schema,
      )
      .raw(`UPDATE ${tasks} SET urgent_at = deadline_at WHERE deadline_at IS NOT NULL`)
      .alterTable(tasks, (table) => table.dropIndex([], name("tasks_parked")))
      .raw(
        `CREATE INDEX ${name("tasks_parked")} ON ${tasks} (need_key, priority DESC, urgent_at, seq) WHERE agent_id IS NULL AND finished_at IS NULL AND waits_for = 0 AND paused_at IS NULL AND auction_ends_at IS NULL`,
      )
      .alterTable(tasks, (table) => table.dropIndex([], name("tasks_live")))
      // With the cost, so that an agent's load is read from the index alone.
      .raw(
        `CREATE INDEX ${name("tasks_live")} ON ${tasks} (agent_id, seq, cost) WHERE agent_id IS NOT NULL AND finished_at IS NULL`,
      )
      .raw(
        `CREATE INDEX ${name("tasks_run_deadline")} ON ${tasks} (run_deadline_at) WHERE run_deadline_at IS NOT NULL AND finished_at IS NULL`,
      )
      .raw(
        `CREATE INDEX ${name("tasks_auction")} ON ${tasks} (auction_ends_at) WHERE auction_ends_at IS NOT NULL AND finished_at IS NULL`,
      )
      .raw(
        `CREATE INDEX ${name("tasks_parent")} ON ${tasks} (parent_task_id, seq) WHERE parent_task_id IS NOT NULL`,
      )
      .createTable(dependencies, (table) => {
        const columns = new Columns(table, context);
        columns.key("task_id").notNullable();
        columns.key("depends_on").notNullable();
        // What becomes of the task when the other one does not complete: "fail" or "run".
        columns.key("when_failed", 8).notNullable();
        table.primary(["task_id", "depends_on"], name("task_dependencies_pk"));
      })
      .raw(`CREATE INDEX ${name("task_dependencies_on")} ON ${dependencies} (depends_on, task_id)`)
      .createTable(inputs, (table) => {
        const columns = new Columns(table, context);
        columns.identity("seq");
        columns.key("input_id").notNullable();
        columns.key("task_id").notNullable();
        table.integer("assignment").notNullable();
        // "input" or "auth".
        columns.key("kind", 16).notNullable();
        columns.text("prompt").notNullable();
        columns.json("answer_schema");
        columns.key("asked_by").notNullable();
        columns.instant("asked_at").notNullable();
        columns.instant("due_at");
        columns.key("answered_by");
        columns.instant("answered_at");
        columns.json("answer");
      })
      .raw(`CREATE UNIQUE INDEX ${name("task_inputs_id")} ON ${inputs} (input_id)`)
      .raw(`CREATE INDEX ${name("task_inputs_task")} ON ${inputs} (task_id, seq)`)
      .raw(`CREATE INDEX ${name("task_inputs_open")} ON ${inputs} (seq) WHERE answered_at IS NULL`)
      .raw(
        `CREATE INDEX ${name("task_inputs_due")} ON ${inputs} (due_at) WHERE due_at IS NOT NULL AND answered_at IS NULL`,
      )
  );
}

export function down(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder {
  const { name } = context;
  const tasks = name("tasks");
  const columns = [
    "cost",
    "preferred_capabilities",
    "strategy",
    "parent_task_id",
    "requested_by",
    "waits_for",
    "paused_at",
    "urgent_at",
    "warnings",
    "run_timeout_ms",
    "run_deadline_at",
    "operation",
    "auction",
    "auction_ends_at",
  ];
  const indexes = [
    "tasks_parked",
    "tasks_live",
    "tasks_run_deadline",
    "tasks_auction",
    "tasks_parent",
  ];
  const without = indexes.reduce(
    (built, index) => built.alterTable(tasks, (table) => table.dropIndex([], name(index))),
    schema.dropTable(name("task_inputs")).dropTable(name("task_dependencies")),
  );
  return dropColumns(without, tasks, columns, context)
    .raw(
      `CREATE INDEX ${name("tasks_live")} ON ${tasks} (agent_id, seq) WHERE agent_id IS NOT NULL AND finished_at IS NULL`,
    )
    .raw(
      `CREATE INDEX ${name("tasks_parked")} ON ${tasks} (need_key, priority DESC, seq) WHERE agent_id IS NULL AND finished_at IS NULL`,
    );
}
