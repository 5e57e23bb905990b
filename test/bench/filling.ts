import type { Outbox } from "../../lib/index.ts";

export const MAILBOX = "bench";

/** As a message of the same kind that is sent: none goes before another. */
export const note = (n: number, toAgent = MAILBOX) => ({
  toAgent,
  messageType: "BENCH",
  priority: 50,
  content: { n, text: "x".repeat(180) },
});

export type What = "ready" | "leased" | "scheduled" | "archived";

const CHUNK = 50_000;

const TEXTS = {
  postgres: {
    now: "CAST(floor(extract(epoch FROM statement_timestamp()) * 1000) AS bigint)",
    series: (from: number, to: number) => `SELECT n FROM generate_series(${from}, ${to}) AS s(n)`,
    content: "jsonb_build_object('n', n, 'text', repeat('x', 180))",
    id: "lpad(CAST(n AS text), 24, '0')",
  },
  sqlite: {
    now: "CAST(round(unixepoch('subsec') * 1000) AS INTEGER)",
    series: (from: number, to: number) =>
      `WITH RECURSIVE s(n) AS (SELECT ${from} UNION ALL SELECT n + 1 FROM s WHERE n < ${to}) SELECT n FROM s`,
    content: "json_object('n', n, 'text', printf('%.*c', 180, 'x'))",
    id: "printf('%024d', n)",
  },
};

/** By what: the columns that differ, of rows `n` with the instant `now`. */
const ROWS: Record<Exclude<What, "archived">, string> = {
  ready: "0, now, NULL, NULL, 0, 0",
  leased: "0, now + 3600000, NULL, 'another', 1, 1",
  scheduled: "1, now + 2592000000, now + 2592000000, NULL, 0, 0",
};

interface Rows {
  readonly what: What;
  readonly from: number;
  readonly to: number;
  readonly mailboxes: number;
}

function statement(database: "postgres" | "sqlite", { what, from, to, mailboxes }: Rows): string {
  const { now, series, content, id } = TEXTS[database];
  const agent = mailboxes === 1 ? `'${MAILBOX}'` : `'box-' || (n % ${mailboxes})`;
  const envelope = `'${what}-${fillings}-' || ${id}, 'filling', ${agent}, 'BENCH', 'event', ${content}, 50, now`;
  const rows = `FROM (${series(from, to)}) AS r CROSS JOIN (SELECT ${now} AS now) AS t`;
  const columns =
    "message_id, from_agent, to_agent, message_type, kind, content, priority, created_at";
  return what === "archived"
    ? `
      INSERT INTO outbox_archive (${columns}, seq, attempt, outcome, finished_at)
      SELECT ${envelope}, -n, 1, 'processed', now ${rows}`
    : `
      INSERT INTO outbox_messages (${columns}, max_attempts, redriven, lane, rank, state, visible_at, due_at, worker_id, receipt, attempt)
      SELECT ${envelope}, 3, 0, '', 50, ${ROWS[what]} ${rows}`;
}

let fillings = 0;

/**
 * Puts rows into the tables past the library: as it would, in a fraction of the time.
 * @param seconds gives up after these
 * @returns how many there are
 */
export async function fill(
  { knex, dialect }: Outbox,
  what: What,
  count: number,
  { mailboxes = 1, seconds = Number.POSITIVE_INFINITY } = {},
): Promise<number> {
  const database = dialect as "postgres" | "sqlite";
  const until = performance.now() + seconds * 1_000;
  fillings += 1;
  let done = 0;
  while (done < count && performance.now() < until) {
    const to = Math.min(count, done + CHUNK);
    await knex.raw(statement(database, { what, from: done + 1, to, mailboxes }));
    done = to;
  }
  return done;
}

/** Leaves nothing of a filling for the background to tidy while something is measured. */
export async function settle({ knex, dialect }: Outbox): Promise<void> {
  if (dialect === "sqlite") {
    await knex.raw("PRAGMA wal_checkpoint(TRUNCATE)");
    return;
  }
  await knex.raw("VACUUM ANALYZE outbox_messages");
  await knex.raw("VACUUM ANALYZE outbox_archive");
  await knex.raw("CHECKPOINT");
}
