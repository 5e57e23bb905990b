import { type Place, rankEnds } from "./claim-walk.ts";
import type { ClaimRequest, Db, Dialect } from "./dialect.ts";
import { DEAR_MS, type DueFound, DueWalk } from "./due-walk.ts";
import { CLAIMED, ENVELOPE, list, SHUT } from "./envelope-columns.ts";
import { postgresRuns } from "./failed-runs.ts";
import { plannedAnew, type Run } from "./prepared.ts";
import { inOrder, parseText, plainClaimedRow } from "./rows.ts";
import { int, intOrNull, type Row } from "./sql.ts";

const PAGE = 8_192;
/** Tables of at most so many pages (2 MB) are read in about the time that planning a claim takes, whatever its plan. */
const SMALL = 256;
/** What was found to be large is taken to be so for this long. */
const LARGE_MS = 60_000;

/** What every message has; the rest comes as one document where there is any, not as twenty empty columns. */
const ALWAYS = [
  ...["seq", "receipt", "attempt", "max_attempts", "visible_at", "message_id", "from_agent"],
  ...["message_type", "kind", "content", "created_at", "priority"],
];
/** What can be told without the row, in most of them; and a dedupe key, which nobody is told. */
const APART = ["to_agent", "rank", "redriven", "worker_id", "dedupe_key"];
const REST = [...ENVELOPE, ...CLAIMED].filter((column) => ![...ALWAYS, ...APART].includes(column));
const ANSWER = `${list(ALWAYS, "m")},
      CASE WHEN num_nonnulls(${list(REST, "m")}) > 0 OR m.redriven > 0 OR m.rank <> 100 - m.priority OR m.worker_id <> :worker
           THEN jsonb_build_object(${[...REST, "rank", "redriven", "worker_id"].map((column) => `'${column}', m.${column}`).join(", ")}) END AS rest`;

/** Of those that are not taken the content stays where it is. */
const TAKEN = ANSWER.replace("m.content,", "CASE WHEN c.taken THEN m.content END AS content,");

/**
 * The claim, in two forms. The short one takes what is ready, by its place in the table, and nothing at all where
 * something has fallen due: then the long one claims and promotes, and the next claims begin with it for as long as it
 * finds some. The short one exists twice: while the table is small it has a plan that is kept, and takes nothing when
 * it has grown. There messages that fell due are candidates beside
 * the ready ones, and those that the limit leaves out become ready; where many are, fewer of them are looked at, so that
 * most are taken as they fell due, and not moved twice. MATERIALIZED keeps the planner from running a LIMIT
 * twice and so locking more than asked; the outer re-check names visible_at and not state, because a state = 0 there
 * would offer the planner the ready index as the outer path, which it takes when its statistics are old.
 */
