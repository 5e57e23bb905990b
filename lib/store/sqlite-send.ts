import type { Db, Dialect, NewHead, NewMessage } from "./dialect.ts";
import { GIVEN, list } from "./envelope-columns.ts";
import { HEAD, headBound, headsAsJson, insertOne, type PlainMessages } from "./plain-messages.ts";
import { quoted, rowsAsJson } from "./rows.ts";
import { query } from "./sql.ts";
import { direct } from "./sqlite-direct.ts";

/**
 * What comes before the length in an item's key: five digits of a place, and a one with nine of an offset, since SQLite
 * takes no value of a billion bytes. Small numbers become texts in a fraction of the time of large ones.
 */
const [PLACES, OFFSETS] = [10_000, 1_000_000_000];

/** Stores messages in their order; the stored text of a content is the sender's to the letter. */
export function sqliteInsert(
  prefix: string,
  now: string,
): Pick<Dialect, "insertMessages" | "insertPlain"> {
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
    SELECT j.value, CAST(substr(:contents, substr(j.key, 7, 9), substr(j.key, 16)) AS TEXT),
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

  return {
    async insertMessages(db: Db, rows: readonly NewMessage[]) {
      await query(db, INSERT, { items: rowsAsJson(rows, []) });
    },

    async insertPlain(db: Db, messages: PlainMessages) {
      if (messages.count === 1) {
        const { text, bindings } = one(messages);
        await direct(db, text, bindings);
        return;
      }
      const { heads } = messages;
      const bound = packed(messages);
      if (heads.length === 1) {
        await direct(db, SHARED, { ...headBound(heads[0] as NewHead), ...bound });
      } else {
        await direct(db, PLAIN, { ...bound, heads: headsAsJson(heads, false) });
      }
    },
  };
}

/** All contents, and for each message its place, offset and length in bytes with its id. */
function packed({ ids, contents: texts, places }: PlainMessages) {
  const lengths: number[] = [];
  const contents = inBytes(texts, lengths);
  let offset = 1;
  let items = "";
  for (let n = 0; n < ids.length; n++) {
    const length = lengths[n] as number;
    items += `${n === 0 ? "{" : ","}"${PLACES + (places[n] as number)}${OFFSETS + offset}${length}":${quoted(ids[n] as string)}`;
    offset += length;
  }
  return { items: `${items}}`, contents };
}

/** As long as the longest character: where one finds no room, more bytes than characters were written before. */
const SLACK = 4;

/** The contents, one after the other, and their lengths; most have a byte for each character. */
function inBytes(texts: readonly string[], lengths: number[]): Buffer {
  const characters = texts.reduce((sum, text) => sum + text.length, 0);
  const contents = Buffer.allocUnsafe(characters + SLACK);
  let end = 0;
  for (const text of texts) {
    const length = contents.write(text, end);
    lengths.push(length);
    end += length;
  }
  if (end === characters) return contents.subarray(0, end);
  for (const [n, text] of texts.entries()) lengths[n] = Buffer.byteLength(text);
  return Buffer.from(texts.join(""));
}
