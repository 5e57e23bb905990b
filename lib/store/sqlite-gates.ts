import type { Db, GateStatements, KeyRef } from "./dialect.ts";
import { CLAIMED, ENVELOPE, list } from "./envelope-columns.ts";
import { sqliteRuns } from "./failed-runs.ts";
import { gateCalls } from "./gate-calls.ts";
import { lockedKey } from "./rows.ts";
import { int, query } from "./sql.ts";

const PROMOTE = 500;

/** What a claim sets. Bound: lease, worker. */
export const sqliteLeased = (now: string) => `
      visible_at = ${now} + :lease,
      receipt = receipt + 1,
      attempt = attempt + CASE WHEN attempt < max_attempts AND (expires_at IS NULL OR expires_at > ${now}) THEN 1 ELSE 0 END,
      worker_id = CASE WHEN expires_at <= ${now} THEN '!expired'
                       WHEN attempt >= max_attempts THEN '!max_attempts'
                       ELSE :worker END,
      failures = ${sqliteRuns.lapsed("")}`;

/** The file's one write lock is held by every transaction of ours: the keys' rows need none of their own. */
export function sqliteGates(prefix: string, now: string): GateStatements {
  const messages = `${prefix}messages`;
  const mailboxes = `${prefix}mailboxes`;
  const keys = `${prefix}keys`;

  const MAKE = `
    INSERT INTO ${keys} (to_agent, kind, name)
    SELECT value ->> '$.to_agent', value ->> '$.kind', value ->> '$.name' FROM json_each(:items) WHERE true
    ON CONFLICT DO NOTHING`;

  const LOCKED = `
    SELECT k.to_agent, k.kind, k.name, k.last_rank, k.halted_by FROM json_each(:items) j CROSS JOIN ${keys} k
    WHERE k.to_agent = j.value ->> '$.to_agent' AND k.kind = j.value ->> '$.kind' AND k.name = j.value ->> '$.name'`;

  const MAKE_READY = `
    state = CASE WHEN visible_at > ${now} THEN 1 ELSE 0 END,
    due_at = CASE WHEN visible_at > ${now} THEN visible_at END`;

  // Not state = 2: by statistics of an hour when little was blocked, the index of the blocked would be read for it.
  const OPEN_ORDER = `
    UPDATE ${messages} SET ${MAKE_READY}
    WHERE state >= 2 AND state <= 2 AND seq IN (
      SELECT (SELECT m.seq FROM ${messages} m
              WHERE m.to_agent = j.value ->> '$.to_agent' AND m.ordering_key = j.value ->> '$.name'
              ORDER BY m.seq LIMIT 1)
      FROM json_each(:items) j
      WHERE j.value ->> '$.kind' = 'order'
        AND NOT EXISTS (SELECT 1 FROM ${keys} k
                        WHERE k.to_agent = j.value ->> '$.to_agent' AND k.kind = 'order' AND k.name = j.value ->> '$.name'
                          AND k.halted_by IS NOT NULL))
    RETURNING to_agent`;

  const FREE = `
    SELECT value ->> '$.to_agent' AS agent, value ->> '$.name' AS name,
           coalesce((SELECT key_limit FROM ${mailboxes} WHERE agent_id = value ->> '$.to_agent'), 1)
           - (SELECT count(*) FROM ${messages}
              WHERE to_agent = value ->> '$.to_agent' AND concurrency_key = value ->> '$.name' AND state = 0) AS free
    FROM json_each(:items)`;

  // Differs from PostgreSQL: a LIMIT here cannot look at another column, so a key with room for more than one is opened
  // by itself.
  const OPEN_SHARES = `
    UPDATE ${messages} SET ${MAKE_READY}
    WHERE seq IN (
      SELECT (SELECT m.seq FROM ${messages} m
              WHERE m.to_agent = j.value ->> '$.agent' AND m.concurrency_key = j.value ->> '$.name' AND m.state = 2
              ORDER BY m.rank, m.seq LIMIT 1)
      FROM json_each(:items) j)
    RETURNING to_agent`;

  const OPEN_SHARE = `
    UPDATE ${messages} SET ${MAKE_READY}
    WHERE seq IN (SELECT seq FROM ${messages} WHERE to_agent = :agent AND concurrency_key = :name AND state = 2
                  ORDER BY rank, seq LIMIT :free)
    RETURNING to_agent`;

  const CLOSE_SHARE = `
    UPDATE ${messages} SET state = 2, worker_id = NULL, failures = ${sqliteRuns.lapsed("")}
    WHERE seq IN (SELECT seq FROM ${messages} WHERE to_agent = :agent AND concurrency_key = :name AND state = 0 AND visible_at <= ${now}
                  ORDER BY rank DESC, seq DESC LIMIT :surplus)`;

  const FORGET = `
    DELETE FROM ${keys} WHERE halted_by IS NULL AND rowid IN (
      SELECT k.rowid FROM json_each(:items) j CROSS JOIN ${keys} k
      WHERE k.to_agent = j.value ->> '$.to_agent' AND k.kind = j.value ->> '$.kind' AND k.name = j.value ->> '$.name'
        AND CASE k.kind
          WHEN 'order' THEN NOT EXISTS (SELECT 1 FROM ${messages} m WHERE m.to_agent = k.to_agent AND m.ordering_key = k.name)
          WHEN 'share' THEN NOT EXISTS (SELECT 1 FROM ${messages} m WHERE m.to_agent = k.to_agent AND m.concurrency_key = k.name)
          ELSE 0 END)`;

  const ANY_READY = `
    SELECT EXISTS (SELECT 1 FROM ${messages} WHERE to_agent = :agent AND state = 0 AND visible_at <= ${now})
        OR EXISTS (SELECT 1 FROM ${messages} WHERE to_agent = :agent AND state = 1 AND due_at <= ${now}) AS found`;

  const PROMOTE_DUE = `
    UPDATE ${messages} SET state = 0
    WHERE seq IN (SELECT seq FROM ${messages} WHERE to_agent = :agent AND state = 1 AND due_at <= ${now} AND concurrency_key IS NULL
                  ORDER BY due_at LIMIT ${PROMOTE})`;

  const CANDIDATES = `
    SELECT seq, rank, lane, message_type, coalesce(cost, 1) AS cost,
           attempt >= max_attempts OR coalesce(expires_at <= ${now}, 0) AS doomed
    FROM ${messages}
    WHERE to_agent = :agent AND lane = :lane AND state = 0 AND visible_at <= ${now}
      AND (:types IS NULL OR message_type IN (SELECT value FROM json_each(:types)))
      AND kind NOT IN (SELECT value FROM json_each(:held_kinds))
      AND message_type NOT IN (SELECT value FROM json_each(:held_types))
    ORDER BY rank, seq LIMIT :limit`;

  const TAKE = `
    UPDATE ${messages} SET
      ${sqliteLeased(now)}
    WHERE seq IN (SELECT value FROM json_each(:seqs))
    RETURNING ${list(ENVELOPE)}, ${list(CLAIMED)}`;

  /** The concurrency keys among these, and how many more each may have in flight; below 0: fewer. */
  const rooms = async (trx: Db, refs: readonly KeyRef[]) => {
    const shares = refs.filter(({ kind }) => kind === "share");
    if (shares.length === 0) return [];
    const rows = await query(trx, FREE, { items: JSON.stringify(shares) });
    return rows.map((row) => ({
      ...{ agent: String(row.agent), name: String(row.name), free: int(row.free) },
    }));
  };

  return {
    ...gateCalls({
      ...{ anyReady: ANY_READY, promote: PROMOTE_DUE, candidates: CANDIDATES, take: TAKE },
    }),

    async lockKeys(trx: Db, refs: readonly KeyRef[], wait: boolean) {
      const items = JSON.stringify(refs);
      if (wait) await query(trx, MAKE, { items });
      return (await query(trx, LOCKED, { items })).map(lockedKey);
    },

    async openKeys(trx: Db, refs: readonly KeyRef[]) {
      const items = JSON.stringify(refs);
      const opened = await query(trx, OPEN_ORDER, { items });
      const shares = await rooms(trx, refs);
      const alone = shares.filter(({ free }) => free === 1);
      if (alone.length > 0) {
        opened.push(...(await query(trx, OPEN_SHARES, { items: JSON.stringify(alone) })));
      }
      for (const share of shares) {
        if (share.free > 1) opened.push(...(await query(trx, OPEN_SHARE, share)));
      }
      await query(trx, FORGET, { items });
      return opened.map((row) => String(row.to_agent));
    },

    async closeKeys(trx: Db, refs: readonly KeyRef[]) {
      for (const { agent, name, free } of await rooms(trx, refs)) {
        if (free < 0) await query(trx, CLOSE_SHARE, { agent, name, surplus: -free });
      }
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
      await trx(table).insert(row);
    },
  };
}
