import { randomUUID } from "node:crypto";
import knex from "knex";
import pg from "pg";
import { knexConfig, migrate } from "../../../lib/index.ts";
import { draining, loops, type Opener } from "../subject.ts";

const COLUMNS = `message_id, from_agent, to_agent, message_type, kind, content, priority, created_at,
    state, visible_at, receipt, attempt, max_attempts, redriven, lane, rank`;
const CONSTANTS = "20, 0, 0, 0, 0, 0, 3, 0, '', 80";

const INSERT_ONE = `
  INSERT INTO outbox_messages (${COLUMNS})
  VALUES ($1, 'raw', 'bench', 'BENCH', 'event', $2, ${CONSTANTS})`;

// As quick as unnest() of arrays and quicker than VALUES lists or jsonb_array_elements.
const INSERT_MANY = `
  INSERT INTO outbox_messages (${COLUMNS})
  SELECT j.id, 'raw', 'bench', 'BENCH', 'event', j.content, ${CONSTANTS}
  FROM jsonb_to_recordset($1::jsonb) AS j(id text, content jsonb)`;

const CANDIDATES = `
  SELECT seq FROM outbox_messages WHERE to_agent = 'bench' AND lane = '' AND state = 0`;

const CLAIM_AND_DELETE = `
  DELETE FROM outbox_messages WHERE seq = ANY (ARRAY(
    ${CANDIDATES} ORDER BY rank, seq LIMIT $1 FOR UPDATE SKIP LOCKED))
  RETURNING seq, content`;

const NOW = "CAST(extract(epoch FROM statement_timestamp()) * 1000 AS bigint)";

const CLAIM = `
  UPDATE outbox_messages SET visible_at = ${NOW} + 30000, receipt = receipt + 1, attempt = attempt + 1, worker_id = 'raw'
  WHERE seq = ANY (ARRAY(
    ${CANDIDATES} AND visible_at <= ${NOW} ORDER BY rank, seq LIMIT $1 FOR UPDATE SKIP LOCKED))
  RETURNING seq, receipt, content`;

const ARCHIVE = `
  WITH done AS (
    DELETE FROM outbox_messages m USING unnest($1::bigint[], $2::bigint[]) AS j(seq, receipt)
    WHERE m.seq = ANY ($1) AND m.seq = j.seq AND m.receipt = j.receipt
    RETURNING m.seq, m.message_id, m.from_agent, m.to_agent, m.message_type, m.kind, m.content, m.created_at, m.priority, m.attempt)
  INSERT INTO outbox_archive (seq, message_id, from_agent, to_agent, message_type, kind, content, created_at, priority, attempt, outcome, finished_at)
  SELECT *, 'processed', ${NOW} FROM done`;

async function tables(url: string): Promise<void> {
  const setUp = knex(knexConfig(url));
  await migrate(setUp);
  await setUp.destroy();
}

const batch = (payloads: readonly object[]) => [
  JSON.stringify(payloads.map((content) => ({ id: randomUUID(), content }))),
];

/** What the server can do on the same tables: an insert on a connection of its own, and a delete that claims. No lease, no archive, no fence. */
export const rawPostgres: Opener = async (url) => {
  await tables(url);
  const pool = new pg.Pool({ connectionString: url, max: 4 });
  return draining({
    name: "raw SQL",
    kind: "ceiling",
    settings:
      "the same tables; INSERT .. VALUES on a pool of 4; batches: one INSERT .. SELECT from jsonb_to_recordset; drain: two loops of a DELETE that claims 500. No lease, no fence, no archive",
    send: (payload) => pool.query(INSERT_ONE, [randomUUID(), JSON.stringify(payload)]),
    sendMany: (payloads) => pool.query(INSERT_MANY, batch(payloads)),
    work: async (handled) =>
      loops(2, async () => (await pool.query(CLAIM_AND_DELETE, [500])).rows.length, handled),
    close: () => pool.end(),
  });
};

/** The same guarantees as ours in two statements written for this one case: leased, fenced by a receipt, archived. */
export const leasedPostgres: Opener = async (url) => {
  await tables(url);
  const pool = new pg.Pool({ connectionString: url, max: 4 });
  return draining({
    name: "raw SQL, leased and archived",
    kind: "guarantees",
    settings:
      "the same tables; two loops of UPDATE .. RETURNING (lease, receipt) of 500, then DELETE .. RETURNING by receipt INSERT INTO outbox_archive; only the columns that must be there",
    send: (payload) => pool.query(INSERT_MANY, batch([payload])),
    sendMany: (payloads) => pool.query(INSERT_MANY, batch(payloads)),
    work: async (handled) =>
      loops(
        2,
        async () => {
          const { rows } = await pool.query<{ seq: string; receipt: string }>(CLAIM, [500]);
          if (rows.length === 0) return 0;
          const { rowCount } = await pool.query(ARCHIVE, [
            rows.map(({ seq }) => seq),
            rows.map(({ receipt }) => receipt),
          ]);
          return rowCount ?? 0;
        },
        handled,
      ),
    close: () => pool.end(),
  });
};
