import { mssqlConversations } from "./conversations.ts";
import type {
  Burial,
  ClaimKey,
  ClaimRequest,
  Db,
  DedupeKey,
  Dialect,
  Extension,
  NewMessage,
  Release,
} from "./dialect.ts";
import {
  CLAIMED,
  DEAD,
  DOCUMENTS,
  ENVELOPE,
  GIVEN,
  list,
  SHUT,
  TOLD,
  UNKEYED,
} from "./envelope-columns.ts";
import { envelopeWith, mssqlRuns } from "./failed-runs.ts";
import { faultOfMssql } from "./faults.ts";
import { holdKeys } from "./hold-keys.ts";
import { mssqlInbox } from "./inbox.ts";
import { mssqlGates, mssqlLeased } from "./mssql-gates.ts";
import { stillOpen } from "./mssql-knex.ts";
import { type PlainMessages, rowsOfPlain } from "./plain-messages.ts";
import { claimedRow, claimsAsJson, inOrder, parseText, rowsAsJson, seqs } from "./rows.ts";
import { query } from "./sql.ts";

const NOW = "DATEDIFF_BIG(MILLISECOND, '1970-01-01', SYSUTCDATETIME())";

/** Differs from PostgreSQL: the clock advances within a statement, so each batch reads it once. */
const READ_CLOCK = `DECLARE @now bigint = ${NOW};`;

/**
 * A pooled connection keeps the isolation level of the transaction before; READPAST is refused under SERIALIZABLE.
 * It ends with the batch.
 */
const READ_COMMITTED = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;";

const CLAIM_KEYS = "OPENJSON(:items) WITH (seq bigint '$.seq', receipt bigint '$.receipt') j";

const PROMOTE = 500;

/**
 * READPAST walks past what another claimer holds; UPDLOCK keeps two from choosing one row; ROWLOCK because
 * READPAST does not skip page locks; READCOMMITTEDLOCK because under read committed snapshot READPAST needs it.
 */
const CHOOSE = "WITH (UPDLOCK, READPAST, ROWLOCK, READCOMMITTEDLOCK)";