export function postgresClaim(prefix: string, now: string, query: Run): Dialect["claim"] {
  const messages = `${prefix}messages`;
  const anew = plannedAnew(":limit");
  const sizes = ["messages", "mailboxes"].map(
    (table) => `pg_relation_size(CAST('${prefix}${table}' AS regclass))`,
  );
  const pages = `(${sizes.join(" + ")}) / ${PAGE}`;
  const wanted = `(CAST(:types AS text) IS NULL OR message_type IN (SELECT jsonb_array_elements_text(CAST(:types AS jsonb))))
        AND NOT EXISTS (SELECT 1 FROM ${prefix}mailboxes WHERE ${SHUT})`;
  const ready = `to_agent = :agent AND lane = '' AND state = 0 AND visible_at <= (SELECT now FROM t) AND ${wanted}`;

  const due =
    "to_agent = :agent AND state = 1 AND due_at > :after AND due_at <= (SELECT now FROM t) AND concurrency_key IS NULL";

  // With an order, which has the planner take the index whatever it believes.
  const firstDue = `SELECT due_at FROM ${messages} WHERE ${due} ORDER BY due_at LIMIT 1`;

  const all = (columns: string, when: string) => `
      SELECT ${columns} FROM ${messages} WHERE ${ready}${when}
      ORDER BY rank, seq LIMIT :limit FOR UPDATE SKIP LOCKED`;

  // One short scan for each range, in their order; the outer LIMIT stops before more than it asks for is locked.
  const beyond = (columns: string, when: string) => `
      SELECT ${columns.replace(/\w+/g, "c.$&")}
      FROM (
        SELECT * FROM jsonb_to_recordset(CAST(:ranges AS jsonb)) AS r(first bigint, after bigint, last bigint, until bigint)
        ORDER BY first, after) r
      CROSS JOIN LATERAL (
        SELECT ${columns} FROM ${messages}
        WHERE ${ready} AND (rank, seq) > (r.first, r.after) AND (rank, seq) <= (r.last, r.until)${when}
        ORDER BY rank, seq LIMIT :limit FOR UPDATE SKIP LOCKED) c
      LIMIT :limit`;

  const clock = `WITH t AS MATERIALIZED (SELECT ${now} AS now)`;
  const since =
    "CAST(extract(epoch FROM clock_timestamp() - statement_timestamp()) * 1000 AS float8)";
  const attempt = `m.attempt + CASE WHEN m.attempt < m.max_attempts
                                  AND (m.expires_at IS NULL OR m.expires_at > (SELECT now FROM t)) THEN 1 ELSE 0 END`;
  const holder = `WHEN m.expires_at <= (SELECT now FROM t) THEN '!expired'
                       WHEN m.attempt >= m.max_attempts THEN '!max_attempts'
                       ELSE :worker END`;

  // Locked rows stay where they are: no index is asked for them again. What another one moved just before is left.
  const short = (source: typeof all, when = anew) => `
    ${clock}
    UPDATE ${messages} m SET
      visible_at = (SELECT now FROM t) + :lease,
      receipt = m.receipt + 1,
      attempt = ${attempt},
      worker_id = CASE ${holder},
      failures = ${postgresRuns.lapsed("m.")}
    WHERE ${when} AND m.visible_at <= (SELECT now FROM t) AND m.ctid = ANY (ARRAY(
      ${source("ctid", ` AND ${when} AND (${firstDue}) IS NULL`)}))
    RETURNING ${ANSWER}, (SELECT ${since}) AS took_ms`;

  const long = (source: typeof all) => `
    ${clock},
    ready AS MATERIALIZED (${source("seq, rank", ` AND ${anew}`)}),
    bound AS MATERIALIZED (SELECT greatest(:promote - count(*), (CAST(:limit AS bigint) + 3) / 4) AS most FROM ready),
    due AS MATERIALIZED (
      SELECT * FROM (
        SELECT seq, rank, message_type, lane, due_at FROM ${messages}
        WHERE ${due}
        ORDER BY due_at LIMIT :promote FOR UPDATE SKIP LOCKED) d
      LIMIT (SELECT most FROM bound)),
    candidates AS (
      SELECT seq, rank FROM ready
      UNION ALL
      SELECT seq, rank FROM due WHERE lane = '' AND ${wanted}),
    picked AS MATERIALIZED (SELECT seq FROM candidates ORDER BY rank, seq LIMIT :limit),
    walked AS MATERIALIZED (SELECT ${since} AS took_ms FROM (SELECT count(*) FROM picked) done),
    touched AS MATERIALIZED (
      SELECT seq, true AS taken FROM picked
      UNION ALL
      SELECT seq, false FROM due WHERE seq NOT IN (SELECT seq FROM picked))
    UPDATE ${messages} m SET
      state = 0,
      visible_at = CASE WHEN c.taken THEN (SELECT now FROM t) + :lease ELSE m.visible_at END,
      receipt = m.receipt + CASE WHEN c.taken THEN 1 ELSE 0 END,
      attempt = CASE WHEN c.taken THEN ${attempt} ELSE m.attempt END,
      worker_id = CASE WHEN NOT c.taken THEN m.worker_id ${holder},
      failures = CASE WHEN c.taken THEN ${postgresRuns.lapsed("m.")} ELSE m.failures END
    FROM touched c
    WHERE m.seq = ANY (ARRAY(SELECT seq FROM touched)) AND m.seq = c.seq AND m.visible_at <= (SELECT now FROM t)
    RETURNING c.taken, (SELECT CAST(count(*) AS integer) FROM due) AS due, (SELECT max(due_at) FROM due) AS due_until,
      (SELECT most FROM bound) > (SELECT count(*) FROM due) AS due_all,
      ${TAKEN}, (SELECT took_ms FROM walked) AS took_ms`;
  const [SHORT, SHORT_BEYOND] = [short(all), short(beyond)];
  const [LONG, LONG_BEYOND] = [long(all), long(beyond)];
  const QUICK = short(all, `(SELECT ${pages} <= ${SMALL})`);
  const STATE = `
    ${clock} SELECT now, (${firstDue}) IS NOT NULL AS due, ${pages} > ${SMALL / 2} AS large, ${since} AS took_ms FROM t WHERE ${anew}`;
  const ENDS = `SELECT e.rank, e.seq FROM (${rankEnds(messages)}) e WHERE ${anew}`;

  /** By pool: until when the tables are taken to be large. */
  const largeUntil = new WeakMap<object, number>();

  return async (db: Db, { walk, ...request }: ClaimRequest) => {
    const look = walk?.look() ?? {};
    const { ranges } = look;
    const due = walk?.due ?? new DueWalk();
    // Not with a slice: nobody could tell which of the two took long.
    const dueLook = due.look(look.slice === undefined);
    const began = performance.now();
    const run = <R = Answer>(text: string) =>
      query<R>(db, text, {
        agent: request.agentId,
        limit: request.limit,
        lease: request.leaseMs,
        worker: request.workerId,
        types: request.messageTypes === null ? null : JSON.stringify(request.messageTypes),
        after: dueLook.after ?? Number.MIN_SAFE_INTEGER,
        promote: dueLook.promote,
        ...(ranges === undefined ? {} : { ranges }),
      });
    const rankEndsNow = async (): Promise<Place[]> =>
      (await run<Row>(ENDS)).map(({ rank, seq }) => ({ rank: int(rank), seq: int(seq) }));
    const ready = async (): Promise<Found | undefined> => {
      const small = ranges === undefined && began >= (largeUntil.get(db.client) ?? 0);
      const asked = performance.now();
      const rows = await run(small ? QUICK : ranges === undefined ? SHORT : SHORT_BEYOND);
      if (rows.length > 0) return { rows };
      const answered = performance.now();
      const [state] = await run<State>(STATE);
      if (small && state?.large) {
        largeUntil.set(db.client, began + LARGE_MS);
        return ready();
      }
      if (state?.due) return undefined;
      // Both went the same way: what the first took longer, it read.
      const readMs = answered - asked - (performance.now() - answered);
      const others = request.messageTypes !== null && look.slice === undefined && readMs > DEAR_MS;
      return { rows, looked: state, ends: others ? await rankEndsNow() : undefined };
    };
    const readyAndDue = async (): Promise<Found> => {
      const rows = await run(ranges === undefined ? LONG : LONG_BEYOND);
      const [first] = rows;
      return {
        rows: rows.filter(({ taken }) => taken),
        due: {
          count: first?.due ?? 0,
          last: intOrNull(first?.due_until),
          all: first?.due_all ?? true,
        },
      };
    };
    const found = (due.mostlyReady ? await ready() : undefined) ?? (await readyAndDue());
    const tookMs = performance.now() - began;
    const walkedMs = found.rows[0]?.took_ms;
    const claimed = found.rows.map((row) =>
      plainClaimedRow(row, row.rest, request.agentId, parseText),
    );
    const [first] = claimed;
    const now =
      first === undefined ? intOrNull(found.looked?.now) : first.visible_at - request.leaseMs;
    // A look at all that fell due, where that is known to be far, says nothing about the ready ones.
    const blamed = due.far && dueLook.after === undefined;
    due.found(dueLook, {
      ...(found.due ?? NONE),
      claimed: claimed.length,
      now,
      walkedMs: walkedMs ?? found.looked?.took_ms,
      tookMs,
    });
    walk?.found(look, claimed, blamed ? 0 : walkedMs, tookMs);
    if (found.ends !== undefined) walk?.passOver(found.ends, tookMs);
    return claimed.sort(inOrder);
  };
}

const NONE = { count: 0, last: null, all: true };

/** What a claim found; `looked`: where there was nothing ready. */
interface Found {
  readonly rows: readonly Answer[];
  readonly looked?: State | undefined;
  /** Where it was long to find nothing of the types that were asked for: the end of each rank. */
  readonly ends?: readonly Place[] | undefined;
  readonly due?: Pick<DueFound, "count" | "last" | "all">;
}

interface State {
  readonly now: unknown;
  readonly due: boolean;
  readonly large: boolean;
  readonly took_ms: number;
}

interface Answer extends Row {
  readonly taken?: boolean;
  readonly due?: number;
  readonly due_until?: unknown;
  readonly due_all?: boolean;
  readonly rest: Row | null;
  readonly took_ms: number;
}
