import { postgresConversations } from "./conversations.ts";
import type {
  Burial,
  ClaimKey,
  Db,
  DedupeKey,
  Dialect,
  Extension,
  NewMessage,
  Release,
  WakeUp,
} from "./dialect.ts";
import { DEAD, DOCUMENTS, ENVELOPE, GIVEN, list, TOLD, UNKEYED } from "./envelope-columns.ts";
import { envelopeWith, postgresRuns } from "./failed-runs.ts";
import { faultOfPostgres } from "./faults.ts";
import { holdKeys } from "./hold-keys.ts";
import { postgresInbox } from "./inbox.ts";
import { HEAD, headsAsJson, insertOne, type PlainMessages } from "./plain-messages.ts";
import { postgresClaim } from "./postgres-claim.ts";
import { copyMessages } from "./postgres-copy.ts";
import { postgresGates } from "./postgres-gates.ts";
import { plannedAnew, prepared } from "./prepared.ts";
import { rowsAsJson, seqs } from "./rows.ts";
import { query } from "./sql.ts";

/**
 * The clock once per statement: STABLE, so that an index can be searched with it, and it moves inside a
 * caller's long transaction, which now() would not.
 */
const NOW = "CAST(floor(extract(epoch FROM statement_timestamp()) * 1000) AS bigint)";

/** A column of a batch with its type. */
function typed(column: string): string {
  const document = (DOCUMENTS as readonly string[]).includes(column);
  const number = { priority: "smallint", max_attempts: "int", cost: "int", hops: "int" }[column];
  return `${column} ${document ? "jsonb" : (number ?? "text")}`;
}

/** The batch as `j`, and its rows of the live table as `m`. */
const items = (columns: string) =>
  `WITH j AS MATERIALIZED (SELECT * FROM jsonb_to_recordset(CAST(:items AS jsonb)) AS j(seq bigint, receipt bigint${columns}))`;

/** As `items`, of claims alone: two arrays are read in a third of the time of a document. */
const CLAIMS =
  "WITH j AS MATERIALIZED (SELECT * FROM unnest(CAST(:seqs AS bigint[]), CAST(:receipts AS bigint[])) AS j(seq, receipt))";

/**
 * The claims that are still valid. The array drives the scan through the primary key whatever the statistics
 * say: after a quiet night they say that no worker_id is set, and the planner would rather read the whole table
 * for its "no rows" than look a few up. For the same reason the last condition is one without statistics.
 */
const VALID =
  "m.seq = ANY (ARRAY(SELECT seq FROM j)) AND m.seq = j.seq AND m.receipt = j.receipt AND length(m.worker_id) > 0";

