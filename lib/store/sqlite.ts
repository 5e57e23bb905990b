import { sqliteConversations } from "./conversations.ts";
import type { Burial, Db, DedupeKey, Dialect, Extension, Release } from "./dialect.ts";
import { DEAD, ENVELOPE, list, TOLD, UNKEYED } from "./envelope-columns.ts";
import { envelopeWith, sqliteRuns } from "./failed-runs.ts";
import { faultOfSqlite } from "./faults.ts";
import { holdKeys } from "./hold-keys.ts";
import { sqliteInbox } from "./inbox.ts";
import { rowsAsJson, seqs } from "./rows.ts";
import { query, transaction } from "./sql.ts";
import { beganImmediate } from "./sqlite-begin.ts";
import { sqliteClaim } from "./sqlite-claim.ts";
import { sqliteGates } from "./sqlite-gates.ts";
import { sqliteInsert } from "./sqlite-send.ts";
import { sqliteComplete } from "./sqlite-settle.ts";

/** Differs from PostgreSQL: fixed within one statement by SQLite itself. */
const NOW = "CAST(round(unixepoch('subsec') * 1000) AS INTEGER)";

export function sqlite(prefix: string): Dialect {
  const messages = `${prefix}messages`;
  const dead = `${prefix}dead_letters`;
  const dedupe = `${prefix}dedupe`;

  const HOLD = `
    INSERT INTO ${dedupe} AS d (dedupe_key, message_id, expires_at)
    SELECT value ->> '$.key', value ->> '$.message_id', ${NOW} + (value ->> '$.window_ms')
    FROM json_each(:items) WHERE true
    ON CONFLICT (dedupe_key) DO UPDATE SET message_id = excluded.message_id, expires_at = excluded.expires_at
      WHERE d.expires_at <= ${NOW}
    RETURNING dedupe_key`;

  const HELD = `
    SELECT dedupe_key AS key, message_id FROM ${dedupe}
    WHERE dedupe_key IN (SELECT value FROM json_each(:keys))`;

  const VALID = `m.seq = j.seq AND m.receipt = j.receipt AND m.worker_id IS NOT NULL`;

  const RELEASE = `
    UPDATE ${messages} AS m SET
      state = CASE WHEN j.delay_ms > 0 THEN 1 ELSE 0 END,
      visible_at = ${NOW} + j.delay_ms,
      due_at = CASE WHEN j.delay_ms > 0 THEN ${NOW} + j.delay_ms END,
      worker_id = NULL,
      receipt = m.receipt + 1,
      attempt = m.attempt - CASE WHEN j.keep_attempt THEN 1 ELSE 0 END,
      max_attempts = CASE WHEN j.max_attempts > m.max_attempts THEN j.max_attempts ELSE m.max_attempts END,
      last_error = coalesce(j.error, m.last_error),
      failures = ${sqliteRuns.failed("m.", "j.failure", NOW)},
      first_failed_at = CASE WHEN j.failure IS NULL THEN m.first_failed_at ELSE coalesce(m.first_failed_at, ${NOW}) END
    FROM (SELECT value ->> '$.seq' AS seq, value ->> '$.receipt' AS receipt, value ->> '$.delay_ms' AS delay_ms,
                 value ->> '$.keep_attempt' AS keep_attempt, value ->> '$.error' AS error,
                 value ->> '$.failure' AS failure, value ->> '$.max_attempts' AS max_attempts
          FROM json_each(:items)) j
    WHERE ${VALID}
    RETURNING seq`;

  const EXTEND = `
    UPDATE ${messages} AS m SET visible_at = ${NOW} + j.lease_ms, progress = coalesce(j.progress, m.progress)
    FROM (SELECT value ->> '$.seq' AS seq, value ->> '$.receipt' AS receipt, value ->> '$.lease_ms' AS lease_ms,
                 value -> '$.progress' AS progress
          FROM json_each(:items)) j
    WHERE ${VALID}
    RETURNING seq`;

  const BURY = `
    INSERT INTO ${dead} (seq, ${list(ENVELOPE)}, ${list(DEAD)}, reason, last_error, fingerprint, receipt, failed_at)
    SELECT m.seq, ${envelopeWith(sqliteRuns.failed("m.", "j.failure", NOW), "m")}, ${list(DEAD, "m")}, j.reason,
           coalesce(j.error, m.last_error), j.fingerprint, m.receipt + 1, ${NOW}
    FROM (SELECT value ->> '$.seq' AS seq, value ->> '$.receipt' AS receipt, value ->> '$.reason' AS reason,
                 value ->> '$.error' AS error, value ->> '$.fingerprint' AS fingerprint,
                 value ->> '$.failure' AS failure
          FROM json_each(:items)) j
    CROSS JOIN ${messages} m WHERE ${VALID}
    RETURNING seq`;

  const EXPIRED = `
    FROM ${messages} WHERE expires_at <= ${NOW} AND (worker_id IS NULL OR visible_at <= ${NOW}) AND ${UNKEYED}
    ORDER BY expires_at LIMIT :limit`;

  const BURY_EXPIRED = `
    INSERT INTO ${dead} (seq, ${list(ENVELOPE)}, ${list(DEAD)}, reason, last_error, fingerprint, receipt, failed_at)
    SELECT seq, ${list(ENVELOPE)}, ${list(DEAD)}, 'expired', last_error, 'expired', receipt + 1, ${NOW}
    ${EXPIRED}
    RETURNING ${list(TOLD)}`;

  const DELETE_SEQS = `DELETE FROM ${messages} WHERE seq IN (SELECT value FROM json_each(:seqs))`;
  const LOOK_EXPIRED = `SELECT EXISTS (SELECT 1 FROM ${messages} WHERE expires_at <= ${NOW}) AS found`;

  const dialect: Dialect = {
    name: "sqlite",
    now: NOW,
    gates: sqliteGates(prefix, NOW),
    inbox: sqliteInbox(prefix, NOW),
    conversations: sqliteConversations(prefix, NOW),
    jsonText: (column, field) => `(${column} ->> '$.${field}')`,

    ...sqliteInsert(prefix, NOW),

    async holdKeys(db: Db, keys: readonly DedupeKey[]) {
      return holdKeys(db, HOLD, HELD, keys);
    },

    claim: sqliteClaim(prefix, NOW),

    complete: sqliteComplete(prefix, NOW, () => dialect),

    async release(db: Db, releases: readonly Release[]) {
      return seqs(await query(db, RELEASE, { items: JSON.stringify(releases) }));
    },

    async extend(db: Db, extensions: readonly Extension[]) {
      return seqs(await query(db, EXTEND, { items: rowsAsJson(extensions, ["progress"]) }));
    },

    async bury(db: Db, burials: readonly Burial[]) {
      return transaction(dialect, db, async (trx) => {
        const buried = seqs(await query(trx, BURY, { items: JSON.stringify(burials) }));
        await query(trx, DELETE_SEQS, { seqs: JSON.stringify(buried) });
        return buried;
      });
    },

    async buryExpired(db: Db, limit: number) {
      const [look] = await query(db, LOOK_EXPIRED);
      if (!look?.found) return [];
      return transaction(dialect, db, async (trx) => {
        const gone = await query(trx, BURY_EXPIRED, { limit });
        await query(trx, DELETE_SEQS, { seqs: JSON.stringify(seqs(gone)) });
        return gone;
      });
    },

    async takeOut(db: Db, table: string, wanted: readonly number[], columns = ["*"]) {
      return query(
        db,
        `DELETE FROM ${table} WHERE seq IN (SELECT value FROM json_each(:seqs)) RETURNING ${list(columns)}`,
        { seqs: JSON.stringify(wanted) },
      );
    },

    async lock() {
      // Differs from PostgreSQL: beginWrite holds the file's only write lock already.
    },

    async stillOpen(trx: Db) {
      // Where the disk was full, SQLite has rolled back and commits each statement from then on. Only a BEGIN tells:
      // inside a transaction it is refused.
      try {
        await query(trx, "BEGIN");
      } catch {
        return true;
      }
      await query(trx, "ROLLBACK");
      return false;
    },

    async beginWrite(trx: Db) {
      if (beganImmediate(trx)) return;
      // knex begins DEFERRED: a transaction that reads and then writes would fail at once, without any waiting,
      // when another process wrote in between. A write that changes nothing takes the write lock first.
      await query(trx, "DELETE FROM sqlite_sequence WHERE 0");
    },

    async impatient() {
      // Differs from PostgreSQL: who begins has the file's only write lock, and waits for nobody any more.
    },

    classify: faultOfSqlite,
  };
  return dialect;
}
