import type { ClaimedRow, ClaimRequest, Db, Dialect } from "./dialect.ts";
import { CLAIMED, ENVELOPE, list, SHUT } from "./envelope-columns.ts";
import { postgresRuns } from "./failed-runs.ts";
import { claimedRow, inOrder, parseText } from "./rows.ts";
import { query, type Row } from "./sql.ts";

/** How many due messages one claim moves to the ready ones at most. */
const PROMOTE = 500;

/** What every message has; the rest comes as one document where there is any, not as twenty empty columns. */
const ALWAYS = [
  ...["message_id", "from_agent", "to_agent", "message_type", "kind", "content", "created_at"],
  ...["priority", ...CLAIMED.filter((column) => column !== "progress")],
];
const REST = [...ENVELOPE, ...CLAIMED].filter((column) => !ALWAYS.includes(column));

/**
 * The claim. One statement claims and promotes: messages that fell due are candidates beside the ready ones, and those
 * that the limit leaves out become ready. MATERIALIZED keeps the planner from running a LIMIT twice and so locking
 * more than asked; the outer re-check names visible_at and not state, because a state = 0 there would offer the
 * planner the ready index as the outer path, which it takes when its statistics are old.
 */
export function postgresClaim(prefix: string, now: string): Dialect["claim"] {
  const messages = `${prefix}messages`;
  const wanted = `(CAST(:types AS text) IS NULL OR message_type IN (SELECT jsonb_array_elements_text(CAST(:types AS jsonb))))
        AND NOT EXISTS (SELECT 1 FROM ${prefix}mailboxes WHERE ${SHUT})`;
  const ready = `to_agent = :agent AND lane = '' AND state = 0 AND visible_at <= (SELECT now FROM t) AND ${wanted}`;

  const ALL = `
      SELECT seq, rank FROM ${messages} WHERE ${ready}
      ORDER BY rank, seq LIMIT :limit FOR UPDATE SKIP LOCKED`;

  // One short scan for each range, in their order; the outer LIMIT stops before more than it asks for is locked.
  const BEYOND = `
      SELECT c.seq, c.rank
      FROM (
        SELECT * FROM jsonb_to_recordset(CAST(:ranges AS jsonb)) AS r(first bigint, after bigint, last bigint)
        ORDER BY first) r
      CROSS JOIN LATERAL (
        SELECT seq, rank FROM ${messages}
        WHERE ${ready} AND (rank, seq) > (r.first, r.after) AND rank <= r.last
        ORDER BY rank, seq LIMIT :limit FOR UPDATE SKIP LOCKED) c
      LIMIT :limit`;

  const claim = (source: string) => `
    WITH t AS MATERIALIZED (SELECT ${now} AS now),
    ready AS MATERIALIZED (${source}),
    due AS MATERIALIZED (
      SELECT seq, rank, message_type, lane FROM ${messages}
      WHERE to_agent = :agent AND state = 1 AND due_at <= (SELECT now FROM t) AND concurrency_key IS NULL
      ORDER BY due_at LIMIT ${PROMOTE} FOR UPDATE SKIP LOCKED),
    candidates AS (
      SELECT seq, rank FROM ready
      UNION ALL
      SELECT seq, rank FROM due WHERE lane = '' AND ${wanted}),
    picked AS MATERIALIZED (SELECT seq FROM candidates ORDER BY rank, seq LIMIT :limit),
    walked AS MATERIALIZED (
      SELECT CAST(extract(epoch FROM clock_timestamp() - statement_timestamp()) * 1000 AS float8) AS took_ms
      FROM (SELECT count(*) FROM picked) done),
    touched AS MATERIALIZED (
      SELECT seq, true AS taken FROM picked
      UNION ALL
      SELECT seq, false FROM due WHERE seq NOT IN (SELECT seq FROM picked))
    UPDATE ${messages} m SET
      state = 0,
      visible_at = CASE WHEN c.taken THEN (SELECT now FROM t) + :lease ELSE m.visible_at END,
      receipt = m.receipt + CASE WHEN c.taken THEN 1 ELSE 0 END,
      attempt = m.attempt + CASE WHEN c.taken AND m.attempt < m.max_attempts
                                  AND (m.expires_at IS NULL OR m.expires_at > (SELECT now FROM t)) THEN 1 ELSE 0 END,
      worker_id = CASE WHEN NOT c.taken THEN m.worker_id
                       WHEN m.expires_at <= (SELECT now FROM t) THEN '!expired'
                       WHEN m.attempt >= m.max_attempts THEN '!max_attempts'
                       ELSE :worker END,
      failures = CASE WHEN c.taken THEN ${postgresRuns.lapsed("m.")} ELSE m.failures END
    FROM touched c
    WHERE m.seq = ANY (ARRAY(SELECT seq FROM touched)) AND m.seq = c.seq AND m.visible_at <= (SELECT now FROM t)
    RETURNING c.taken, ${list(ALWAYS, "m")},
      CASE WHEN num_nonnulls(${list(REST, "m")}) > 0
           THEN jsonb_build_object(${REST.map((column) => `'${column}', m.${column}`).join(", ")}) END AS rest,
      (SELECT took_ms FROM walked) AS took_ms`;
  const CLAIM = claim(ALL);
  const CLAIM_BEYOND = claim(BEYOND);

  return async (db: Db, request: ClaimRequest) => {
    const { walk } = request;
    const run = async (text: string, bindings: { ranges?: string } = {}) => {
      const answer = await query(db, text, {
        agent: request.agentId,
        limit: request.limit,
        lease: request.leaseMs,
        worker: request.workerId,
        types: request.messageTypes === null ? null : JSON.stringify(request.messageTypes),
        ...bindings,
      });
      return answer.filter((row) => row.taken === true);
    };
    const ranges = walk?.ranges();
    if (ranges === undefined) {
      const since = performance.now();
      const rows = await run(CLAIM);
      const walkedMs = rows[0] === undefined ? undefined : Number(rows[0].took_ms);
      const claimed = rows.map(asClaimed);
      walk?.all(claimed, walkedMs, performance.now() - since);
      return claimed.sort(inOrder);
    }
    const claimed = (await run(CLAIM_BEYOND, { ranges })).map(asClaimed);
    walk?.beyond(claimed);
    return claimed.sort(inOrder);
  };
}

function asClaimed(row: Row): ClaimedRow {
  return claimedRow(row.rest === null ? row : { ...row, ...(row.rest as Row) }, parseText);
}
