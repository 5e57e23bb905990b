import type { Knex } from "knex";
import { Columns, type MigrationContext, readable } from "./columns.ts";

/** What a message carries through its whole life, in the live table, the archive and the dead letters. */
function envelope(columns: Columns): void {
  columns.key("message_id").notNullable();
  columns.key("from_agent").notNullable();
  columns.key("to_agent").notNullable();
  columns.key("message_type").notNullable();
  columns.key("original_type");
  columns.key("kind", 16).notNullable();
  columns.json("content").notNullable();
  columns.json("headers");
  columns.key("correlation_id");
  columns.key("causation_id");
  columns.key("reply_to");
  columns.key("context_id");
  columns.key("task_id");
  columns.text("subject");
  columns.key("ordering_key");
  columns.key("dedupe_key", 255);
  columns.instant("created_at").notNullable();
  columns.instant("expires_at");
}

export function up(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder {
  const { name } = context;
  const messages = name("messages");
  const archive = name("archive");
  const dead = name("dead_letters");
  const dedupe = name("dedupe");

  const built = schema
    .createTable(messages, (table) => {
      const columns = new Columns(table, context);
      columns.identity("seq");
      envelope(columns);
      table.smallint("priority").notNullable();
      // 0 ready or leased, 1 scheduled, 2 blocked behind the head of its ordering key.
      // A lease is no state: it is a visible_at in the future together with a worker_id, so that claiming
      // changes no indexed column and an expired lease is claimable again without anyone's help.
      table.smallint("state").notNullable();
      columns.instant("visible_at").notNullable();
      // When a scheduled message becomes ready. A column of its own, because a claim moves visible_at: PostgreSQL
      // updates in place only what no index names, be it a partial one.
      columns.instant("due_at");
      columns.key("worker_id");
      // The fence. It grows with every claim and every release and is never set back, unlike the attempt.
      table.bigInteger("receipt").notNullable();
      table.integer("attempt").notNullable();
      table.integer("max_attempts").notNullable();
      columns.json("progress");
      columns.json("last_error");
      columns.instant("first_failed_at");
      table.integer("redriven").notNullable();
    })
    .raw(
      `CREATE INDEX ${name("messages_ready")} ON ${messages} (to_agent, priority DESC, seq) WHERE state = 0`,
    )
    .raw(`CREATE INDEX ${name("messages_due")} ON ${messages} (to_agent, due_at) WHERE state = 1`)
    .raw(
      `CREATE INDEX ${name("messages_expiry")} ON ${messages} (expires_at) WHERE expires_at IS NOT NULL`,
    )
    .raw(`CREATE INDEX ${name("messages_id")} ON ${messages} (message_id)`)
    .createTable(archive, (table) => {
      const columns = new Columns(table, context);
      table.bigInteger("seq").notNullable();
      table.primary(["seq"], name("archive_pk"));
      envelope(columns);
      table.smallint("priority").notNullable();
      // processed or cancelled
      columns.key("outcome", 16).notNullable();
      columns.key("worker_id");
      table.integer("attempt").notNullable();
      columns.instant("finished_at").notNullable();
    })
    .raw(`CREATE INDEX ${name("archive_id")} ON ${archive} (message_id)`)
    .raw(`CREATE INDEX ${name("archive_finished")} ON ${archive} (finished_at)`)
    .createTable(dead, (table) => {
      const columns = new Columns(table, context);
      table.bigInteger("seq").notNullable();
      table.primary(["seq"], name("dead_letters_pk"));
      envelope(columns);
      table.smallint("priority").notNullable();
      columns.key("reason", 32).notNullable();
      columns.json("last_error");
      columns.key("fingerprint", 64).notNullable();
      columns.key("worker_id");
      table.bigInteger("receipt").notNullable();
      table.integer("attempt").notNullable();
      table.integer("max_attempts").notNullable();
      columns.instant("first_failed_at");
      columns.instant("failed_at").notNullable();
      table.integer("redriven").notNullable();
    })
    .raw(`CREATE INDEX ${name("dead_letters_id")} ON ${dead} (message_id)`)
    .raw(`CREATE INDEX ${name("dead_letters_mailbox")} ON ${dead} (to_agent, seq)`)
    .raw(`CREATE INDEX ${name("dead_letters_failed")} ON ${dead} (failed_at)`)
    .createTable(dedupe, (table) => {
      const columns = new Columns(table, context);
      columns.key("dedupe_key", 400).notNullable();
      table.primary(["dedupe_key"], name("dedupe_pk"));
      columns.key("message_id").notNullable();
      columns.instant("expires_at").notNullable();
    })
    .raw(`CREATE INDEX ${name("dedupe_expiry")} ON ${dedupe} (expires_at)`)
    .createTable(name("mailboxes"), (table) => {
      const columns = new Columns(table, context);
      columns.key("agent_id").notNullable();
      table.primary(["agent_id"], name("mailboxes_pk"));
      columns.instant("paused_at");
      columns.text("pause_reason");
    });

  if (context.dialect === "postgres") {
    // Room on each page keeps a claim's new row version beside the old one (heap-only update: no index is
    // written); and the table is small and busy, so vacuum follows it closely rather than by its size.
    built.raw(
      `ALTER TABLE ${messages} SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000, toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 2000)`,
    );
  }
  if (context.dialect === "mssql") {
    // More than 5,000 row locks in one statement would become a table lock that stops every other claimer.
    for (const table of [messages, archive, dead, dedupe]) {
      built.raw(`ALTER TABLE ${table} SET (LOCK_ESCALATION = DISABLE)`);
    }
  }
  const times = (columns: readonly string[]) =>
    columns.map((column) => `${readable(column, context)} AS ${column}`).join(", ");
  return built
    .raw(
      `CREATE VIEW ${name("messages_readable")} AS SELECT seq, message_id, from_agent, to_agent, message_type, priority, CASE state WHEN 0 THEN CASE WHEN worker_id IS NULL THEN 'ready' ELSE 'leased' END WHEN 1 THEN 'scheduled' ELSE 'blocked' END AS state, attempt, max_attempts, worker_id, ${times(["created_at", "visible_at", "expires_at"])}, content FROM ${messages}`,
    )
    .raw(
      `CREATE VIEW ${name("dead_letters_readable")} AS SELECT seq, message_id, from_agent, to_agent, message_type, reason, attempt, ${times(["created_at", "first_failed_at", "failed_at"])}, last_error, content FROM ${dead}`,
    );
}

export function down(schema: Knex.SchemaBuilder, { name }: MigrationContext): Knex.SchemaBuilder {
  return schema
    .raw(`DROP VIEW ${name("dead_letters_readable")}`)
    .raw(`DROP VIEW ${name("messages_readable")}`)
    .dropTable(name("mailboxes"))
    .dropTable(name("dedupe"))
    .dropTable(name("dead_letters"))
    .dropTable(name("archive"))
    .dropTable(name("messages"));
}
