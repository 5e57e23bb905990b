import type { Knex } from "knex";
import { Columns, type MigrationContext } from "./columns.ts";

/**
 * Ordering and concurrency keys, limits and rates, fairness, delivery modes, breakers: what a mailbox can be told
 * beyond "highest priority first".
 */

/** Columns that the live table, the archive and the dead letters gain alike. */
const ENVELOPE = [
  "concurrency_key",
  "cost",
  "delivery",
  "retry",
  "hops",
  "trail",
  "content_encoding",
  "failures",
] as const;

type Define = (table: Knex.CreateTableBuilder, columns: Columns) => unknown;

const envelope: readonly Define[] = [
  (_, columns) => columns.key("concurrency_key"),
  // What it takes from a token bucket; null: 1.
  (table) => table.integer("cost"),
  // Null: at least once, the default.
  (_, columns) => columns.key("delivery", 16),
  // The message's own retry policy.
  (_, columns) => columns.json("retry"),
  (table) => table.integer("hops"),
  (_, columns) => columns.json("trail"),
  // Null: the content is the sender's. 'gzip', 'ref': it stands for it.
  (_, columns) => columns.key("content_encoding", 16),
  // The last failed runs, oldest first.
  (_, columns) => columns.json("failures"),
];

const mailbox: readonly Define[] = [
  (_, columns) => columns.json("retry"),
  // What a dead-lettered head does to its ordering key: null or 'skip' goes on, 'halt' waits for a person.
  (_, columns) => columns.key("on_dead_letter", 8),
  // How many messages of one concurrency key may be in flight; null: 1.
  (table) => table.integer("key_limit"),
  // Milliseconds of waiting that make up for one level (10) of priority; null: no aging.
  (_, columns) => columns.instant("aging_ms"),
  (table) => table.smallint("fair"),
  (table) => table.integer("max_depth"),
  // 1: claims of this mailbox go through the gate, which looks at limits and the breaker. 0: they do not, but due
  // messages of its concurrency keys must be promoted.
  (table) => table.smallint("gated"),
  (table) => table.integer("breaker_threshold"),
  (_, columns) => columns.instant("breaker_recovery_ms"),
  (_, columns) => columns.instant("breaker_window_ms"),
  (_, columns) => columns.key("breaker_when_open", 8),
  (_, columns) => columns.key("breaker_state", 12),
  (table) => table.integer("breaker_failures"),
  (_, columns) => columns.instant("breaker_since"),
  (_, columns) => columns.instant("breaker_until"),
];

const MAILBOX = [
  "retry",
  "on_dead_letter",
  "key_limit",
  "aging_ms",
  "fair",
  "max_depth",
  "gated",
  "breaker_threshold",
  "breaker_recovery_ms",
  "breaker_window_ms",
  "breaker_when_open",
  "breaker_state",
  "breaker_failures",
  "breaker_since",
  "breaker_until",
] as const;

