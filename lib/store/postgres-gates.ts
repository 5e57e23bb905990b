import type { Knex } from "knex";
import type { Db, GateStatements, KeyRef } from "./dialect.ts";
import { CLAIMED, ENVELOPE, list } from "./envelope-columns.ts";
import { postgresRuns } from "./failed-runs.ts";
import { gateCalls } from "./gate-calls.ts";
import { lockedKey } from "./rows.ts";
import { query } from "./sql.ts";

const PROMOTE = 500;

const KEYS =
  "WITH j AS MATERIALIZED (SELECT * FROM jsonb_to_recordset(CAST(:items AS jsonb)) AS j(to_agent text, kind text, name text))";

export function postgresGates(prefix: string, now: string): GateStatements {
  const messages = `${prefix}messages`;
  const mailboxes = `${prefix}mailboxes`;
  const keys = `${prefix}keys`;
  const KEY = "k.to_agent, k.kind, k.name, k.last_rank, k.halted_by";
  const SAME = "k.to_agent = j.to_agent AND k.kind = j.kind AND k.name = j.name";

  // The update changes nothing; it is there because it locks, where DO NOTHING would not.
  const LOCK = `
    ${KEYS}
    INSERT INTO ${keys} AS k (to_agent, kind, name)
    SELECT to_agent, kind, name FROM j ORDER BY to_agent, kind, name
    ON CONFLICT (to_agent, kind, name) DO UPDATE SET last_rank = k.last_rank
    RETURNING ${KEY}`;

  const LOCK_FREE = `
    ${KEYS}
    SELECT x.* FROM j CROSS JOIN LATERAL (
      SELECT ${KEY} FROM ${keys} k WHERE ${SAME} LIMIT 1 FOR UPDATE SKIP LOCKED) x`;

  const LIMIT = `coalesce((SELECT key_limit FROM ${mailboxes} WHERE agent_id = j.to_agent), 1)`;
  // What was found is looked up by its sequence alone: a state = 1 there would offer the planner the index of that
  // state, which it reads from end to end where old statistics say that nothing is in it.
  const STILL = (state: number) => `m.state >= ${state} AND m.state <= ${state}`;
  // The keys are locked before this statement begins, so its snapshot has all that their senders committed.
  // Ranges that equal an equality: only the index of the key has that order, so that no statistics, old ones or
  // none, make another index look better. A constant would be left out of the order.
  const SHARED =
    "m.to_agent = j.to_agent AND m.concurrency_key >= j.name AND m.concurrency_key <= j.name";
  const ORDERED =
    "m.to_agent = j.to_agent AND m.ordering_key >= j.name AND m.ordering_key <= j.name";
  const READY = `${SHARED} AND m.state >= 0 AND m.state <= 0`;
  const ACTIVE = `(SELECT count(*) FROM (
    SELECT 1 FROM ${messages} m WHERE ${READY}
    ORDER BY m.concurrency_key, m.state, m.rank, m.seq LIMIT ${LIMIT}) x)`;
  const ALL_ACTIVE = `(SELECT count(*) FROM (
    SELECT 1 FROM ${messages} m WHERE ${READY} ORDER BY m.concurrency_key, m.state, m.rank, m.seq OFFSET 0) x)`;

  const OPEN = `
    ${KEYS},
    heads AS MATERIALIZED (
      SELECT h.seq FROM j CROSS JOIN LATERAL (
        SELECT m.seq, m.state FROM ${messages} m WHERE ${ORDERED}
        ORDER BY m.ordering_key, m.seq LIMIT 1) h
      WHERE j.kind = 'order' AND h.state = 2
        AND NOT EXISTS (SELECT 1 FROM ${keys} k WHERE ${SAME} AND k.halted_by IS NOT NULL)
      UNION ALL
      SELECT s.seq FROM j
      CROSS JOIN LATERAL (SELECT greatest(0, ${LIMIT} - ${ACTIVE}) AS free) f
      CROSS JOIN LATERAL (
        SELECT m.seq FROM ${messages} m WHERE ${SHARED} AND m.state >= 2 AND m.state <= 2
        ORDER BY m.concurrency_key, m.state, m.rank, m.seq LIMIT f.free) s
      WHERE j.kind = 'share'),
    empty AS (
      DELETE FROM ${keys} d WHERE d.ctid = ANY (ARRAY(
        SELECT x.ctid FROM j CROSS JOIN LATERAL (
          SELECT k.ctid FROM ${keys} k WHERE ${SAME} AND k.halted_by IS NULL LIMIT 1) x
        WHERE CASE j.kind
          WHEN 'order' THEN (SELECT m.seq FROM ${messages} m WHERE ${ORDERED} ORDER BY m.ordering_key, m.seq LIMIT 1) IS NULL
          WHEN 'share' THEN (SELECT m.seq FROM ${messages} m WHERE ${SHARED} ORDER BY m.concurrency_key, m.state, m.rank, m.seq LIMIT 1) IS NULL
          ELSE false END)))
    UPDATE ${messages} m SET
      state = CASE WHEN m.visible_at > ${now} THEN 1 ELSE 0 END,
      due_at = CASE WHEN m.visible_at > ${now} THEN m.visible_at END
    WHERE m.seq = ANY (ARRAY(SELECT seq FROM heads)) AND ${STILL(2)}
    RETURNING m.to_agent`;

  const CLOSE = `
    ${KEYS},
    surplus AS MATERIALIZED (
      SELECT s.seq FROM j
      CROSS JOIN LATERAL (SELECT greatest(0, ${ALL_ACTIVE} - ${LIMIT}) AS n) f
      CROSS JOIN LATERAL (
        SELECT seq FROM ${messages} m
        WHERE ${READY} AND m.visible_at <= ${now}
        ORDER BY m.concurrency_key DESC, m.state DESC, m.rank DESC, m.seq DESC LIMIT f.n FOR UPDATE SKIP LOCKED) s
      WHERE j.kind = 'share')
    UPDATE ${messages} m SET state = 2, worker_id = NULL, failures = ${postgresRuns.lapsed("m.")}
    WHERE m.seq = ANY (ARRAY(SELECT seq FROM surplus)) AND ${STILL(0)}`;

  // Asked for the first in the order of the index, because EXISTS would rather read the table until it meets one; and
  // by a clock that is not known to the planner, because it takes statistics by which nothing is visible at their word.
  const ANY_READY = `
    SELECT (SELECT seq FROM ${messages} WHERE to_agent = :agent AND state = 0 AND visible_at <= (SELECT ${now})
            ORDER BY lane, rank, seq LIMIT 1) IS NOT NULL
        OR (SELECT seq FROM ${messages} WHERE to_agent = :agent AND state = 1 AND due_at <= ${now}
            ORDER BY due_at LIMIT 1) IS NOT NULL AS found`;

  const PROMOTE_DUE = `
    WITH due AS MATERIALIZED (
      SELECT seq FROM ${messages} WHERE to_agent = :agent AND state = 1 AND due_at <= ${now} AND concurrency_key IS NULL
      ORDER BY due_at LIMIT ${PROMOTE} FOR UPDATE SKIP LOCKED)
    UPDATE ${messages} m SET state = 0
    WHERE m.seq = ANY (ARRAY(SELECT seq FROM due)) AND ${STILL(1)}`;

  // Most often nothing is held: said in a way that the planner sees. By its guess of <> ALL next to nothing remains, and
  // it would sort the whole mailbox rather than walk the index until the limit is reached.
  const CANDIDATES = `
    SELECT seq, rank, lane, message_type, coalesce(cost, 1) AS cost,
           attempt >= max_attempts OR coalesce(expires_at <= ${now}, false) AS doomed
    FROM ${messages}
    WHERE to_agent = :agent AND lane = :lane AND state = 0 AND visible_at <= (SELECT ${now})
      AND (CAST(:types AS text) IS NULL OR message_type IN (SELECT jsonb_array_elements_text(CAST(:types AS jsonb))))
      AND (CAST(:held_kinds AS text) = '[]' OR kind <> ALL (ARRAY(SELECT jsonb_array_elements_text(CAST(:held_kinds AS jsonb)))))
      AND (CAST(:held_types AS text) = '[]' OR message_type <> ALL (ARRAY(SELECT jsonb_array_elements_text(CAST(:held_types AS jsonb)))))
    ORDER BY rank, seq LIMIT :limit FOR UPDATE SKIP LOCKED`;

  const TAKE = `
    UPDATE ${messages} m SET
      visible_at = ${now} + :lease,
      receipt = m.receipt + 1,
      attempt = m.attempt + CASE WHEN m.attempt < m.max_attempts AND (m.expires_at IS NULL OR m.expires_at > ${now}) THEN 1 ELSE 0 END,
      worker_id = CASE WHEN m.expires_at <= ${now} THEN '!expired'
                       WHEN m.attempt >= m.max_attempts THEN '!max_attempts'
                       ELSE :worker END,
      failures = ${postgresRuns.lapsed("m.")}
    WHERE m.seq = ANY (ARRAY(SELECT CAST(jsonb_array_elements_text(CAST(:seqs AS jsonb)) AS bigint)))
    RETURNING ${list(ENVELOPE, "m")}, ${list(CLAIMED, "m")}`;

  return {
    ...gateCalls({
      ...{ anyReady: ANY_READY, promote: PROMOTE_DUE, candidates: CANDIDATES, take: TAKE },
    }),

    async lockKeys(trx: Db, refs: readonly KeyRef[], wait: boolean) {
      const rows = await query(trx, wait ? LOCK : LOCK_FREE, { items: JSON.stringify(refs) });
      return rows.map(lockedKey);
    },

    async openKeys(trx: Db, refs: readonly KeyRef[]) {
      const rows = await query(trx, OPEN, { items: JSON.stringify(refs) });
      return rows.map((row) => String(row.to_agent));
    },

    async closeKeys(trx: Db, refs: readonly KeyRef[]) {
      await query(trx, CLOSE, { items: JSON.stringify(refs) });
    },

    async lockRows(trx: Db, table: string, { where, by }) {
      return trx(table).where(where).orderBy(by).forUpdate();
    },

    async noteShares(db: Db, table: string, agentId: string) {
      const noted = { agent_id: agentId, gated: 0 };
      if ((await db(table).where({ agent_id: agentId }).whereNull("gated").update(noted)) > 0)
        return;
      await db(table).insert(noted).onConflict("agent_id").ignore();
    },

    async insertInPlace(trx: Db, table: string, row: Record<string, unknown>) {
      const { sql, bindings } = trx(table).insert(row).toSQL();
      await trx.raw(
        sql.replace(") values (", ") overriding system value values ("),
        bindings as Knex.Value[],
      );
    },
  };
}
