import type { Db, Dialect, NewMessage } from "./dialect.ts";
import { GIVEN, list } from "./envelope-columns.ts";
import { HEAD, headBound, headsAsJson, insertOne, isPlain, plainOf } from "./plain-messages.ts";
import { rowsAsJson } from "./rows.ts";
import { query } from "./sql.ts";

/** What comes before the length in an item's key: five digits of a place, ten of an offset. */
const [PLACES, OFFSETS] = [10_000, 1e10];

/** Stores messages in their order; the stored text of a content is the sender's to the letter. */
export function sqliteInsert(prefix: string, now: string): Dialect["insertMessages"] {
  const messages = `${prefix}messages`;
  const given = GIVEN.map((column) => `value ->> '$.${column}'`).join(", ");

  const INSERT = `
    INSERT INTO ${messages} (${list(GIVEN)}, created_at, expires_at, state, visible_at, due_at, receipt, attempt, max_attempts, redriven, lane, rank)
    SELECT ${given}, now, coalesce(value ->> '$.expires_at', visible_at + (value ->> '$.ttl_ms')), state, visible_at,
           CASE WHEN state = 1 THEN visible_at END, 0, 0, value ->> '$.max_attempts', 0, coalesce(value ->> '$.lane', ''),
           coalesce(value ->> '$.rank', CASE WHEN value ->> '$.aging_ms' IS NULL THEN 100 - (value ->> '$.priority')
                                             ELSE visible_at - (value ->> '$.priority') * (value ->> '$.aging_ms') / 10 END)
    FROM (SELECT key, value, now, visible_at,
                 CASE WHEN value ->> '$.ordering_key' IS NOT NULL THEN 2
                      WHEN visible_at > now THEN 1
                      WHEN value ->> '$.concurrency_key' IS NOT NULL THEN 2 ELSE 0 END AS state
          FROM (SELECT key, value, ${now} AS now,
                       coalesce(value ->> '$.available_at', ${now} + coalesce(value ->> '$.delay_ms', 0)) AS visible_at
                FROM json_each(:items)))
    ORDER BY key`;

  const one = insertOne(messages, now);

  // For messages that say nothing but themselves. Their contents come one after the other as bytes: a document would
  // be read, and each content written again, to end as the text that it was.
  const plain = (head: (column: string) => string, from: string) => `
    INSERT INTO ${messages} (message_id, content, ${list(HEAD)}, created_at, state, visible_at, receipt, attempt, redriven, rank)
    SELECT j.value, CAST(substr(:contents, substr(j.key, 6, 10), substr(j.key, 16)) AS TEXT),
           ${HEAD.map(head).join(", ")}, ${now}, 0, ${now}, 0, 0, 0, 100 - ${head("priority")}
    ${from}`;
  const SHARED = plain((column) => `:${column}`, "FROM json_each(:items) j");
  // CROSS JOIN keeps the order of the items (https://www.sqlite.org/optoverview.html#crossjoin).
  const PLAIN = plain(
    (column) => `h.${column}`,
    `FROM json_each(:items) j
    CROSS JOIN (SELECT key AS n, ${HEAD.map((column) => `value ->> '$.${column}' AS ${column}`).join(", ")} FROM json_each(:heads)) h
    WHERE h.n = CAST(substr(j.key, 1, 5) AS INTEGER) - ${PLACES}`,
  );

  return async (db: Db, rows: readonly NewMessage[]) => {
    if (!rows.every(isPlain)) {
      await query(db, INSERT, { items: rowsAsJson(rows, []) });
      return;
    }
    const [lone] = rows;
    if (lone !== undefined && rows.length === 1) {
      const { text, bindings } = one(lone);
      await query(db, text, bindings);
      return;
    }
    const { heads, places } = plainOf(rows);
    const { items, contents } = packed(rows, places);
    const bound = { items, contents };
    const [head] = heads;
    if (head !== undefined && heads.length === 1) {
      await query(db, SHARED, { ...headBound(head), ...bound });
    } else {
      await query(db, PLAIN, { ...bound, heads: headsAsJson(heads, false) });
    }
  };
}

/** All contents, and for each message its place, offset and length in bytes with its id. */
function packed(rows: readonly NewMessage[], places: readonly number[]) {
  const lengths: number[] = [];
  const contents = inBytes(rows, lengths);
  let offset = 1;
  const items = rows.map(({ message_id }, n) => {
    const length = lengths[n] as number;
    const key = (PLACES + (places[n] ?? 0)) * OFFSETS + offset;
    offset += length;
    return `"${key}${length}":${JSON.stringify(message_id)}`;
  });
  return { items: `{${items.join()}}`, contents };
}

/** As long as the longest character: where one finds no room, more bytes than characters were written before. */
const SLACK = 4;

/** The contents, one after the other, and their lengths; most have a byte for each character. */
function inBytes(rows: readonly NewMessage[], lengths: number[]): Buffer {
  const characters = rows.reduce((sum, { content }) => sum + content.length, 0);
  const contents = Buffer.allocUnsafe(characters + SLACK);
  let end = 0;
  for (const { content } of rows) {
    const length = contents.write(content, end);
    lengths.push(length);
    end += length;
  }
  if (end === characters) return contents.subarray(0, end);
  for (const [n, { content }] of rows.entries()) lengths[n] = Buffer.byteLength(content);
  return Buffer.from(rows.map(({ content }) => content).join(""));
}
