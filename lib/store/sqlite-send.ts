import type { Db, Dialect, NewMessage } from "./dialect.ts";
import { GIVEN, list } from "./envelope-columns.ts";
import { HEAD, headsAsJson, insertOne, OWN, type PlainMessages } from "./plain-messages.ts";
import { quoted, rowsAsJson } from "./rows.ts";
import { type Bindings, query } from "./sql.ts";
import { direct } from "./sqlite-direct.ts";

/**
 * What comes before the length in an item's key: five digits of a place, and a one with nine of an offset, since SQLite
 * takes no value of a billion bytes. Small numbers become texts in a fraction of the time of large ones.
 */
const [PLACES, OFFSETS] = [10_000, 1_000_000_000];

/** Batches are alike: where they differ in more ways than this, the next ones are read field by field. */
const MOST_TEXTS = 64;

type Field = keyof NewMessage;

/** Of messages, or of heads that they share. */
type Item = Partial<NewMessage>;

/** Whole numbers, which the driver binds as others where they are large. */
const NUMBERS: readonly Field[] = [
  ...(["delay_ms", "available_at", "ttl_ms", "expires_at", "rank", "aging_ms"] as const),
];

/** All that a message says. */
const FIELDS = [...new Set([...GIVEN, ...NUMBERS, "max_attempts", "lane"])] as readonly Field[];

/** Stores messages in their order; the stored text of a content is the sender's to the letter. */
export function sqliteInsert(
  prefix: string,
  now: string,
): Pick<Dialect, "insertMessages" | "insertPlain"> {
  const messages = `${prefix}messages`;

  // What all messages of a batch have alike is bound, nearly always most of it: a field of a document is dear to read.
  const insert = textsOf((differing) => {
    const field = (name: Field) => {
      if (differing.includes(name)) return `(value ->> '$.${name}')`;
      return NUMBERS.includes(name) ? `CAST(:${name} AS INTEGER)` : `:${name}`;
    };
    return `
    INSERT INTO ${messages} (${list(GIVEN)}, created_at, expires_at, state, visible_at, due_at, receipt, attempt, max_attempts, redriven, lane, rank)
    SELECT ${(GIVEN as Field[]).map(field).join(", ")}, now, coalesce(${field("expires_at")}, visible_at + ${field("ttl_ms")}),
           state, visible_at, CASE WHEN state = 1 THEN visible_at END, 0, 0, ${field("max_attempts")}, 0,
           coalesce(${field("lane")}, ''),
           coalesce(${field("rank")}, CASE WHEN ${field("aging_ms")} IS NULL THEN 100 - ${field("priority")}
                                           ELSE visible_at - ${field("priority")} * ${field("aging_ms")} / 10 END)
    FROM (SELECT key, value, now, visible_at,
                 CASE WHEN ${field("ordering_key")} IS NOT NULL THEN 2
                      WHEN visible_at > now THEN 1
                      WHEN ${field("concurrency_key")} IS NOT NULL THEN 2 ELSE 0 END AS state
          FROM (SELECT key, value, ${now} AS now,
                       coalesce(${field("available_at")}, ${now} + coalesce(${field("delay_ms")}, 0)) AS visible_at
                FROM json_each(:items)))
    ORDER BY key`;
  });

  const one = insertOne(messages, now);

  // For messages that say nothing but themselves. Their contents come one after the other as bytes: a document would
  // be read, and each content written again, to end as the text that it was. What all of them share is bound, and the
  // fields in which their heads differ are read once for each head: a table made beforehand is looked up by an index,
  // json_each is read from its beginning for every message. CROSS JOIN keeps the order of the items
  // (https://www.sqlite.org/optoverview.html#crossjoin).
  const plain = textsOf((differing) => {
    const head = (field: Field) => (differing.includes(field) ? `h.${field}` : `:${field}`);
    const fields = differing.map((field) => `value ->> '$.${field}' AS ${field}`);
    const shared = differing.length === 0;
    return `
    ${shared ? "" : `WITH h AS MATERIALIZED (SELECT key AS n, ${fields.join(", ")} FROM json_each(:heads))`}
    INSERT INTO ${messages} (message_id, content, ${list(HEAD)}, created_at, state, visible_at, receipt, attempt, redriven, rank)
    SELECT j.value, CAST(substr(:contents, substr(j.key, 7, 9), substr(j.key, 16)) AS TEXT),
           ${HEAD.map(head).join(", ")}, ${now}, 0, ${now}, 0, 0, 0, 100 - ${head("priority")}
    FROM json_each(:items) j
    ${shared ? "" : `CROSS JOIN h WHERE h.n = CAST(substr(j.key, 1, 5) AS INTEGER) - ${PLACES}`}`;
  });

  return {
    async insertMessages(db: Db, rows: readonly NewMessage[]) {
      const { text, differing } = insert(rows, FIELDS, OWN);
      await query(db, text, {
        ...boundOnce(rows[0], FIELDS, differing),
        items: rowsAsJson(rows, [], differing),
      });
    },

    async insertPlain(db: Db, messages: PlainMessages) {
      if (messages.count === 1) {
        const { text, bindings } = one(messages);
        await direct(db, text, bindings);
        return;
      }
      const { heads } = messages;
      const { text, differing } = plain(heads, HEAD);
      await direct(db, text, {
        ...boundOnce(heads[0], HEAD, differing),
        ...packed(messages),
        ...(differing.length === 0 ? {} : { heads: headsAsJson(heads, false, differing) }),
      });
    },
  };
}

/** Texts by the fields in which the items of a batch differ. */
function textsOf(make: (differing: readonly Field[]) => string) {
  const texts = new Map<string, string>();
  return (
    [first, ...others]: readonly Item[],
    fields: readonly Field[],
    always: readonly Field[] = [],
  ): { text: string; differing: readonly Field[] } => {
    const found = fields.filter(
      (field) => always.includes(field) || others.some((other) => other[field] !== first?.[field]),
    );
    const kept = texts.has(found.join()) || texts.size < MOST_TEXTS;
    const differing = kept ? found : fields;
    const text = texts.get(differing.join()) ?? make(differing);
    texts.set(differing.join(), text);
    return { text, differing };
  };
}

/** What is alike in all items of a batch, each field by its name. */
function boundOnce(
  item: Item | undefined,
  fields: readonly Field[],
  differing: readonly Field[],
): Bindings {
  const shared = fields.filter((field) => !differing.includes(field));
  return Object.fromEntries(shared.map((field) => [field, item?.[field] ?? null]));
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