export function postgres(prefix: string, prepare = true): Dialect {
  const often = prepare ? prepared : query;
  const messages = `${prefix}messages`;
  const archive = `${prefix}archive`;
  const dead = `${prefix}dead_letters`;
  const dedupe = `${prefix}dedupe`;

  // Materialized, the clock is read once: as a subquery it would be for every row and column.
  const CLOCK = `WITH t AS MATERIALIZED (SELECT ${NOW} AS now)`;

  const INSERT = `
    ${CLOCK}
    INSERT INTO ${messages} (${list(GIVEN)}, created_at, expires_at, state, visible_at, due_at, receipt, attempt, max_attempts, redriven, lane, rank)
    SELECT ${list(GIVEN, "j")}, t.now, coalesce(j.expires_at, v.visible_at + j.ttl_ms), s.state, v.visible_at,
           CASE WHEN s.state = 1 THEN v.visible_at END, 0, 0, j.max_attempts, 0, coalesce(j.lane, ''),
           coalesce(j.rank, CASE WHEN j.aging_ms IS NULL THEN 100 - j.priority
                                 ELSE v.visible_at - j.priority * j.aging_ms / 10 END)
    FROM t CROSS JOIN jsonb_to_recordset(CAST(:items AS jsonb)) AS j(
      n int, message_id text, from_agent text, to_agent text, message_type text, original_type text, kind text,
      content jsonb, headers jsonb, correlation_id text, causation_id text, reply_to text, context_id text,
      task_id text, subject text, ordering_key text, concurrency_key text, dedupe_key text, priority smallint,
      cost int, delivery text, retry jsonb, hops int, trail jsonb, content_encoding text, max_attempts int,
      delay_ms bigint, available_at bigint, ttl_ms bigint, expires_at bigint, lane text, rank bigint, aging_ms bigint)
    CROSS JOIN LATERAL (SELECT coalesce(j.available_at, t.now + coalesce(j.delay_ms, 0)) AS visible_at) v
    CROSS JOIN LATERAL (SELECT CASE WHEN j.ordering_key IS NOT NULL THEN 2
                                    WHEN v.visible_at > t.now THEN 1
                                    WHEN j.concurrency_key IS NOT NULL THEN 2 ELSE 0 END AS state) s
    ORDER BY j.n`;

  const one = insertOne(messages, NOW);
  // The wake-up is said by a value that is 0 in any case: a RETURNING would cost as much again as the wake-up.
  const SAID = "CASE WHEN pg_notify(:wake_channel, :wake_payload) IS NULL THEN 0 ELSE 0 END";
  const oneAndWakeUp = insertOne(messages, NOW, SAID);

  // Half of the work for messages that say nothing but themselves. The order is that of the arrays.
  const PLAIN = `
    ${CLOCK}
    INSERT INTO ${messages} (message_id, content, ${list(HEAD)}, created_at, state, visible_at, receipt, attempt, redriven, lane, rank)
    SELECT j.message_id, j.content, ${list(HEAD, "h")}, t.now, 0, t.now, 0, 0, 0, '', 100 - h.priority
    FROM t CROSS JOIN ROWS FROM (
      jsonb_array_elements_text(CAST(:ids AS jsonb)), jsonb_array_elements(CAST(:contents AS jsonb)),
      unnest(CAST(:heads_of AS int[]))) WITH ORDINALITY AS j(message_id, content, head, n)
    JOIN jsonb_to_recordset(CAST(:heads AS jsonb)) AS h(n int, ${HEAD.map(typed).join(", ")}) ON h.n = j.head
    ORDER BY j.n`;

  // The conflict waits for the other sender's transaction to end, so two concurrent sends store one message.
  const HOLD = `
    INSERT INTO ${dedupe} AS d (dedupe_key, message_id, expires_at)
    SELECT j.key, j.message_id, ${NOW} + j.window_ms
    FROM jsonb_to_recordset(CAST(:items AS jsonb)) AS j(key text, message_id text, window_ms bigint)
    ORDER BY j.key
    ON CONFLICT (dedupe_key) DO UPDATE SET message_id = excluded.message_id, expires_at = excluded.expires_at
      WHERE d.expires_at <= ${NOW}
    RETURNING dedupe_key`;

  const HELD = `
    SELECT dedupe_key AS key, message_id FROM ${dedupe}
    WHERE dedupe_key IN (SELECT jsonb_array_elements_text(CAST(:keys AS jsonb)))`;

  const COMPLETE = `
    ${CLAIMS}
    DELETE FROM ${messages} m USING j WHERE ${VALID} RETURNING m.seq`;

  // The clock as a scalar: it is read once, and not for every row.
  const archived = (valid: string) => `
    done AS (DELETE FROM ${messages} m ${valid} RETURNING m.seq, ${list(ENVELOPE, "m")}, m.worker_id, m.attempt)
    INSERT INTO ${archive} (seq, ${list(ENVELOPE)}, outcome, worker_id, attempt, finished_at)
    SELECT seq, ${list(ENVELOPE)}, 'processed', worker_id, attempt, (SELECT ${NOW}) FROM done
    RETURNING seq`;
  const COMPLETE_AND_ARCHIVE = `${CLAIMS}, ${archived(`USING j WHERE ${VALID}`)}`;

  // Most messages are claimed once, so their receipts are equal: no join.
  const ARCHIVE_ALIKE = `WITH ${archived(
    `WHERE m.seq = ANY (CAST(:seqs AS bigint[])) AND m.receipt = :receipt AND length(m.worker_id) > 0
       AND ${plannedAnew(":receipt")}`,
  )}`;

  const RELEASE = `
    ${items(", delay_ms bigint, keep_attempt boolean, error jsonb, failure jsonb, max_attempts int")}
    UPDATE ${messages} m SET
      state = CASE WHEN j.delay_ms > 0 THEN 1 ELSE 0 END,
      visible_at = ${NOW} + j.delay_ms,
      due_at = CASE WHEN j.delay_ms > 0 THEN ${NOW} + j.delay_ms END,
      worker_id = NULL,
      receipt = m.receipt + 1,
      attempt = m.attempt - CASE WHEN j.keep_attempt THEN 1 ELSE 0 END,
      max_attempts = CASE WHEN j.max_attempts > m.max_attempts THEN j.max_attempts ELSE m.max_attempts END,
      last_error = coalesce(j.error, m.last_error),
      failures = ${postgresRuns.failed("m.", "j.failure", NOW)},
      first_failed_at = CASE WHEN j.failure IS NULL THEN m.first_failed_at ELSE coalesce(m.first_failed_at, ${NOW}) END
    FROM j WHERE ${VALID} RETURNING m.seq`;

  const EXTEND = `
    ${items(", lease_ms bigint, progress jsonb")}
    UPDATE ${messages} m SET visible_at = ${NOW} + j.lease_ms, progress = coalesce(j.progress, m.progress)
    FROM j WHERE ${VALID} RETURNING m.seq`;

  const BURY = `
    ${items(", reason text, error jsonb, fingerprint text, failure jsonb")},
    gone AS (
      DELETE FROM ${messages} m USING j WHERE ${VALID}
      RETURNING m.*, j.reason, j.error, j.fingerprint, j.failure)
    INSERT INTO ${dead} (seq, ${list(ENVELOPE)}, ${list(DEAD)}, reason, last_error, fingerprint, receipt, failed_at)
    SELECT seq, ${envelopeWith(postgresRuns.failed("", "failure", NOW))}, ${list(DEAD)}, reason,
           coalesce(error, last_error), fingerprint, receipt + 1, ${NOW}
    FROM gone
    RETURNING seq`;

  const BURY_EXPIRED = `
    WITH gone AS (
      DELETE FROM ${messages} WHERE seq = ANY (ARRAY(
        SELECT seq FROM ${messages}
        WHERE expires_at <= ${NOW} AND (worker_id IS NULL OR visible_at <= ${NOW}) AND ${UNKEYED}
        ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED))
      RETURNING *)
    INSERT INTO ${dead} (seq, ${list(ENVELOPE)}, ${list(DEAD)}, reason, last_error, fingerprint, receipt, failed_at)
    SELECT seq, ${list(ENVELOPE)}, ${list(DEAD)}, 'expired', last_error, 'expired', receipt + 1, ${NOW}
    FROM gone
    RETURNING ${list(TOLD)}`;

  return {
    name: "postgres",
    now: NOW,
    gates: postgresGates(prefix, NOW),
    inbox: postgresInbox(prefix, NOW),
    conversations: postgresConversations(prefix, NOW),
    jsonText: (column, field) => `(${column} ->> '${field}')`,

    async insertMessages(db: Db, rows: readonly NewMessage[]) {
      await often(db, INSERT, { items: rowsAsJson(rows, DOCUMENTS) });
    },

    async insertPlain(db: Db, plain: PlainMessages, wakeUp?: WakeUp) {
      if (plain.count === 1) {
        const { text, bindings } = wakeUp === undefined ? one(plain) : oneAndWakeUp(plain);
        if (wakeUp !== undefined) {
          bindings.wake_channel = wakeUp.channel;
          bindings.wake_payload = wakeUp.payload;
        }
        await often(db, text, bindings);
        if (wakeUp !== undefined) wakeUp.outcome = "carried";
        return;
      }
      if (await copyMessages(db, messages, plain)) return;
      await query(db, PLAIN, {
        ids: JSON.stringify(plain.ids),
        contents: `[${plain.contents.join()}]`,
        heads_of: `{${plain.places.join()}}`,
        heads: headsAsJson(plain.heads, true),
      });
    },

    async holdKeys(db: Db, keys: readonly DedupeKey[]) {
      return holdKeys(db, HOLD, HELD, keys, often);
    },

    claim: postgresClaim(prefix, NOW, often),

    async complete(db: Db, claims: readonly ClaimKey[], keep: boolean) {
      const text = keep ? COMPLETE_AND_ARCHIVE : COMPLETE;
      const all = `{${claims.map(({ seq }) => seq).join()}}`;
      const receipt = claims[0]?.receipt ?? 0;
      if (keep && claims.every((claim) => claim.receipt === receipt)) {
        return seqs(await often(db, ARCHIVE_ALIKE, { seqs: all, receipt }));
      }
      const given = {
        seqs: all,
        receipts: `{${claims.map(({ receipt }) => receipt).join()}}`,
      };
      return seqs(await query(db, text, given));
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
        `DELETE FROM ${table} WHERE seq = ANY (CAST(:seqs AS bigint[])) RETURNING ${list(columns)}`,
        { seqs: `{${wanted.join()}}` },
      );
    },

    async lock(trx: Db, name: string) {
      await query(trx, "SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))", { name });
    },

    // Under REPEATABLE READ a lease extension beside the transaction would fail the ack inside it.
    transactionConfig: { isolationLevel: "read committed" },

    async stillOpen() {
      // PostgreSQL refuses statements in a transaction that failed.
      return true;
    },

    async beginWrite() {
      // BEGIN is enough: a statement of PostgreSQL takes the locks it needs when it runs.
    },

    async impatient(trx: Db, ms: number) {
      await query(trx, "SELECT set_config('lock_timeout', :ms, true)", { ms: String(ms) });
    },

    classify: faultOfPostgres,
  };
}
