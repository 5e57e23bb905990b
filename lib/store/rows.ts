import type { Candidate, ClaimedRow, ClaimKey, KeyRef, LockedKey } from "./dialect.ts";
import { doomOf } from "./envelope-columns.ts";
import { int, intOrNull, type Row } from "./sql.ts";

/**
 * A batch as one JSON parameter. Columns named in `raw` hold JSON text already and are put in as they are:
 * parsing them only to write them again would be the dearest part of a send.
 */
export function rowsAsJson(items: readonly object[], raw: readonly string[]): string {
  const written = new Set(raw);
  let text = "";
  for (const [n, item] of items.entries()) {
    text += `${n === 0 ? "" : ","}{"n":${n}`;
    for (const key in item) {
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

function scalar(value: unknown): string {
  if (typeof value === "number") return String(value);
  return typeof value === "string" && BARE.test(value) ? `"${value}"` : JSON.stringify(value);
}

/** Text columns come back parsed from PostgreSQL's jsonb and as text from the other two. */
export type ParseJson = (value: unknown) => unknown;

export const parseText: ParseJson = (value) =>
  typeof value === "string" ? JSON.parse(value) : (value ?? null);

function text(value: unknown): string | null {
  return value === null || value === undefined ? null : String(value);
}

export function claimedRow(row: Row, parse: ParseJson): ClaimedRow {
  return {
    seq: int(row.seq),
    message_id: String(row.message_id),
    from_agent: String(row.from_agent),
    to_agent: String(row.to_agent),
    message_type: String(row.message_type),
    original_type: text(row.original_type),
    kind: String(row.kind),
    priority: int(row.priority),
    content: parse(row.content),
    headers: parse(row.headers),
    correlation_id: text(row.correlation_id),
    causation_id: text(row.causation_id),
    reply_to: text(row.reply_to),
    context_id: text(row.context_id),
    task_id: text(row.task_id),
    subject: text(row.subject),
    ordering_key: text(row.ordering_key),
    concurrency_key: text(row.concurrency_key),
    cost: intOrNull(row.cost),
    delivery: text(row.delivery),
    retry: parse(row.retry),
    hops: intOrNull(row.hops),
    trail: parse(row.trail),
    content_encoding: text(row.content_encoding),
    failures: parse(row.failures),
    rank: int(row.rank),
    created_at: int(row.created_at),
    expires_at: intOrNull(row.expires_at),
    receipt: int(row.receipt),
    attempt: int(row.attempt),
    max_attempts: int(row.max_attempts),
    visible_at: int(row.visible_at),
    progress: parse(row.progress),
    redriven: int(row.redriven),
    doom: doomOf(row.worker_id),
  };
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
