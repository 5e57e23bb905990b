import { ClaimWalk, type Place, type Range, rankEnds } from "./claim-walk.ts";
import type { ClaimedRow, ClaimRequest, Db, Dialect } from "./dialect.ts";
import { DEAR_MS } from "./due-walk.ts";
import { doomOf, list, SHUT } from "./envelope-columns.ts";
import { inOrder, parseText } from "./rows.ts";
import { type Bindings, int } from "./sql.ts";
import { direct } from "./sqlite-direct.ts";
import { sqliteLeased } from "./sqlite-gates.ts";

/** How many due messages one claim moves to the ready ones at most. */
const PROMOTE = 500;

/** What every message has, and what few have: each in the order of `Always` and `Rare`. */
const ALWAYS = [
  ...["seq", "message_id", "from_agent", "to_agent", "message_type", "kind", "priority"],
  ...["rank", "created_at", "receipt", "attempt", "max_attempts", "visible_at", "redriven"],
  "worker_id",
];
const RARE = [
  ...["headers", "original_type", "correlation_id", "causation_id", "reply_to", "context_id"],
  ...["task_id", "subject", "ordering_key", "concurrency_key", "cost", "delivery", "retry"],
  ...["hops", "trail", "content_encoding", "failures", "expires_at", "progress"],
];

type Text = string | null;
type Always = readonly [
  ...[number, string, string, string, string, string, number],
  ...[number, number, number, number, number, number, number],
  string,
];
type Rare = readonly [
  ...[Text, Text, Text, Text, Text, Text],
  ...[Text, Text, Text, Text, number | null, Text, Text],
  ...[number | null, Text, Text, Text, number | null, Text],
];

/**
 * The claim. A claimed row comes as one text, which is put together and not made as a document, so that the content is
 * neither escaped nor read twice: the driver makes an object column by column, at twice the cost of the claim.
 *
 * Differs from PostgreSQL: a look before the claim, because an UPDATE takes the one write lock even when it finds
 * nothing, and idle pollers would keep it busy. Then promotion and claim as two statements; each is atomic by itself,
 * and a message promoted and not claimed is simply ready. A part of what was passed over is looked at before the write
 * lock is taken, and all of it where nothing else is ready: an empty answer means an empty mailbox, unless others are
 * passed over that a claim of some types does not ask for.
 */
export function sqliteClaim(prefix: string, now: string): Dialect["claim"] {
  const messages = `${prefix}messages`;
  const wanted = `(:types IS NULL OR message_type IN (SELECT value FROM json_each(:types)))
        AND lane = '' AND NOT EXISTS (SELECT 1 FROM ${prefix}mailboxes WHERE ${SHUT})`;
  const due = "state = 1 AND concurrency_key IS NULL";

  const all = `FROM ${messages} WHERE to_agent = :agent AND state = 0 AND visible_at <= ${now} AND ${wanted}`;
  // Differs from PostgreSQL: a comparison of (rank, seq) would read all of a rank, because seq is the row's own number.
  const [within, between] = [
    (n: string) =>
      `SELECT rank, seq ${all} AND rank = :rank_${n} AND seq > :after_${n} AND seq <= :until_${n}`,
    (n: string) => `SELECT rank, seq ${all} AND rank > :above_${n} AND rank <= :last_${n}`,
  ];
  // Each is sorted by the index, and they are merged no further than somebody reads.
  const merged = ({ ranks, gaps }: Parts) =>
    [...NTH.slice(0, ranks).map(within), ...NTH.slice(0, gaps).map(between)].join(" UNION ALL ");
  const some = (parts: Parts) => `EXISTS (${parts === ALL ? `SELECT 1 ${all}` : merged(parts)})`;
  const first = (parts: Parts) =>
    parts === ALL
      ? `SELECT seq ${all} ORDER BY rank, seq LIMIT :limit`
      : `SELECT seq FROM (${merged(parts)} ORDER BY rank, seq LIMIT :limit) l`;

  // A comparison of (rank, seq) would also read on from the end of the last claim, to the end of its rank.
  const leased = `SELECT 1 FROM ${messages} WHERE to_agent = :agent AND lane = '' AND state = 0`;
  const before = `
           (SELECT count(*) FROM (
             ${leased} AND rank < :end_rank
             UNION ALL ${leased} AND rank = :end_rank AND seq < :end_seq
             LIMIT :most) b)`;
  const look = (ready: (parts: Parts) => string, more = "") =>
    constants(
      (parts) => `
    SELECT ${ready(parts)} AS ready,
           EXISTS (SELECT 1 FROM ${messages} WHERE to_agent = :agent AND ${due} AND due_at <= ${now} AND ${wanted}) AS due${more}`,
    );
  // Where the last claim got all it asked for, there is most likely more: the way past what is leased is walked once.
  const [LOOK, LOOK_DUE, LOOK_COUNT] = [
    look(some),
    look(() => "1"),
    look(some, `, ${before} AS passed`),
  ];
  const LOOK_SLICE = `SELECT ${some({ ranks: 1, gaps: 0 })} AS found`;

  const ENDS = rankEnds(messages);

  const PROMOTE_DUE = `
    UPDATE ${messages} SET state = 0 WHERE seq IN (
      SELECT seq FROM ${messages} WHERE to_agent = :agent AND ${due} AND due_at <= ${now}
      ORDER BY due_at LIMIT ${PROMOTE})`;

  const CLAIM = constants(
    (parts) => `
    UPDATE ${messages} SET
      ${sqliteLeased(now)}
    WHERE seq IN (${first(parts)})
    RETURNING '[' || json_array(${list(ALWAYS)}) || ','
      || CASE WHEN coalesce(${list(RARE)}) IS NULL THEN '0' ELSE json_array(${list(RARE)}) END
      || ',' || content || ']' AS line`,
  );

  return async function claim(db: Db, request: ClaimRequest): Promise<ClaimedRow[]> {
    const { agentId: agent, limit, walk = new ClaimWalk() } = request;
    const types = request.messageTypes === null ? null : JSON.stringify(request.messageTypes);
    const look = walk.look();
    const began = performance.now();
    let ranges: Range[] = look.ranges === undefined ? [] : JSON.parse(look.ranges);
    let again = false;
    if (look.slice !== undefined) {
      // Nothing but slices ends before the last message.
      const isSlice = ({ until }: Range) => until === look.slice?.until;
      const { places } = partsOf(ranges.filter(isSlice));
      const [seen] = await direct(db, LOOK_SLICE, { agent, types, ...places });
      again = Boolean(seen?.found);
      if (!again) ranges = ranges.filter((range) => !isSlice(range));
    }
    const walkedMs = performance.now() - began;

    const { parts, places } = ranges.length === 0 ? NO_PARTS : partsOf(ranges);
    const end = walk.toCount();
    const bound = { agent, types, ...places };
    const asked = performance.now();
    const [seen] = await (end === undefined
      ? direct(db, (walk.full || again ? LOOK_DUE : LOOK)(parts), bound)
      : direct(db, LOOK_COUNT(parts), {
          ...bound,
          ...{ end_rank: end.rank, end_seq: end.seq, most: end.most },
        }));
    const lookedMs = performance.now() - asked;
    if (seen?.due) await direct(db, PROMOTE_DUE, { agent });
    // What fell due has its place from when it was sent.
    const whole = ranges.length === 0 || Boolean(seen?.due);
    let claimed: ClaimedRow[] = [];
    if (seen?.ready || seen?.due) {
      const answer = await direct<{ line: string }>(db, CLAIM(whole ? ALL : parts), {
        ...bound,
        ...{ limit, lease: request.leaseMs, worker: request.workerId },
      });
      claimed = answer.map(({ line }) => claimedOf(line)).sort(inOrder);
    }
    const far = ranges.length > 0 || (end !== undefined && int(seen?.passed) >= end.most);
    walk.foundFar(whole ? {} : look, claimed, far, walkedMs, limit);
    const nothing = !seen?.ready && !seen?.due;
    if (nothing && types !== null && look.slice === undefined && lookedMs > DEAR_MS) {
      walk.passOver(await direct<Place>(db, ENDS, { agent }), lookedMs);
    }
    if (claimed.length > 0 || whole || walk.passesOver) return claimed;
    // Who finds nothing has the time to look at all of it.
    walk.startOver();
    return claim(db, { ...request, walk });
  };
}

