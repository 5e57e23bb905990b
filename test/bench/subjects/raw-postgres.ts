import { randomUUID } from "node:crypto";
import knex from "knex";
import pg from "pg";
import { knexConfig, migrate } from "../../../lib/index.ts";
import type { Opener } from "../subject.ts";

const INSERT = `
  INSERT INTO outbox_messages (message_id, from_agent, to_agent, message_type, kind, content, priority, created_at,
    state, visible_at, receipt, attempt, max_attempts, redriven, lane, rank)
  SELECT j->>'id', 'raw', 'bench', 'BENCH', 'event', j->'content', 20, 0, 0, 0, 0, 0, 3, 0, '', 80
  FROM jsonb_array_elements($1::jsonb) AS j`;

const CLAIM_AND_DELETE = `
  DELETE FROM outbox_messages WHERE seq = ANY (ARRAY(
    SELECT seq FROM outbox_messages WHERE to_agent = 'bench' AND lane = '' AND state = 0
    ORDER BY rank, seq LIMIT $1 FOR UPDATE SKIP LOCKED))
  RETURNING *`;

/** What the server can do on the same tables: multi-row insert, and a delete that claims. No lease, no archive, no fence. */
export const rawPostgres: Opener = async (url) => {
  const setUp = knex(knexConfig(url));
  await migrate(setUp);
  await setUp.destroy();
  const pool = new pg.Pool({ connectionString: url, max: 4 });
  const insert = (payloads: readonly object[]) =>
    pool.query(INSERT, [
      JSON.stringify(payloads.map((content) => ({ id: randomUUID(), content }))),
    ]);
  return {
    name: "raw SQL (ceiling)",
    settings: "batches of 500: one INSERT .. SELECT from JSON; two loops of a claiming DELETE",
    send: (payload) => insert([payload]),
    sendMany: insert,
    async drain(count) {
      let left = count;
      const loop = async () => {
        while (left > 0) {
          const { rowCount } = await pool.query(CLAIM_AND_DELETE, [500]);
          if (!rowCount) break;
          left -= rowCount;
        }
      };
      while (left > 0) await Promise.all([loop(), loop()]);
    },
    close: () => pool.end(),
  };
};
