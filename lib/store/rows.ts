import type { Candidate, ClaimedRow, ClaimKey, KeyRef, LockedKey } from "./dialect.ts";
import { doomOf } from "./envelope-columns.ts";
import { int, intOrNull, type Row } from "./sql.ts";

/**
 * A batch as one JSON parameter. Columns named in `raw` hold JSON text already and are put in as they are:
 * parsing them only to write them again would be the dearest part of a send. `wanted`: the columns; default: all.
 */
export function rowsAsJson(
  items: readonly object[],
  raw: readonly string[],
  wanted?: readonly string[],
): string {
  const written = new Set(raw);
  let text = "";
  for (const [n, item] of items.entries()) {
    text += `${n === 0 ? "" : ","}{"n":${n}`;
    for (const key of wanted ?? Object.keys(item)) {
      const value = (item as Row)[key];
      if (value === null || value === undefined) continue;
      text += `,"${key}":${written.has(key) ? value : scalar(value)}`;
    }
    text += "}";
  }
  return `[${text}]`;
}

/** Claims as one JSON parameter, whatever else they bear. */
export function claimsAsJson(claims: readonly ClaimKey[]): string {
  return `[${claims.map(({ seq, receipt }) => `{"seq":${seq},"receipt":${receipt}}`).join()}]`;
}

/** Most texts are ids, which need no escapes. */
const BARE = /^[\w.:@/ -]*$/;

/** A text as JSON. */
export function quoted(text: string): string {
  return BARE.test(text) ? `"${text}"` : JSON.stringify(text);
}

function scalar(value: unknown): string {
  if (typeof value === "number") return String(value);
  return typeof value === "string" ? quoted(value) : JSON.stringify(value);
}

/** Text columns come back parsed from PostgreSQL's jsonb and as text from the other two. */
export type ParseJson = (value: unknown) => unknown;

export const parseText: ParseJson = (value) =>
  typeof value === "string" ? JSON.parse(value) : (value ?? null);

function text(value: unknown): string | null {
  return value === null || value === undefined ? null : String(value);
}

/**
 * A class, as whatever is made for each message: V8 learns of object literals whether they live long, takes the first
 * second of a drain for the rule, and from then on makes them where only the great garbage collections look.
 */
class Claimed implements ClaimedRow {
  declare readonly seq: number;
  declare readonly message_id: string;
  declare readonly from_agent: string;
  declare readonly to_agent: string;
  declare readonly message_type: string;
  declare readonly original_type: string | null;
  declare readonly kind: string;
  declare readonly priority: number;
  declare readonly content: unknown;
  declare readonly headers: unknown;
  declare readonly correlation_id: string | null;
  declare readonly causation_id: string | null;
  declare readonly reply_to: string | null;
  declare readonly context_id: string | null;
  declare readonly task_id: string | null;
  declare readonly subject: string | null;
  declare readonly ordering_key: string | null;
  declare readonly concurrency_key: string | null;
  declare readonly cost: number | null;
  declare readonly delivery: string | null;
  declare readonly retry: unknown;
  declare readonly hops: number | null;
  declare readonly trail: unknown;
  declare readonly content_encoding: string | null;
  declare readonly failures: unknown;
  declare readonly rank: number;
  declare readonly created_at: number;
  declare readonly expires_at: number | null;
  declare readonly receipt: number;
  declare readonly attempt: number;
  declare readonly max_attempts: number;
  declare readonly visible_at: number;
  declare readonly progress: unknown;
  declare readonly redriven: number;
  declare readonly doom: "expired" | "max_attempts" | null;

  constructor(row: Row, rest: Row | null, toAgent: string, parse: ParseJson) {
    this.seq = int(row.seq);
    this.message_id = String(row.message_id);
    this.from_agent = String(row.from_agent);
    this.to_agent = toAgent;
    this.message_type = String(row.message_type);
    this.kind = String(row.kind);
    this.priority = int(row.priority);
    this.content = parse(row.content);
    this.created_at = int(row.created_at);
    this.receipt = int(row.receipt);
    this.attempt = int(row.attempt);
    this.max_attempts = int(row.max_attempts);
    this.visible_at = int(row.visible_at);
    this.rank = rest === null ? 100 - this.priority : int(rest.rank);
    this.redriven = rest === null ? 0 : int(rest.redriven);
    this.doom = rest === null ? null : doomOf(rest.worker_id);
    this.original_type = rest === null ? null : text(rest.original_type);
    this.headers = rest === null ? null : parse(rest.headers);
    this.correlation_id = rest === null ? null : text(rest.correlation_id);
    this.causation_id = rest === null ? null : text(rest.causation_id);
    this.reply_to = rest === null ? null : text(rest.reply_to);
    this.context_id = rest === null ? null : text(rest.context_id);
    this.task_id = rest === null ? null : text(rest.task_id);
    this.subject = rest === null ? null : text(rest.subject);
    this.ordering_key = rest === null ? null : text(rest.ordering_key);
    this.concurrency_key = rest === null ? null : text(rest.concurrency_key);
    this.cost = rest === null ? null : intOrNull(rest.cost);
    this.delivery = rest === null ? null : text(rest.delivery);
    this.retry = rest === null ? null : parse(rest.retry);
    this.hops = rest === null ? null : intOrNull(rest.hops);
    this.trail = rest === null ? null : parse(rest.trail);
    this.content_encoding = rest === null ? null : text(rest.content_encoding);
    this.failures = rest === null ? null : parse(rest.failures);
    this.expires_at = rest === null ? null : intOrNull(rest.expires_at);
    this.progress = rest === null ? null : parse(rest.progress);
  }
}

export function claimedRow(row: Row, parse: ParseJson): ClaimedRow {
  return new Claimed(row, row, String(row.to_agent), parse);
}

/**
 * A claimed row as most are, whose other columns come apart: null where nothing in them is out of the ordinary. To
 * ask an object for twenty columns that it does not have is the dearest part of making one.
 */
export function plainClaimedRow(
  row: Row,
  rest: Row | null,
  toAgent: string,
  parse: ParseJson,
): ClaimedRow {
  return new Claimed(row, rest, toAgent, parse);
}

export function lockedKey(row: Row): LockedKey {
  return {
    to_agent: String(row.to_agent),
    kind: String(row.kind) as KeyRef["kind"],
    name: String(row.name),
    last_rank: intOrNull(row.last_rank),
    halted_by: intOrNull(row.halted_by),
  };
}

export function candidate(row: Row): Candidate {
  return {
    seq: int(row.seq),
    rank: int(row.rank),
    lane: String(row.lane),
    message_type: String(row.message_type),
    cost: int(row.cost),
    doomed: Boolean(row.doomed),
  };
}

/** The order in which a mailbox hands out. */
export function inOrder(a: ClaimedRow, b: ClaimedRow): number {
  return a.rank - b.rank || a.seq - b.seq;
}

export function seqs(rows: readonly Row[]): number[] {
  return rows.map((row) => int(row.seq));
}
