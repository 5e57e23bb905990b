import type { ClaimedRow, ClaimRequest, Db, Dialect } from "./dialect.ts";
import { doomOf, list, SHUT } from "./envelope-columns.ts";
import { inOrder, parseText } from "./rows.ts";
import { query } from "./sql.ts";
import { sqliteLeased } from "./sqlite-gates.ts";

/** How many due messages one claim moves to the ready ones at most. */
const PROMOTE = 500;

/** What every message has, and what few have: each in the order of `Always` and `Rare`. */
const ALWAYS = [
  ...["seq", "message_id", "from_agent", "to_agent", "message_type", "kind", "priority"],
  ...["rank", "created_at", "receipt", "attempt", "max_attempts", "visible_at", "redriven"],
  "worker_id",
];
const RARE = [
  ...["headers", "original_type", "correlation_id", "causation_id", "reply_to", "context_id"],
  ...["task_id", "subject", "ordering_key", "concurrency_key", "cost", "delivery", "retry"],
  ...["hops", "trail", "content_encoding", "failures", "expires_at", "progress"],
];

type Text = string | null;
type Always = readonly [
  ...[number, string, string, string, string, string, number],
  ...[number, number, number, number, number, number, number],
  string,
];
type Rare = readonly [
  ...[Text, Text, Text, Text, Text, Text],
  ...[Text, Text, Text, Text, number | null, Text, Text],
  ...[number | null, Text, Text, Text, number | null, Text],
];

/**
 * The claim. A claimed row comes as one text, which is put together and not made as a document, so that the content is
 * neither escaped nor read twice: the driver makes an object column by column, at twice the cost of the claim.
 *
 * Differs from PostgreSQL: a look before the claim, because an UPDATE takes the one write lock even when it finds
 * nothing, and idle pollers would keep it busy. Then promotion and claim as two statements; each is atomic by itself,
 * and a message promoted and not claimed is simply ready.
 */
export function sqliteClaim(prefix: string, now: string): Dialect["claim"] {
  const messages = `${prefix}messages`;
  const wanted = `(:types IS NULL OR message_type IN (SELECT value FROM json_each(:types)))
        AND lane = '' AND NOT EXISTS (SELECT 1 FROM ${prefix}mailboxes WHERE ${SHUT})`;
  const due = "state = 1 AND concurrency_key IS NULL";

  const ready = `EXISTS (SELECT 1 FROM ${messages} WHERE to_agent = :agent AND state = 0 AND visible_at <= ${now} AND ${wanted})`;
  const look = (found: string) => `
    SELECT ${found} AS ready,
           EXISTS (SELECT 1 FROM ${messages} WHERE to_agent = :agent AND ${due} AND due_at <= ${now} AND ${wanted}) AS due`;
  // Where the last claim got all it asked for, there is most likely more: the way past what is leased is walked once.
  const [LOOK_ALL, LOOK_DUE] = [look(ready), look("1")];

  const PROMOTE_DUE = `
    UPDATE ${messages} SET state = 0 WHERE seq IN (
      SELECT seq FROM ${messages} WHERE to_agent = :agent AND ${due} AND due_at <= ${now}
      ORDER BY due_at LIMIT ${PROMOTE})`;

  const CLAIM = `
    UPDATE ${messages} SET
      ${sqliteLeased(now)}
    WHERE seq IN (
      SELECT seq FROM ${messages}
      WHERE to_agent = :agent AND state = 0 AND visible_at <= ${now}
        AND ${wanted}
      ORDER BY rank, seq LIMIT :limit)
    RETURNING '[' || json_array(${list(ALWAYS)}) || ','
      || CASE WHEN coalesce(${list(RARE)}) IS NULL THEN '0' ELSE json_array(${list(RARE)}) END
      || ',' || content || ']' AS line`;

  return async (db: Db, request: ClaimRequest) => {
    const agent = request.agentId;
    const types = request.messageTypes === null ? null : JSON.stringify(request.messageTypes);
    const [seen] = await query(db, request.walk?.full ? LOOK_DUE : LOOK_ALL, { agent, types });
    if (!seen?.ready && !seen?.due) return [];
    if (seen.due) await query(db, PROMOTE_DUE, { agent });
    const answer = await query<{ line: string }>(db, CLAIM, {
      agent,
      limit: request.limit,
      lease: request.leaseMs,
      worker: request.workerId,
      types,
    });
    if (request.walk !== undefined) request.walk.full = answer.length >= request.limit;
    return answer.map(({ line }) => claimedOf(line)).sort(inOrder);
  };
}

const NOTHING_RARE = RARE.map(() => null) as unknown as Rare;

function claimedOf(line: string): ClaimedRow {
  const [always, rare, content] = JSON.parse(line) as [Always, Rare | 0, unknown];
  const some = rare === 0 ? NOTHING_RARE : rare;
  return {
    seq: always[0],
    message_id: always[1],
    from_agent: always[2],
    to_agent: always[3],
    message_type: always[4],
    original_type: some[1],
    kind: always[5],
    priority: always[6],
    content,
    headers: parseText(some[0]),
    correlation_id: some[2],
    causation_id: some[3],
    reply_to: some[4],
    context_id: some[5],
    task_id: some[6],
    subject: some[7],
    ordering_key: some[8],
    concurrency_key: some[9],
    cost: some[10],
    delivery: some[11],
    retry: parseText(some[12]),
    hops: some[13],
    trail: parseText(some[14]),
    content_encoding: some[15],
    failures: parseText(some[16]),
    rank: always[7],
    created_at: always[8],
    expires_at: some[17],
    receipt: always[9],
    attempt: always[10],
    max_attempts: always[11],
    visible_at: always[12],
    progress: parseText(some[18]),
    redriven: always[13],
    doom: doomOf(always[14]),
  };
}
