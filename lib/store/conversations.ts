import type { Db } from "./dialect.ts";
import { int, query } from "./sql.ts";

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

/** One statement takes at most this many. */
const STEP = 500;

const inOrder = (more: readonly More[]) =>
  [...more].sort((a, b) => (a.context_id < b.context_id ? -1 : 1));

function upserting(text: string): ConversationStatements {
  return {
    async count(trx, more) {
      const sorted = inOrder(more);
      const counts = new Map<string, number>();
      for (let n = 0; n < sorted.length; n += STEP) {
        const items = JSON.stringify(sorted.slice(n, n + STEP));
        for (const row of await query(trx, text, { items })) {
          counts.set(String(row.context_id), int(row.messages));
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
  return upserting(UPSERT(`${prefix}conversations`, now, items));
}

export function mssqlConversations(prefix: string, now: string): ConversationStatements {
  const table = `${prefix}conversations`;
  // Differs from PostgreSQL: no ON CONFLICT, and one after the other, so that they are locked in their order. HOLDLOCK
  // keeps the place of a missing row, so that the insert after it finds what it found.
  const add = `
    UPDATE ${table} WITH (UPDLOCK, HOLDLOCK, ROWLOCK) SET messages = messages + :n, updated_at = ${now}
    WHERE context_id = :context;
    DECLARE @found int = @@ROWCOUNT;
    SELECT messages FROM ${table} WHERE context_id = :context AND @found > 0`;
  const begin = `
    INSERT INTO ${table} (context_id, messages, updated_at)
    OUTPUT inserted.messages
    SELECT :context, :n, ${now}
    WHERE NOT EXISTS (SELECT 1 FROM ${table} WITH (UPDLOCK, HOLDLOCK, ROWLOCK) WHERE context_id = :context)`;
  return {
    async count(trx, more) {
      const counts = new Map<string, number>();
      for (const { context_id: context, n } of inOrder(more)) {
        // The last one for servers that keep no place: another sender began the conversation in between.
        for (const text of [add, begin, add]) {
          const [row] = await query(trx, text, { context, n });
          if (row === undefined) continue;
          counts.set(context, int(row.messages));
          break;
        }
      }
      return counts;
    },
  };
}

export function sqliteConversations(prefix: string, now: string): ConversationStatements {
  const items =
    "(SELECT value ->> '$.context_id' AS context_id, value ->> '$.n' AS n FROM json_each(:items)) j WHERE true";
  return upserting(UPSERT(`${prefix}conversations`, now, items));
}
