import { randomUUID } from "node:crypto";
import { setImmediate as turn } from "node:timers/promises";
import knex from "knex";
import { knexConfig, migrate } from "../../../lib/index.ts";
import { draining, type Opener, peer, type Subject, versionOf } from "../subject.ts";

interface Statement {
  run(...values: unknown[]): { changes: number };
  all(...values: unknown[]): Record<string, unknown>[];
}
interface Database {
  pragma(text: string): unknown;
  prepare(text: string): Statement;
  transaction<T, R>(run: (value: T) => R): (value: T) => R;
  close(): void;
}

export const pathOf = (url: string) => url.replace(/^sqlite:/, "");

export async function openSqlite(url: string): Promise<Database> {
  const { default: Sqlite } = await peer<{ default: new (path: string) => Database }>(
    "better-sqlite3",
  );
  return new Sqlite(pathOf(url));
}

const COLUMNS = `message_id, from_agent, to_agent, message_type, kind, content, priority, created_at,
    state, visible_at, receipt, attempt, max_attempts, redriven, lane, rank`;
const VALUES = "(?, 'raw', 'bench', 'BENCH', 'event', ?, 20, 0, 0, 0, 0, 0, 3, 0, '', 80)";
/** Rows of one prepared INSERT: quicker than one INSERT for each, and than one from JSON. */
const ROWS = 500;

const CANDIDATES =
  "SELECT seq FROM outbox_messages WHERE to_agent = 'bench' AND lane = '' AND state = 0";
const CLAIM_AND_DELETE = `
  DELETE FROM outbox_messages WHERE seq IN (${CANDIDATES} ORDER BY rank, seq LIMIT ?) RETURNING seq, content`;

const NOW = "CAST(round(unixepoch('subsec') * 1000) AS INTEGER)";
const CLAIM = `
  UPDATE outbox_messages SET visible_at = ${NOW} + 30000, receipt = receipt + 1, attempt = attempt + 1, worker_id = 'raw'
  WHERE seq IN (${CANDIDATES} AND visible_at <= ${NOW} ORDER BY rank, seq LIMIT ?)
  RETURNING seq, receipt, content`;
const ARCHIVE = `
  INSERT INTO outbox_archive (seq, message_id, from_agent, to_agent, message_type, kind, content, created_at, priority, attempt, outcome, finished_at)
  SELECT seq, message_id, from_agent, to_agent, message_type, kind, content, created_at, priority, attempt, 'processed', ${NOW}
  FROM outbox_messages WHERE seq = ? AND receipt = ?`;
const DELETE = "DELETE FROM outbox_messages WHERE seq = ? AND receipt = ?";

/** A loop that lets others have their turn after each batch: the driver never does. */
function looping(step: () => number, handled: (count: number) => void): () => Promise<void> {
  let stopped = false;
  const ended = (async () => {
    while (!stopped) {
      await turn();
      const count = step();
      if (count > 0) handled(count);
    }
  })();
  ended.catch(() => handled(Number.POSITIVE_INFINITY));
  return async () => {
    stopped = true;
    await ended;
  };
}

async function raw(
  url: string,
  rest: Pick<Subject, "name" | "kind" | "settings">,
  step: (database: Database) => () => number,
): Promise<Subject> {
  const setUp = knex(knexConfig(url));
  await migrate(setUp);
  await setUp.destroy();
  const database = await openSqlite(url);
  database.pragma("journal_mode = WAL");
  database.pragma("synchronous = NORMAL");
  const into = (rows: number) =>
    database.prepare(
      `INSERT INTO outbox_messages (${COLUMNS}) VALUES ${Array(rows).fill(VALUES).join(", ")}`,
    );
  const insert = into(1);
  const insertMany = into(ROWS);
  const valuesOf = (payload: object) => [randomUUID(), JSON.stringify(payload)];
  const one = (payload: object) => insert.run(...valuesOf(payload));
  const many = database.transaction((payloads: readonly object[]) => {
    const whole = payloads.length - (payloads.length % ROWS);
    for (let n = 0; n < whole; n += ROWS) {
      insertMany.run(...payloads.slice(n, n + ROWS).flatMap(valuesOf));
    }
    for (const payload of payloads.slice(whole)) one(payload);
  });
  const handle = step(database);
  return draining({
    ...rest,
    send: async (payload) => one(payload),
    sendMany: async (payloads) => many(payloads),
    work: async (handled) => looping(handle, handled),
    close: async () => database.close(),
  });
}

/** What the file can do with a synchronous driver on the same tables: no lease, no archive, no fence. */
export const rawSqlite: Opener = (url) =>
  raw(
    url,
    {
      name: "raw SQL",
      kind: "ceiling",
      settings: `the same tables; ${versionOf("better-sqlite3")}, a synchronous driver, WAL, synchronous NORMAL; prepared inserts, batches as one INSERT .. VALUES; drain: a DELETE that claims 500. No lease, no fence, no archive`,
    },
    (database) => {
      const take = database.prepare(CLAIM_AND_DELETE);
      return () => take.all(500).length;
    },
  );

/** The same guarantees as ours in statements written for this one case: leased, fenced by a receipt, archived. */
export const leasedSqlite: Opener = (url) =>
  raw(
    url,
    {
      name: "raw SQL, leased and archived",
      kind: "guarantees",
      settings: `the same tables; ${versionOf("better-sqlite3")}, WAL, synchronous NORMAL; UPDATE .. RETURNING (lease, receipt) of 500, then one transaction that copies to outbox_archive and deletes by receipt; only the columns that must be there`,
    },
    (database) => {
      const claim = database.prepare(CLAIM);
      const archive = database.prepare(ARCHIVE);
      const remove = database.prepare(DELETE);
      const finish = database.transaction((rows: readonly Record<string, unknown>[]) => {
        for (const { seq, receipt } of rows) {
          archive.run(seq, receipt);
          remove.run(seq, receipt);
        }
      });
      return () => {
        const rows = claim.all(500);
        if (rows.length > 0) finish(rows);
        return rows.length;
      };
    },
  );
