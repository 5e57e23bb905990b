import type { Db } from "./dialect.ts";
import { int, query, type Row } from "./sql.ts";

/** How many more messages a conversation has got. */
export interface More {
  readonly context_id: string;
  readonly n: number;
}

/** How many messages were sent in a conversation, over all mailboxes. */
export interface ConversationStatements {
  /**
   * Adds to the counts and returns what they are then. Each row stays locked until the transaction ends, so that
   * two senders of one conversation never both take its last place: they take turns, in the order of the ids.
   */
  count(trx: Db, more: readonly More[]): Promise<ReadonlyMap<string, number>>;
}

/** One statement takes at most this many; on SQL Server more would lock the whole table. */
const STEP = 500;

/** Statements that together touch each row once and return it. */
function statements(...texts: readonly string[]): ConversationStatements {
  return {
    async count(trx, more) {
      const sorted = [...more].sort((a, b) => (a.context_id < b.context_id ? -1 : 1));
      const counts = new Map<string, number>();
      for (let n = 0; n < sorted.length; n += STEP) {
        let left: readonly More[] = sorted.slice(n, n + STEP);
        for (const text of texts) {
          if (left.length === 0) break;
          const rows = (await query(trx, text, { items: JSON.stringify(left) })) as Row[];
          for (const row of rows) counts.set(String(row.context_id), int(row.messages));
          left = left.filter(({ context_id }) => !counts.has(context_id));
        }
      }
      return counts;
    },
  };
}

const UPSERT = (table: string, now: string, items: string) => `
    INSERT INTO ${table} AS c (context_id, messages, updated_at)
    SELECT j.context_id, j.n, ${now} FROM ${items}
    ON CONFLICT (context_id) DO UPDATE SET messages = c.messages + excluded.messages, updated_at = excluded.updated_at
    RETURNING context_id, messages`;

export function postgresConversations(prefix: string, now: string): ConversationStatements {
  const items =
    "jsonb_to_recordset(CAST(:items AS jsonb)) AS j(context_id text, n bigint) ORDER BY j.context_id";
  return statements(UPSERT(`${prefix}conversations`, now, items));
}

export function mssqlConversations(prefix: string, now: string): ConversationStatements {
  const table = `${prefix}conversations`;
  const items = "OPENJSON(:items) WITH (context_id nvarchar(128) '$.context_id', n bigint '$.n') j";
  const same = "c.context_id = j.context_id COLLATE Latin1_General_100_BIN2";
  // Differs from PostgreSQL: no ON CONFLICT. HOLDLOCK keeps the place of a missing row, so that the insert after it
  // finds what it found; both are in one transaction. A comma join, as in the other updates.
  const update = `
    UPDATE c SET messages = c.messages + j.n, updated_at = ${now}
    OUTPUT inserted.context_id, inserted.messages
    FROM ${table} c WITH (UPDLOCK, HOLDLOCK, ROWLOCK), ${items}
    WHERE ${same}
    OPTION (LOOP JOIN)`;
  const insert = `
    INSERT INTO ${table} (context_id, messages, updated_at)
    OUTPUT inserted.context_id, inserted.messages
    SELECT j.context_id, j.n, ${now} FROM ${items}
    WHERE NOT EXISTS (SELECT 1 FROM ${table} c WITH (UPDLOCK, HOLDLOCK, ROWLOCK) WHERE ${same})`;
  return statements(update, insert);
}

export function sqliteConversations(prefix: string, now: string): ConversationStatements {
  const items =
    "(SELECT value ->> '$.context_id' AS context_id, value ->> '$.n' AS n FROM json_each(:items)) j WHERE true";
  return statements(UPSERT(`${prefix}conversations`, now, items));
}
