import type { Db } from "./dialect.ts";
import { query, type Row } from "./sql.ts";

/** What a mailbox has processed: whose message, under which id. */
export interface Mark {
  readonly consumer: string;
  readonly from_agent: string;
  readonly message_id: string;
}

/** The inbox: what a consumer has processed, beyond the archive's end. */
export interface InboxStatements {
  /** Those of the marks that are there; what another's open transaction has written is not. */
  known(db: Db, marks: readonly Mark[]): Promise<Mark[]>;
  /**
   * Writes marks and returns those it wrote: the others were there. It waits for the end of another transaction
   * that wrote one of them, so that of two only one has it.
   */
  remember(trx: Db, marks: readonly Mark[]): Promise<Mark[]>;
}

const COLUMNS = ["consumer", "from_agent", "message_id"] as const;

/** Equal for the same marks: the lengths tell where each part ends. */
export function markName({ consumer, from_agent, message_id }: Mark): string {
  return `${consumer.length}:${consumer}:${from_agent.length}:${from_agent}:${message_id}`;
}

/** In the one order in which everybody writes them, each once. */
function itemsOf(marks: readonly Mark[]): string {
  const byName = new Map(marks.map((mark) => [markName(mark), mark]));
  const sorted = [...byName].sort(([a], [b]) => (a < b ? -1 : 1));
  return JSON.stringify(
    sorted.map(([, { consumer, from_agent, message_id }]) => ({
      consumer,
      from_agent,
      message_id,
    })),
  );
}

function statements(known: string, remember: string): InboxStatements {
  const run = async (db: Db, text: string, marks: readonly Mark[]): Promise<Mark[]> =>
    ((await query(db, text, { items: itemsOf(marks) })) as Row[]).map((row) => ({
      consumer: String(row.consumer),
      from_agent: String(row.from_agent),
      message_id: String(row.message_id),
    }));
  return {
    known: (db, marks) => run(db, known, marks),
    remember: (trx, marks) => run(trx, remember, marks),
  };
}

const list = (table: string) => COLUMNS.map((column) => `${table}.${column}`).join(", ");
const same = (collation: string) =>
  COLUMNS.map((column) => `i.${column} = j.${column}${collation}`).join(" AND ");

export function postgresInbox(prefix: string, now: string): InboxStatements {
  const inbox = `${prefix}inbox`;
  const items =
    "jsonb_to_recordset(CAST(:items AS jsonb)) AS j(consumer text, from_agent text, message_id text)";
  // LIMIT keeps the look-up a look-up per mark, whatever the statistics say of the table.
  const known = `
    SELECT ${list("j")} FROM ${items}
    CROSS JOIN LATERAL (SELECT 1 FROM ${inbox} i WHERE ${same("")} LIMIT 1) found`;
  const remember = `
    INSERT INTO ${inbox} (${COLUMNS.join(", ")}, processed_at)
    SELECT ${list("j")}, ${now} FROM ${items} ORDER BY 1, 2, 3
    ON CONFLICT DO NOTHING
    RETURNING ${COLUMNS.join(", ")}`;
  return statements(known, remember);
}

export function mssqlInbox(prefix: string, now: string): InboxStatements {
  const inbox = `${prefix}inbox`;
  const items = `OPENJSON(:items) WITH (consumer nvarchar(128) '$.consumer', from_agent nvarchar(128) '$.from_agent',
      message_id nvarchar(128) '$.message_id') j`;
  const equal = same(" COLLATE Latin1_General_100_BIN2");
  // Differs from PostgreSQL: READPAST, because a reader would wait for whoever is writing the same mark. A pooled
  // connection keeps the isolation level of the transaction before, and READPAST is refused under SERIALIZABLE.
  const known = `
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    SELECT ${list("i")} FROM ${items}
    INNER LOOP JOIN ${inbox} i WITH (READPAST, ROWLOCK, READCOMMITTEDLOCK) ON ${equal}`;
  // Differs from PostgreSQL: no ON CONFLICT. HOLDLOCK keeps the place of a missing mark, so that a second writer
  // of it waits for this transaction.
  const remember = `
    INSERT INTO ${inbox} (${COLUMNS.join(", ")}, processed_at)
    OUTPUT ${list("inserted")}
    SELECT ${list("j")}, ${now} FROM ${items}
    WHERE NOT EXISTS (SELECT 1 FROM ${inbox} i WITH (UPDLOCK, HOLDLOCK, ROWLOCK) WHERE ${equal})`;
  return statements(known, remember);
}

export function sqliteInbox(prefix: string, now: string): InboxStatements {
  const inbox = `${prefix}inbox`;
  const items = `(SELECT value ->> '$.consumer' AS consumer, value ->> '$.from_agent' AS from_agent,
      value ->> '$.message_id' AS message_id FROM json_each(:items)) j`;
  const known = `SELECT ${list("i")} FROM ${items} CROSS JOIN ${inbox} i ON ${same("")}`;
  const remember = `
    INSERT INTO ${inbox} (${COLUMNS.join(", ")}, processed_at)
    SELECT ${list("j")}, ${now} FROM ${items} WHERE true
    ON CONFLICT DO NOTHING
    RETURNING ${COLUMNS.join(", ")}`;
  return statements(known, remember);
}
