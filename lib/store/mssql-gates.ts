import type { Knex } from "knex";
import type { Db, GateStatements, KeyRef } from "./dialect.ts";
import { CLAIMED, ENVELOPE, list } from "./envelope-columns.ts";
import { mssqlRuns } from "./failed-runs.ts";
import { faultOfMssql } from "./faults.ts";
import { gateCalls } from "./gate-calls.ts";
import { lockedKey } from "./rows.ts";
import { query } from "./sql.ts";

const PROMOTE = 500;

const MOST_TRIES = 5;

const KEYS =
  "OPENJSON(:items) WITH (to_agent nvarchar(128) '$.to_agent', kind nvarchar(8) '$.kind', name nvarchar(128) '$.name') j";

/** What a claim sets. Bound: lease, worker; declared: @now. */
export const mssqlLeased = `
      visible_at = @now + :lease,
      receipt = m.receipt + 1,
      attempt = m.attempt + CASE WHEN m.attempt < m.max_attempts AND (m.expires_at IS NULL OR m.expires_at > @now) THEN 1 ELSE 0 END,
      worker_id = CASE WHEN m.expires_at <= @now THEN N'!expired'
                       WHEN m.attempt >= m.max_attempts THEN N'!max_attempts'
                       ELSE :worker END,
      failures = ${mssqlRuns.lapsed("m.")}`;

/** Text out of OPENJSON has the database's collation; ours compare byte by byte. */
const same = (a: string, b: string) => `${a} = ${b} COLLATE Latin1_General_100_BIN2`;

