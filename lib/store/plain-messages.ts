import type { NewMessage } from "./dialect.ts";
import { DOCUMENTS, GIVEN } from "./envelope-columns.ts";
import type { Bindings } from "./sql.ts";

/** Fields that few messages have. */
const RARE = [
  ...["ordering_key", "concurrency_key", "cost", "delivery", "retry", "hops", "trail"],
  ...["content_encoding", "lane", "rank", "aging_ms"],
  ...["delay_ms", "available_at", "ttl_ms", "expires_at"],
] as const satisfies readonly (keyof NewMessage)[];

/** What each message has for itself. */
const OWN = ["message_id", "content"] as const satisfies readonly (keyof NewMessage)[];

/** What the plain messages of one batch mostly share. */
export const HEAD = [
  ...GIVEN.filter((column) => ![...RARE, ...OWN].includes(column as never)),
  "max_attempts",
] as (keyof NewMessage)[];

/** Whether a message says nothing but itself, as most do. */
export function isPlain(message: NewMessage): boolean {
  for (const field of RARE) {
    const value = message[field];
    if (value !== null && value !== undefined) return false;
  }
  return true;
}

/** What the messages of a batch share, each column by its name. */
export function headBound(head: NewMessage): Bindings {
  return Object.fromEntries(HEAD.map((column) => [column, head[column]]));
}

/** What a plain message may have or not. */
const OPTIONAL = [
  ...["original_type", "headers", "correlation_id", "causation_id", "reply_to", "context_id"],
  ...["task_id", "subject", "dedupe_key"],
] as readonly (keyof NewMessage)[];
const ALWAYS = [...OWN, ...HEAD].filter((column) => !OPTIONAL.includes(column));
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
): (message: NewMessage) => { text: string; bindings: Bindings } {
  const known = new Map<number, { text: string; columns: readonly (keyof NewMessage)[] }>();
  const make = (has: number) => {
    const columns = [...ALWAYS, ...OPTIONAL.filter((_, n) => (has & (1 << n)) !== 0)];
    const text = `
    INSERT INTO ${table} (${columns.join(", ")}, created_at, state, visible_at, receipt, attempt, redriven, lane, rank)
    VALUES (${columns.map((column) => `:${column}`).join(", ")}, ${now}, 0, ${now}, 0, 0, ${redriven}, '', 100 - CAST(:priority AS int))`;
    known.set(has, { text, columns });
    return { text, columns };
  };
  return (message) => {
    let has = 0;
    for (let n = 0; n < OPTIONAL.length; n++) {
      if (message[OPTIONAL[n] as keyof NewMessage] !== null) has |= 1 << n;
    }
    const { text, columns } = known.get(has) ?? make(known.size < MOST_TEXTS ? has : ALL_OPTIONAL);
    const bindings: Bindings = {};
    for (const column of columns) bindings[column] = message[column];
    return { text, bindings };
  };
}

/** Messages, and apart from them what they share. */
export interface Plain {
  /** Each different one once. */
  readonly heads: readonly NewMessage[];
  /** For each message the place of its head. */
  readonly places: readonly number[];
}

/**
 * Takes apart what messages share: a database reads a field of a document for each message, and a batch has mostly
 * one sender, one mailbox and one type. Halves the cost of a batch on PostgreSQL and SQLite.
 */
export function plainOf(messages: readonly NewMessage[]): Plain {
  const heads: NewMessage[] = [];
  const byText = new Map<string, number>();
  let last: NewMessage | undefined;
  let place = 0;
  const places = messages.map((message) => {
    if (last !== undefined && alike(last, message)) return place;
    last = message;
    const text = JSON.stringify(HEAD.map((field) => message[field]));
    const known = byText.get(text);
    place = known ?? heads.push(message) - 1;
    if (known === undefined) byText.set(text, place);
    return place;
  });
  return { heads, places };
}

function alike(one: NewMessage, other: NewMessage): boolean {
  for (const field of HEAD) if (one[field] !== other[field]) return false;
  return true;
}

/** The head of each message as one JSON parameter; `n` is its place. */
export function headsAsJson(heads: readonly NewMessage[], raw: boolean): string {
  const items = heads.map((message, n) => {
    const fields = HEAD.flatMap((field) => {
      const value = message[field];
      if (value === null || value === undefined) return [];
      const written = raw && (DOCUMENTS as readonly string[]).includes(field);
      return [`"${field}":${written ? value : JSON.stringify(value)}`];
    });
    return `{"n":${n},${fields.join()}}`;
  });
  return `[${items.join()}]`;
}
