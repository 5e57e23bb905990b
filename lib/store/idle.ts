import type { Db, Dialect, DialectName } from "./dialect.ts";
import { int, intOrNull, query, translated } from "./sql.ts";

/** Messages in flight that one look counts. With more the mailbox is not idle, and is looked into as ever. */
const LOOKED_AT = 100;

/** The first messages that are ready, with literals, so that their index may be used. */
const READY: Record<DialectName, (messages: string) => string> = {
  postgres: limited,
  sqlite: limited,
  mssql: (messages) => `SELECT TOP (${LOOKED_AT}) visible_at FROM ${inPlace(messages)}`,
};

function limited(messages: string): string {
  return `SELECT visible_at FROM ${inPlace(messages)} LIMIT ${LOOKED_AT}`;
}

function inPlace(messages: string): string {
  return `${messages} WHERE to_agent = :agent AND state = 0 ORDER BY lane, rank, seq`;
}

function textFor({ name, now }: Dialect, messages: string): string {
  return `
    SELECT min(x.visible_at) AS free, count(*) AS found, ${now} AS now,
           (SELECT min(due_at) FROM ${messages} WHERE to_agent = :agent AND state = 1) AS due
    FROM (${READY[name](messages)}) x`;
}

/**
 * Milliseconds until a claim might find something in this mailbox, 0 when it might now: a message falls due, or
 * the lease of one in flight passes. Null when nothing is known to come: whatever is sent, wakes. One cheap read.
 */
export async function nothingForMs(
  db: Db,
  dialect: Dialect,
  prefix: string,
  agentId: string,
): Promise<number | null> {
  const [row] = await translated(dialect, () =>
    query(db, textFor(dialect, `${prefix}messages`), { agent: agentId }),
  );
  if (row === undefined) return null;
  const now = int(row.now);
  const soon = [intOrNull(row.free), intOrNull(row.due)]
    .filter((at) => at !== null)
    .map((at) => Math.max(0, at - now));
  // What lies behind them only a claim can tell.
  if (int(row.found) === LOOKED_AT) return 0;
  return soon.length === 0 ? null : Math.min(...soon);
}
