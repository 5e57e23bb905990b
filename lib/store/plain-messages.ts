import type { NewHead, NewMessage } from "./dialect.ts";
import { DOCUMENTS, GIVEN } from "./envelope-columns.ts";
import type { Bindings } from "./sql.ts";

/** What decides where a message waits, or is worked out by the database's clock; few messages say any of it. */
const RARE = [
  ...["ordering_key", "concurrency_key", "lane", "rank", "aging_ms"],
  ...["delay_ms", "available_at", "ttl_ms", "expires_at"],
] as const satisfies readonly (keyof NewHead)[];

/** What each message has for itself. */
export const OWN = ["message_id", "content"] as const satisfies readonly (keyof NewMessage)[];

/** What the plain messages of one batch mostly share. */
export const HEAD = [
  ...GIVEN.filter((column) => ![...RARE, ...OWN, "content_encoding"].includes(column as never)),
  "max_attempts",
] as (keyof NewHead)[];

/** Whether messages under this head say nothing but themselves, as most do. */
export function isPlain(head: NewHead): boolean {
  for (const field of RARE) {
    const value = head[field];
    if (value !== null && value !== undefined) return false;
  }
  return true;
}

/**
 * Messages that say nothing but themselves, in columns, and apart from them what they share: a database reads a field
 * of a document for each message, and a batch has mostly one sender, one mailbox and one type. Halves the cost of a
 * batch on PostgreSQL and SQLite.
 */
export class PlainMessages {
  readonly ids: string[] = [];
  /** JSON texts. */
  readonly contents: string[] = [];
  /** Each different head once. */
  readonly heads: NewHead[] = [];
  /** For each message the place of its head. */
  readonly places: number[] = [];
  readonly #byText = new Map<string, number>();
  #last: NewHead | undefined;
  #place = 0;

  get count(): number {
    return this.ids.length;
  }

  add(head: NewHead, id: string, content: string): void {
    if (head !== this.#last) this.#place = this.#placeOf(head);
    this.#last = head;
    this.ids.push(id);
    this.contents.push(content);
    this.places.push(this.#place);
  }

  #placeOf(head: NewHead): number {
    if (this.#last !== undefined && alike(this.#last, head)) return this.#place;
    const text = JSON.stringify(HEAD.map((field) => head[field]));
    const known = this.#byText.get(text);
    if (known !== undefined) return known;
    const place = this.heads.push(head) - 1;
    this.#byText.set(text, place);
    return place;
  }
}

function alike(one: NewHead, other: NewHead): boolean {
  for (const field of HEAD) if (one[field] !== other[field]) return false;
  return true;
}

/** Rows in columns, if all of them are plain. */
export function plainOf(rows: readonly NewMessage[]): PlainMessages | undefined {
  const plain = new PlainMessages();
  for (const row of rows) {
    if (row.content_encoding !== null || !isPlain(row)) return undefined;
    plain.add(row, row.message_id, row.content);
  }
  return plain;
}

/** As rows again, where a database has no better way for them. */
export function rowsOfPlain({ ids, contents, heads, places }: PlainMessages): NewMessage[] {
  return ids.map((message_id, n) => ({
    ...(heads[places[n] as number] as NewHead),
    ...{ message_id, content: contents[n] as string, content_encoding: null },
  }));
}

/** What a plain message may have or not. */
const OPTIONAL = [
  ...["original_type", "headers", "correlation_id", "causation_id", "reply_to", "context_id"],
  ...["task_id", "subject", "dedupe_key", "cost", "delivery", "retry", "hops", "trail"],
] as readonly (keyof NewHead)[];
const ALWAYS = HEAD.filter((column) => !OPTIONAL.includes(column));
const ALL_OPTIONAL = 2 ** OPTIONAL.length - 1;
/** Messages are alike: more different texts than this are not kept. */
const MOST_TEXTS = 64;

/**
 * One plain message by itself, as most are sent: there is nothing to be read out of a document, and a column without a
 * value is not named, because a server plans an insertion anew each time. `redriven` is SQL for that column.
 */
export function insertOne(
  table: string,
  now: string,
  redriven = "0",
): (message: PlainMessages) => { text: string; bindings: Bindings } {
  const known = new Map<number, { text: string; columns: readonly (keyof NewHead)[] }>();
  const make = (has: number) => {
    const columns = [...ALWAYS, ...OPTIONAL.filter((_, n) => (has & (1 << n)) !== 0)];
    const named = [...OWN, ...columns];
    const text = `
    INSERT INTO ${table} (${named.join(", ")}, created_at, state, visible_at, receipt, attempt, redriven, lane, rank)
    VALUES (${named.map((column) => `:${column}`).join(", ")}, ${now}, 0, ${now}, 0, 0, ${redriven}, '', 100 - CAST(:priority AS int))`;
    known.set(has, { text, columns });
    return { text, columns };
  };
  return ({ ids, contents, heads }) => {
    const head = heads[0] as NewHead;
    let has = 0;
    for (let n = 0; n < OPTIONAL.length; n++) {
      if (head[OPTIONAL[n] as keyof NewHead] !== null) has |= 1 << n;
    }
    const { text, columns } = known.get(has) ?? make(known.size < MOST_TEXTS ? has : ALL_OPTIONAL);
    const bindings: Bindings = { message_id: ids[0] as string, content: contents[0] as string };
    for (const column of columns) bindings[column] = head[column];
    return { text, bindings };
  };
}

/** The head of each message as one JSON parameter, or some fields of it; `n` is its place. */
export function headsAsJson(
  heads: readonly NewHead[],
  raw: boolean,
  wanted: readonly (keyof NewMessage)[] = HEAD,
): string {
  const items = heads.map((head, n) => {
    const fields = wanted.flatMap((field) => {
      const value = (head as Partial<NewMessage>)[field];
      if (value === null || value === undefined) return [];
      const written = raw && (DOCUMENTS as readonly string[]).includes(field);
      return [`"${field}":${written ? value : JSON.stringify(value)}`];
    });
    return `{${[`"n":${n}`, ...fields].join()}}`;
  });
  return `[${items.join()}]`;
}
