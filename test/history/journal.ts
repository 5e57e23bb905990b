import type { Knex } from "knex";
import { number, text } from "./final-state.ts";
import type { Change, Hold } from "./types.ts";

/**
 * Makes the database keep a journal of every change of a live message, by triggers. Not on SQL Server, where a
 * table with triggers refuses OUTPUT without INTO.
 */
export async function createJournal(knex: Knex): Promise<boolean> {
  const dialect = knex.client.dialect as string;
  if (dialect !== "postgresql" && dialect !== "sqlite3") return false;
  await knex.schema.createTable("history_journal", (table) => {
    table.bigIncrements("id");
    for (const column of INTEGERS) table.bigInteger(column);
    for (const column of TEXTS) table.string(column, 128);
  });
  for (const statement of dialect === "sqlite3" ? sqlite() : postgres()) await knex.raw(statement);
  return true;
}

/** Empty where the database keeps none. */
export async function readJournal(knex: Knex): Promise<Change[]> {
  if (!(await knex.schema.hasTable("history_journal"))) return [];
  const rows = (await knex("history_journal").select("*").orderBy("id")) as Record<
    string,
    unknown
  >[];
  const hold = (row: Record<string, unknown>, when: "old" | "new"): Hold | null =>
    row[`${when}_receipt`] === null
      ? null
      : {
          receipt: Number(row[`${when}_receipt`]),
          worker: text(row[`${when}_worker`]),
          visibleAt: Number(row[`${when}_visible`]),
          attempt: Number(row[`${when}_attempt`]),
        };
  return rows.map((row) => ({
    id: Number(row.id),
    now: Number(row.now_ms),
    seq: Number(row.seq),
    messageId: String(row.message_id),
    mailbox: String(row.mailbox),
    messageType: String(row.message_type),
    orderingKey: text(row.ordering_key),
    concurrencyKey: text(row.concurrency_key),
    cost: number(row.cost) ?? 1,
    maxAttempts: Number(row.max_attempts),
    expiresAt: number(row.expires_at),
    before: hold(row, "old"),
    after: hold(row, "new"),
  }));
}

const MESSAGE = {
  seq: "seq",
  message_id: "message_id",
  mailbox: "to_agent",
  message_type: "message_type",
  ordering_key: "ordering_key",
  concurrency_key: "concurrency_key",
  cost: "cost",
  max_attempts: "max_attempts",
  expires_at: "expires_at",
};
const HOLD = { receipt: "receipt", worker: "worker_id", visible: "visible_at", attempt: "attempt" };

const INTEGERS = [
  ...["now_ms", "seq", "cost", "max_attempts", "expires_at"],
  ...["old_receipt", "old_visible", "old_attempt", "new_receipt", "new_visible", "new_attempt"],
];
const TEXTS = [
  ...["message_id", "mailbox", "message_type", "ordering_key", "concurrency_key"],
  ...["old_worker", "new_worker"],
];

/** The INSERT of one event; which of `old` and `new` there are depends on it. */
function insert(event: "INSERT" | "UPDATE" | "DELETE", now: string): string {
  const row = event === "DELETE" ? "OLD" : "NEW";
  const hold = (when: "old" | "new", there: boolean) =>
    there
      ? Object.entries(HOLD).map(([name, column]) => [`${when}_${name}`, `${when}.${column}`])
      : [];
  const pairs = [
    ["now_ms", now],
    ...Object.entries(MESSAGE).map(([name, column]) => [name, `${row}.${column}`]),
    ...hold("old", event !== "INSERT"),
    ...hold("new", event !== "DELETE"),
  ];
  const columns = pairs.map(([name]) => name).join(", ");
  const values = pairs.map(([, value]) => value).join(", ");
  return `INSERT INTO history_journal (${columns}) VALUES (${values});`;
}

const EVENTS = ["INSERT", "UPDATE", "DELETE"] as const;

function sqlite(): string[] {
  const now = "CAST(round(unixepoch('subsec') * 1000) AS INTEGER)";
  return EVENTS.map(
    (event) =>
      `CREATE TRIGGER history_${event} AFTER ${event} ON outbox_messages BEGIN ${insert(event, now)} END`,
  );
}

function postgres(): string[] {
  const now = "floor(extract(epoch FROM statement_timestamp()) * 1000)";
  return EVENTS.flatMap((event) => [
    `CREATE FUNCTION history_${event}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ${insert(event, now)} RETURN NULL; END $$`,
    `CREATE TRIGGER history_${event} AFTER ${event} ON outbox_messages FOR EACH ROW EXECUTE FUNCTION history_${event}()`,
  ]);
}