export function mssql(prefix: string): Dialect {
  const messages = `${prefix}messages`;
  const archive = `${prefix}archive`;
  const dead = `${prefix}dead_letters`;
  const dedupe = `${prefix}dedupe`;
  const mailboxes = `${prefix}mailboxes`;

  // JSON documents are nested as JSON and taken out with AS JSON; content is always an object or an array,
  // because AS JSON gives NULL for a bare scalar.
  const INSERT = `
    ${READ_CLOCK}
    INSERT INTO ${messages} (${list(GIVEN)}, created_at, expires_at, state, visible_at, due_at, receipt, attempt, max_attempts, redriven, lane, rank)
    SELECT ${list(GIVEN, "j")}, @now, COALESCE(j.expires_at, v.visible_at + j.ttl_ms), s.state, v.visible_at,
           CASE WHEN s.state = 1 THEN v.visible_at END, 0, 0, j.max_attempts, 0, COALESCE(j.lane, N''),
           COALESCE(j.rank, CASE WHEN j.aging_ms IS NULL THEN 100 - j.priority
                                 ELSE v.visible_at - j.priority * j.aging_ms / 10 END)
    FROM OPENJSON(:items) WITH (
      n int '$.n', message_id nvarchar(128) '$.message_id', from_agent nvarchar(128) '$.from_agent',
      to_agent nvarchar(128) '$.to_agent', message_type nvarchar(128) '$.message_type',
      original_type nvarchar(128) '$.original_type', kind nvarchar(16) '$.kind',
      content nvarchar(max) '$.content' AS JSON, headers nvarchar(max) '$.headers' AS JSON,
      correlation_id nvarchar(128) '$.correlation_id', causation_id nvarchar(128) '$.causation_id',
      reply_to nvarchar(128) '$.reply_to', context_id nvarchar(128) '$.context_id', task_id nvarchar(128) '$.task_id',
      subject nvarchar(max) '$.subject', ordering_key nvarchar(128) '$.ordering_key',
      concurrency_key nvarchar(128) '$.concurrency_key', cost int '$.cost', delivery nvarchar(16) '$.delivery',
      retry nvarchar(max) '$.retry' AS JSON, hops int '$.hops', trail nvarchar(max) '$.trail' AS JSON,
      content_encoding nvarchar(16) '$.content_encoding', lane nvarchar(128) '$.lane', rank bigint '$.rank',
      aging_ms bigint '$.aging_ms',
      dedupe_key nvarchar(255) '$.dedupe_key', priority smallint '$.priority', max_attempts int '$.max_attempts',
      delay_ms bigint '$.delay_ms', available_at bigint '$.available_at', ttl_ms bigint '$.ttl_ms',
      expires_at bigint '$.expires_at') j
    CROSS APPLY (SELECT COALESCE(j.available_at, @now + COALESCE(j.delay_ms, 0)) AS visible_at) v
    CROSS APPLY (SELECT CASE WHEN j.ordering_key IS NOT NULL THEN 2
                             WHEN v.visible_at > @now THEN 1
                             WHEN j.concurrency_key IS NOT NULL THEN 2 ELSE 0 END AS state) s
    ORDER BY j.n`;

  // Differs from PostgreSQL: no ON CONFLICT. Keys whose window has passed go first, then those that are free are
  // taken. HOLDLOCK keeps the place of a missing key, so a second sender of it waits for this transaction; keys
  // come sorted, so that two batches take their locks in one order.
  const KEYS =
    "OPENJSON(:items) WITH (dedupe_key nvarchar(400) '$.key', message_id nvarchar(128) '$.message_id', window_ms bigint '$.window_ms') j";
  const HOLD = `
    ${READ_CLOCK}
    DELETE d FROM ${dedupe} d WITH (UPDLOCK, HOLDLOCK, ROWLOCK)
    JOIN ${KEYS} ON d.dedupe_key = j.dedupe_key COLLATE Latin1_General_100_BIN2
    WHERE d.expires_at <= @now;
    INSERT INTO ${dedupe} (dedupe_key, message_id, expires_at)
    OUTPUT inserted.dedupe_key
    SELECT j.dedupe_key, j.message_id, @now + j.window_ms FROM ${KEYS}
    WHERE NOT EXISTS (SELECT 1 FROM ${dedupe} d WITH (UPDLOCK, HOLDLOCK, ROWLOCK)
                      WHERE d.dedupe_key = j.dedupe_key COLLATE Latin1_General_100_BIN2)`;

  const HELD = `
    SELECT d.dedupe_key AS [key], d.message_id AS message_id FROM ${dedupe} d
    JOIN OPENJSON(:keys) WITH (name nvarchar(400) '$') k ON d.dedupe_key = k.name COLLATE Latin1_General_100_BIN2`;

  // Looked for past what is locked: another's open transaction must not hold up the claims of a mailbox.
  const LOOK_DUE = `SELECT TOP (1) 1 FROM ${messages} WITH (READPAST, ROWLOCK, READCOMMITTEDLOCK) WHERE to_agent = :agent AND state = 1 AND due_at <= @now AND concurrency_key IS NULL`;

  // Promotion and claim in one batch: one round trip, two statements. INNER LOOP JOIN leads from the rows chosen
  // to the table by its key, whatever the plan was compiled with: a scan would wait for rows that others hold.
  const CLAIM = `
    ${READ_COMMITTED}
    ${READ_CLOCK}
    IF EXISTS (${LOOK_DUE})
      UPDATE m SET state = 0 FROM (
        SELECT TOP (${PROMOTE}) seq FROM ${messages} ${CHOOSE}
        WHERE to_agent = :agent AND state = 1 AND due_at <= @now AND concurrency_key IS NULL ORDER BY due_at) c
      INNER LOOP JOIN ${messages} m WITH (ROWLOCK) ON m.seq = c.seq;
    UPDATE m SET
      ${mssqlLeased}
    OUTPUT ${list(ENVELOPE, "inserted")}, ${list(CLAIMED, "inserted")}
    FROM (
      SELECT TOP (:limit) q.seq FROM ${messages} q ${CHOOSE}
      WHERE q.to_agent = :agent AND q.lane = N'' AND q.state = 0 AND q.visible_at <= @now
        AND (:types IS NULL OR q.message_type IN (SELECT t.name COLLATE Latin1_General_100_BIN2 FROM OPENJSON(:types) WITH (name nvarchar(128) '$') t))
        AND NOT EXISTS (SELECT 1 FROM ${mailboxes} WHERE ${SHUT})
      ORDER BY q.rank, q.seq) c
    INNER LOOP JOIN ${messages} m WITH (ROWLOCK) ON m.seq = c.seq
    WHERE m.visible_at <= @now`;

  const VALID = "m.seq = j.seq AND m.receipt = j.receipt AND m.worker_id IS NOT NULL";

  const COMPLETE = `
    DELETE m OUTPUT deleted.seq FROM ${CLAIM_KEYS} INNER LOOP JOIN ${messages} m WITH (ROWLOCK) ON ${VALID}`;

  // Differs from PostgreSQL: what is deleted there and inserted elsewhere in one statement is copied, with the
  // rows locked, and deleted then, in one batch: one round trip, and one transaction also outside a caller's.
  const together = (statements: string) =>
    `SET XACT_ABORT ON; BEGIN TRANSACTION; ${statements}; COMMIT TRANSACTION`;
  const COPIED = `${messages} m WITH (UPDLOCK, ROWLOCK)`;

  const COMPLETE_AND_ARCHIVE = together(`
    ${READ_CLOCK}
    INSERT INTO ${archive} (seq, ${list(ENVELOPE)}, outcome, worker_id, attempt, finished_at)
    OUTPUT inserted.seq
    SELECT m.seq, ${list(ENVELOPE, "m")}, N'processed', m.worker_id, m.attempt, @now
    FROM ${CLAIM_KEYS} INNER LOOP JOIN ${COPIED} ON ${VALID};
    DELETE m FROM ${CLAIM_KEYS} INNER LOOP JOIN ${messages} m ON ${VALID}`);

  // A comma join: Babelfish loses the joined table in SET where OUTPUT stands beside JOIN. FORCE ORDER leads from the
  // list to the table, as INNER LOOP JOIN does.
  const RELEASE = `
    ${READ_CLOCK}
    UPDATE m SET
      state = CASE WHEN j.delay_ms > 0 THEN 1 ELSE 0 END,
      visible_at = @now + j.delay_ms,
      due_at = CASE WHEN j.delay_ms > 0 THEN @now + j.delay_ms END,
      worker_id = NULL,
      receipt = m.receipt + 1,
      attempt = m.attempt - CASE WHEN j.keep_attempt = 1 THEN 1 ELSE 0 END,
      max_attempts = CASE WHEN j.max_attempts > m.max_attempts THEN j.max_attempts ELSE m.max_attempts END,
      last_error = COALESCE(j.error, m.last_error),
      failures = ${mssqlRuns.failed("m.", "j.failure", "@now")},
      first_failed_at = CASE WHEN j.failure IS NULL THEN m.first_failed_at ELSE COALESCE(m.first_failed_at, @now) END
    OUTPUT inserted.seq
    FROM OPENJSON(:items) WITH (seq bigint '$.seq', receipt bigint '$.receipt', delay_ms bigint '$.delay_ms',
      keep_attempt bit '$.keep_attempt', error nvarchar(max) '$.error' AS JSON,
      failure nvarchar(max) '$.failure' AS JSON, max_attempts int '$.max_attempts') j, ${messages} m WITH (ROWLOCK)
    WHERE ${VALID}
    OPTION (LOOP JOIN, FORCE ORDER)`;

  const EXTEND = `
    ${READ_CLOCK}
    UPDATE m SET visible_at = @now + j.lease_ms, progress = COALESCE(j.progress, m.progress)
    OUTPUT inserted.seq
    FROM OPENJSON(:items) WITH (seq bigint '$.seq', receipt bigint '$.receipt', lease_ms bigint '$.lease_ms',
      progress nvarchar(max) '$.progress' AS JSON) j, ${messages} m WITH (ROWLOCK)
    WHERE ${VALID}
    OPTION (LOOP JOIN, FORCE ORDER)`;

  const DEAD_COLUMNS = `seq, ${list(ENVELOPE)}, ${list(DEAD)}, reason, last_error, fingerprint, receipt, failed_at`;

  const BURY = together(`
    ${READ_CLOCK}
    INSERT INTO ${dead} (${DEAD_COLUMNS})
    OUTPUT inserted.seq
    SELECT m.seq, ${envelopeWith(mssqlRuns.failed("m.", "j.failure", "@now"), "m")}, ${list(DEAD, "m")}, j.reason,
           COALESCE(j.error, m.last_error), j.fingerprint, m.receipt + 1, @now
    FROM OPENJSON(:items) WITH (seq bigint '$.seq', receipt bigint '$.receipt', reason nvarchar(32) '$.reason',
      error nvarchar(max) '$.error' AS JSON, fingerprint nvarchar(64) '$.fingerprint',
      failure nvarchar(max) '$.failure' AS JSON) j
    INNER LOOP JOIN ${COPIED} ON ${VALID};
    DELETE m FROM ${CLAIM_KEYS} INNER LOOP JOIN ${messages} m ON ${VALID}`);

  const BURY_EXPIRED = `${READ_COMMITTED} ${together(`
    ${READ_CLOCK}
    DECLARE @gone TABLE (seq bigint PRIMARY KEY);
    INSERT INTO @gone (seq)
    SELECT TOP (:limit) q.seq FROM ${messages} q ${CHOOSE}
    WHERE q.expires_at IS NOT NULL AND q.expires_at <= @now AND (q.worker_id IS NULL OR q.visible_at <= @now) AND ${UNKEYED}
    ORDER BY q.expires_at;
    INSERT INTO ${dead} (${DEAD_COLUMNS})
    OUTPUT ${list(TOLD, "inserted")}
    SELECT m.seq, ${list(ENVELOPE, "m")}, ${list(DEAD, "m")}, N'expired', m.last_error, N'expired', m.receipt + 1, @now
    FROM @gone g INNER LOOP JOIN ${COPIED} ON m.seq = g.seq;
    DELETE m FROM @gone g INNER LOOP JOIN ${messages} m ON m.seq = g.seq`)}`;

  return {
    name: "mssql",
    now: NOW,
    gates: mssqlGates(prefix, NOW),
    inbox: mssqlInbox(prefix, NOW),
    conversations: mssqlConversations(prefix, NOW),
    jsonText: (column, field) =>
      `(JSON_VALUE(${column}, '$.${field}') COLLATE Latin1_General_100_BIN2)`,

    async insertMessages(db: Db, rows: readonly NewMessage[]) {
      await query(db, INSERT, { items: rowsAsJson(rows, DOCUMENTS) });
    },

    async insertPlain(db: Db, plain: PlainMessages) {
      await query(db, INSERT, { items: rowsAsJson(rowsOfPlain(plain), DOCUMENTS) });
    },

    async holdKeys(db: Db, keys: readonly DedupeKey[]) {
      const sorted = [...keys].sort((a, b) => (a.key < b.key ? -1 : 1));
      return holdKeys(db, HOLD, HELD, sorted);
    },

    async claim(db: Db, request: ClaimRequest) {
      const answer = await query(db, CLAIM, {
        agent: request.agentId,
        limit: request.limit,
        lease: request.leaseMs,
        worker: request.workerId,
        types: request.messageTypes === null ? null : JSON.stringify(request.messageTypes),
      });
      return answer.map((row) => claimedRow(row, parseText)).sort(inOrder);
    },

    async complete(db: Db, claims: readonly ClaimKey[], keep: boolean) {
      const text = keep ? COMPLETE_AND_ARCHIVE : COMPLETE;
      return seqs(await query(db, text, { items: claimsAsJson(claims) }));
    },

    async release(db: Db, releases: readonly Release[]) {
      return seqs(await query(db, RELEASE, { items: rowsAsJson(releases, ["error", "failure"]) }));
    },

    async extend(db: Db, extensions: readonly Extension[]) {
      return seqs(await query(db, EXTEND, { items: rowsAsJson(extensions, ["progress"]) }));
    },

    async bury(db: Db, burials: readonly Burial[]) {
      return seqs(await query(db, BURY, { items: rowsAsJson(burials, ["error", "failure"]) }));
    },

    async buryExpired(db: Db, limit: number) {
      return query(db, BURY_EXPIRED, { limit });
    },

    async takeOut(db: Db, table: string, wanted: readonly number[], columns = ["*"]) {
      return query(
        db,
        `DELETE m OUTPUT ${list(columns, "deleted")} FROM OPENJSON(:seqs) WITH (seq bigint '$') j INNER LOOP JOIN ${table} m WITH (ROWLOCK) ON m.seq = j.seq`,
        { seqs: JSON.stringify(wanted) },
      );
    },

    async lock(trx: Db, name: string) {
      await query(
        trx,
        "DECLARE @got int; EXEC @got = sp_getapplock @Resource = :name, @LockMode = 'Exclusive', @LockOwner = 'Transaction', @LockTimeout = 20000; IF @got < 0 THROW 51222, 'the lock was not had within 20 s', 1",
        { name },
      );
    },

    stillOpen,

    async beginWrite() {
      // Locks are taken by the statements, as in PostgreSQL.
    },

    classify: faultOfMssql,
  };
}