/** How many parts of the index a statement looks at: none means all of it. */
interface Parts {
  readonly ranks: number;
  readonly gaps: number;
}

const ALL: Parts = { ranks: 0, gaps: 0 };
const NO_PARTS = { parts: ALL, places: {} };

/** Names of parts: letters, because those of bindings have no digits. */
const NTH = [..."abcdefghijklmnopqrstuvwxyz"];

/** Ranges as parts of a rank each, and the gaps between these. */
function partsOf(ranges: readonly Range[]): { parts: Parts; places: Bindings } {
  const places: Bindings = {};
  const parts = { ranks: 0, gaps: 0 };
  for (const { first, after, last, until } of ranges) {
    // No message has the least of all ranks.
    if (first > Number.MIN_SAFE_INTEGER) {
      const rank = NTH[parts.ranks++];
      places[`rank_${rank}`] = first;
      places[`after_${rank}`] = after;
      places[`until_${rank}`] = until;
    }
    if (last === first) continue;
    const gap = NTH[parts.gaps++];
    places[`above_${gap}`] = first;
    places[`last_${gap}`] = last;
  }
  return { parts, places };
}

/** Constant texts, each made when it is asked for first. */
function constants(make: (parts: Parts) => string): (parts: Parts) => string {
  const made = new Map<number, string>();
  return (parts) => {
    const key = parts.ranks * NTH.length + parts.gaps;
    const known = made.get(key) ?? make(parts);
    made.set(key, known);
    return known;
  };
}

const NOTHING_RARE = RARE.map(() => null) as unknown as Rare;

function claimedOf(line: string): ClaimedRow {
  const [always, rare, content] = JSON.parse(line) as [Always, Rare | 0, unknown];
  const some = rare === 0 ? NOTHING_RARE : rare;
  return {
    seq: always[0],
    message_id: always[1],
    from_agent: always[2],
    to_agent: always[3],
    message_type: always[4],
    original_type: some[1],
    kind: always[5],
    priority: always[6],
    content,
    headers: parseText(some[0]),
    correlation_id: some[2],
    causation_id: some[3],
    reply_to: some[4],
    context_id: some[5],
    task_id: some[6],
    subject: some[7],
    ordering_key: some[8],
    concurrency_key: some[9],
    cost: some[10],
    delivery: some[11],
    retry: parseText(some[12]),
    hops: some[13],
    trail: parseText(some[14]),
    content_encoding: some[15],
    failures: parseText(some[16]),
    rank: always[7],
    created_at: always[8],
    expires_at: some[17],
    receipt: always[9],
    attempt: always[10],
    max_attempts: always[11],
    visible_at: always[12],
    progress: parseText(some[18]),
    redriven: always[13],
    doom: doomOf(always[14]),
  };
}