export function up(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder {
  const { name } = context;
  const messages = name("messages");
  // One column each: what speaks SQL Server's protocol need not take several at once.
  const add = (base: string, definitions: readonly Define[]) => {
    for (const define of definitions) {
      schema.alterTable(name(base), (table) => void define(table, new Columns(table, context)));
    }
  };
  add("messages", envelope);
  add("archive", envelope);
  add("dead_letters", envelope);
  add("mailboxes", mailbox);
  add("messages", [
    // The order within the mailbox, ascending. Plainly 100 - priority; with aging or fair turns a time or a turn,
    // so that both are an order of the index and cost a claim nothing.
    (table) =>
      table
        .bigInteger("rank")
        .notNullable()
        .defaultTo(80, { constraintName: name("messages_rank_default") }),
    // Messages of a type that has a limit wait in a lane of their own, so that a claim need not walk past them.
    (_, columns) =>
      columns
        .key("lane")
        .notNullable()
        .defaultTo("", { constraintName: name("messages_lane_default") }),
  ]);
  const built = schema
    .raw(`UPDATE ${messages} SET rank = 100 - priority`)
    .alterTable(messages, (table) => table.dropIndex([], name("messages_ready")))
    .raw(
      `CREATE INDEX ${name("messages_ready")} ON ${messages} (to_agent, lane, rank, seq) WHERE state = 0`,
    )
    .raw(
      `CREATE INDEX ${name("messages_order")} ON ${messages} (to_agent, ordering_key, seq) WHERE ordering_key IS NOT NULL`,
    )
    .raw(
      `CREATE INDEX ${name("messages_share")} ON ${messages} (to_agent, concurrency_key, state, rank, seq) WHERE concurrency_key IS NOT NULL`,
    )
    // One row per key with live messages; its lock makes senders and finishers of the key take turns.
    .createTable(name("keys"), (table) => {
      const columns = new Columns(table, context);
      columns.key("to_agent").notNullable();
      // order, share (of a concurrency key) or turn (of a context)
      columns.key("kind", 8).notNullable();
      columns.key("name").notNullable();
      table.primary(["to_agent", "kind", "name"], name("keys_pk"));
      // The sequence of the dead letter that halts it, and when.
      table.bigInteger("halted_by");
      columns.instant("halted_at");
      // The last turn that was given out, where turns are fair.
      table.bigInteger("last_rank");
    })
    .raw(
      `CREATE INDEX ${name("keys_halted")} ON ${name("keys")} (halted_by) WHERE halted_by IS NOT NULL`,
    )
    .createTable(name("limits"), (table) => {
      const columns = new Columns(table, context);
      columns.key("name").notNullable();
      table.primary(["name"], name("limits_pk"));
      // Null: every mailbox, every type.
      columns.key("agent_id");
      columns.key("message_type");
      table.integer("max_in_flight");
      table.double("bucket_size");
      table.double("refill");
      columns.instant("refill_ms");
      table.double("tokens");
      columns.instant("refilled_at");
      columns.instant("parked_until");
      // Its lane is emptied before the row goes.
      columns.instant("removed_at");
    })
    // Who is in flight under a limit. A row counts while its message bears the receipt and its lease lasts, so
    // that settling needs not know of limits.
    .createTable(name("slots"), (table) => {
      const columns = new Columns(table, context);
      columns.key("name", 300).notNullable();
      table.bigInteger("seq").notNullable();
      table.primary(["name", "seq"], name("slots_pk"));
      table.bigInteger("receipt").notNullable();
    })
    .createTable(name("inbox"), (table) => {
      const columns = new Columns(table, context);
      columns.key("consumer").notNullable();
      columns.key("from_agent").notNullable();
      columns.key("message_id").notNullable();
      table.primary(["consumer", "from_agent", "message_id"], name("inbox_pk"));
      columns.instant("processed_at").notNullable();
    })
    .raw(`CREATE INDEX ${name("inbox_processed")} ON ${name("inbox")} (processed_at)`)
    .createTable(name("conversations"), (table) => {
      const columns = new Columns(table, context);
      columns.key("context_id").notNullable();
      table.primary(["context_id"], name("conversations_pk"));
      table.bigInteger("messages").notNullable();
      columns.instant("updated_at").notNullable();
    })
    .raw(`CREATE INDEX ${name("conversations_updated")} ON ${name("conversations")} (updated_at)`)
    // Who polls which mailbox, for the answer to "why is this not delivered".
    .createTable(name("consumers"), (table) => {
      const columns = new Columns(table, context);
      columns.key("agent_id").notNullable();
      columns.key("worker_id").notNullable();
      table.primary(["agent_id", "worker_id"], name("consumers_pk"));
      columns.json("message_types");
      columns.instant("seen_at").notNullable();
    })
    .raw(`CREATE INDEX ${name("consumers_seen")} ON ${name("consumers")} (seen_at)`);

  if (context.dialect === "mssql") {
    for (const table of ["keys", "limits", "slots", "inbox", "conversations", "consumers"]) {
      built.raw(`ALTER TABLE ${name(table)} SET (LOCK_ESCALATION = DISABLE)`);
    }
  }
  return built;
}

export function down(schema: Knex.SchemaBuilder, context: MigrationContext): Knex.SchemaBuilder {
  const { name } = context;
  const messages = name("messages");
  for (const table of ["consumers", "conversations", "inbox", "slots", "limits", "keys"]) {
    schema.dropTable(name(table));
  }
  // What waits behind a key's head would wait for ever without the key.
  schema
    .raw(`UPDATE ${messages} SET state = 0 WHERE state = 2`)
    .alterTable(messages, (table) => {
      table.dropIndex([], name("messages_share"));
      table.dropIndex([], name("messages_order"));
      table.dropIndex([], name("messages_ready"));
    })
    .raw(
      `CREATE INDEX ${name("messages_ready")} ON ${messages} (to_agent, priority DESC, seq) WHERE state = 0`,
    );
  if (context.dialect === "mssql") {
    for (const column of ["rank", "lane"]) {
      schema.raw(
        `ALTER TABLE ${messages} DROP CONSTRAINT IF EXISTS ${name(`messages_${column}_default`)}`,
      );
    }
  }
  const drop = (table: string, columns: readonly string[]) => {
    for (const column of columns) schema.raw(`ALTER TABLE ${table} DROP COLUMN ${column}`);
  };
  drop(messages, [...ENVELOPE, "rank", "lane"]);
  drop(name("archive"), ENVELOPE);
  drop(name("dead_letters"), ENVELOPE);
  drop(name("mailboxes"), MAILBOX);
  return schema;
}