export function mssqlGates(prefix: string, now: string): GateStatements {
  const messages = `${prefix}messages`;
  const mailboxes = `${prefix}mailboxes`;
  const keys = `${prefix}keys`;
  const READ_CLOCK = `DECLARE @now bigint = ${now};`;
  const KEY = "k.to_agent, k.kind, k.name, k.last_rank, k.halted_by";
  const SAME = `${same("k.to_agent", "j.to_agent")} AND ${same("k.kind", "j.kind")} AND ${same("k.name", "j.name")}`;
  const ORDERED = `${same("m.to_agent", "j.to_agent")} AND ${same("m.ordering_key", "j.name")} AND m.ordering_key IS NOT NULL`;
  const SHARED = `${same("m.to_agent", "j.to_agent")} AND ${same("m.concurrency_key", "j.name")} AND m.concurrency_key IS NOT NULL`;

  // Without HOLDLOCK no gap between keys is locked, so senders of other new keys do not wait. Two who make one
  // key at once: the second waits for the first one's row, or meets its unique violation and tries again.
  const MAKE = `
    INSERT INTO ${keys} (to_agent, kind, name)
    SELECT j.to_agent, j.kind, j.name FROM ${KEYS}
    WHERE NOT EXISTS (SELECT 1 FROM ${keys} k WITH (UPDLOCK, ROWLOCK) WHERE ${SAME})
    ORDER BY j.to_agent, j.kind, j.name`;

  const lockWith = (hints: string) => `
    UPDATE k SET last_rank = k.last_rank OUTPUT ${KEY.replaceAll("k.", "inserted.")}
    FROM ${KEYS} INNER LOOP JOIN ${keys} k WITH (${hints}) ON ${SAME}`;
  const LOCK = lockWith("UPDLOCK, ROWLOCK");
  const LOCK_FREE = lockWith("UPDLOCK, ROWLOCK, READPAST, READCOMMITTEDLOCK");

  const LIMIT = `COALESCE((SELECT key_limit FROM ${mailboxes} WHERE ${same("agent_id", "j.to_agent")}), 1)`;
  const ACTIVE = `(SELECT COUNT(*) FROM ${messages} m WHERE ${SHARED} AND m.state = 0)`;
  const MAKE_READY = `
    state = CASE WHEN m.visible_at > @now THEN 1 ELSE 0 END,
    due_at = CASE WHEN m.visible_at > @now THEN m.visible_at END`;

  const OPEN = `
    ${READ_CLOCK}
    UPDATE m SET ${MAKE_READY}
    OUTPUT inserted.to_agent
    FROM (
      SELECT h.seq FROM ${KEYS} CROSS APPLY (
        SELECT TOP (1) m.seq, m.state FROM ${messages} m WHERE ${ORDERED} ORDER BY m.seq) h
      WHERE j.kind = N'order' AND h.state = 2
        AND NOT EXISTS (SELECT 1 FROM ${keys} k WHERE ${SAME} AND k.halted_by IS NOT NULL)
      UNION ALL
      SELECT s.seq FROM ${KEYS}
      CROSS APPLY (SELECT ${LIMIT} AS most, ${ACTIVE} AS active) f
      CROSS APPLY (
        SELECT TOP (CASE WHEN f.most > f.active THEN f.most - f.active ELSE 0 END) m.seq FROM ${messages} m
        WHERE ${SHARED} AND m.state = 2 ORDER BY m.rank, m.seq) s
      WHERE j.kind = N'share') heads, ${messages} m WITH (ROWLOCK)
    WHERE m.seq = heads.seq AND m.state = 2
    OPTION (LOOP JOIN, FORCE ORDER);
    DELETE k FROM ${KEYS} INNER LOOP JOIN ${keys} k ON ${SAME}
    WHERE k.halted_by IS NULL AND (
      (k.kind = N'order' AND NOT EXISTS (SELECT 1 FROM ${messages} m WHERE ${ORDERED}))
      OR (k.kind = N'share' AND NOT EXISTS (SELECT 1 FROM ${messages} m WHERE ${SHARED})))`;

  const CLOSE = `
    ${READ_CLOCK}
    UPDATE m SET state = 2, worker_id = NULL
    FROM (
      SELECT s.seq FROM ${KEYS}
      CROSS APPLY (SELECT ${LIMIT} AS most, ${ACTIVE} AS active) f
      CROSS APPLY (
        SELECT TOP (CASE WHEN f.active > f.most THEN f.active - f.most ELSE 0 END) m.seq
        FROM ${messages} m WITH (UPDLOCK, READPAST, ROWLOCK, READCOMMITTEDLOCK)
        WHERE ${SHARED} AND m.state = 0 AND m.visible_at <= @now ORDER BY m.rank DESC, m.seq DESC) s
      WHERE j.kind = N'share') surplus, ${messages} m WITH (ROWLOCK)
    WHERE m.seq = surplus.seq AND m.state = 0
    OPTION (LOOP JOIN, FORCE ORDER)`;

  // A pooled connection keeps the isolation level of the transaction before; READPAST is refused under SERIALIZABLE.
  const ANY_READY = `
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    SELECT CASE WHEN EXISTS (SELECT 1 FROM ${messages} WITH (READPAST, ROWLOCK, READCOMMITTEDLOCK)
                             WHERE to_agent = :agent AND state = 0 AND visible_at <= ${now})
                  OR EXISTS (SELECT 1 FROM ${messages} WITH (READPAST, ROWLOCK, READCOMMITTEDLOCK)
                             WHERE to_agent = :agent AND state = 1 AND due_at <= ${now})
           THEN 1 ELSE 0 END AS found`;

  const CHOOSE = "WITH (UPDLOCK, READPAST, ROWLOCK, READCOMMITTEDLOCK)";

  const PROMOTE_DUE = `
    ${READ_CLOCK}
    UPDATE m SET state = 0
    FROM (SELECT TOP (${PROMOTE}) seq FROM ${messages} ${CHOOSE}
          WHERE to_agent = :agent AND state = 1 AND due_at <= @now AND concurrency_key IS NULL ORDER BY due_at) c
    INNER LOOP JOIN ${messages} m WITH (ROWLOCK) ON m.seq = c.seq`;

  const CANDIDATES = `
    ${READ_CLOCK}
    SELECT TOP (:limit) q.seq, q.rank, q.lane, q.message_type, COALESCE(q.cost, 1) AS cost,
           CASE WHEN q.attempt >= q.max_attempts OR q.expires_at <= @now THEN 1 ELSE 0 END AS doomed
    FROM ${messages} q ${CHOOSE}
    WHERE q.to_agent = :agent AND q.lane = :lane AND q.state = 0 AND q.visible_at <= @now
      AND (:types IS NULL OR q.message_type IN (SELECT t.name COLLATE Latin1_General_100_BIN2 FROM OPENJSON(:types) WITH (name nvarchar(128) '$') t))
      AND NOT EXISTS (SELECT 1 FROM OPENJSON(:held_kinds) WITH (name nvarchar(128) '$') h WHERE h.name COLLATE Latin1_General_100_BIN2 = q.kind)
      AND NOT EXISTS (SELECT 1 FROM OPENJSON(:held_types) WITH (name nvarchar(128) '$') h WHERE h.name COLLATE Latin1_General_100_BIN2 = q.message_type)
    ORDER BY q.rank, q.seq`;

  const TAKE = `
    ${READ_CLOCK}
    UPDATE m SET
      ${mssqlLeased}
    OUTPUT ${list(ENVELOPE, "inserted")}, ${list(CLAIMED, "inserted")}
    FROM (SELECT j.seq FROM OPENJSON(:seqs) WITH (seq bigint '$') j) c
    INNER LOOP JOIN ${messages} m WITH (ROWLOCK) ON m.seq = c.seq`;

  return {
    ...gateCalls({
      ...{ anyReady: ANY_READY, promote: PROMOTE_DUE, candidates: CANDIDATES, take: TAKE },
    }),

    async lockKeys(trx: Db, refs: readonly KeyRef[], wait: boolean) {
      const items = JSON.stringify(refs);
      // Who loses the race for a new key meets its row at the next try; in a caller's transaction only the statement
      // was undone.
      for (let tries = 1; wait; tries++) {
        try {
          await query(trx, MAKE, { items });
          break;
        } catch (error) {
          if (faultOfMssql(error) !== "unique" || tries >= MOST_TRIES) throw error;
        }
      }
      return (await query(trx, wait ? LOCK : LOCK_FREE, { items })).map(lockedKey);
    },

    async openKeys(trx: Db, refs: readonly KeyRef[]) {
      const rows = await query(trx, OPEN, { items: JSON.stringify(refs) });
      return rows.map((row) => String(row.to_agent));
    },

    async closeKeys(trx: Db, refs: readonly KeyRef[]) {
      await query(trx, CLOSE, { items: JSON.stringify(refs) });
    },

    // Differs from PostgreSQL: a write, because only its lock holds under every isolation that a server may have.
    async lockRows(trx: Db, table: string, { where, idle }) {
      return trx(table)
        .where(where)
        .update({ [idle]: trx.raw(idle) })
        .returning("*");
    },

    async noteShares(db: Db, table: string, agentId: string) {
      const noted = { agent_id: agentId, gated: 0 };
      if ((await db(table).where({ agent_id: agentId }).whereNull("gated").update(noted)) > 0)
        return;
      // Differs from PostgreSQL: no ON CONFLICT. Someone else's row is as good; only this statement is undone.
      await query(
        db,
        `INSERT INTO ${table} (agent_id, gated) SELECT :agent, 0 WHERE NOT EXISTS (SELECT 1 FROM ${table} WITH (UPDLOCK, ROWLOCK) WHERE agent_id = :agent)`,
        { agent: agentId },
      ).catch((error: unknown) => {
        if (faultOfMssql(error) !== "unique") throw error;
      });
    },

    async insertInPlace(trx: Db, table: string, row: Record<string, unknown>) {
      const { sql, bindings } = trx(table).insert(row).toSQL();
      await trx.raw(
        `SET IDENTITY_INSERT ${table} ON; ${sql}; SET IDENTITY_INSERT ${table} OFF`,
        bindings as Knex.Value[],
      );
    },
  };
}
