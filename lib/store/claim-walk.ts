import type { ClaimedRow } from "./dialect.ts";
import { AGAIN_MS, againAt, DEAR_MS, DueWalk, isFar, SHARE } from "./due-walk.ts";

/** What commits late, or is given back, is mostly this near to what was claimed. */
const MARGIN = 1_000;
/** More ranks than these are places in time (aging, fair turns), not priorities: they are not worth remembering. */
const MOST_RANKS = 16;
/** Slices of it are made to take about so long. */
const SLICE_MS = 10;
const FIRST_SLICE = 10_000;

/** Where nobody measures how long a claim walks: more ready or leased messages before its last one than these. */
const DEAR_ROWS = 2_000;
/** They are counted at most so often. */
const COUNT_MS = 250;

/**
 * The last sequence of each rank of a mailbox, by a look at the end of each and not by reading what lies there. Ordered
 * by rank, too: the last sequence alone would be sought among all mailboxes. No more ranks than show that they are too
 * many: a limit outside ends the recursion.
 */
export function rankEnds(messages: string): string {
  const last = (more = "") => `(
        SELECT m.seq FROM ${messages} m WHERE m.to_agent = :agent AND m.lane = '' AND m.state = 0${more}
        ORDER BY m.rank DESC, m.seq DESC LIMIT 1)`;
  const rank = `(SELECT e.rank FROM ${messages} e WHERE e.seq = ends.seq)`;
  return `
    WITH RECURSIVE ends AS (
      SELECT ${last()} AS seq
      UNION ALL
      SELECT ${last(` AND m.rank < ${rank}`)} FROM ends WHERE ends.seq IS NOT NULL)
    SELECT ${rank} AS rank, ends.seq FROM ends WHERE ends.seq IS NOT NULL LIMIT ${MOST_RANKS + 1}`;
}

const LEAST = Number.MIN_SAFE_INTEGER;
const MOST = Number.MAX_SAFE_INTEGER;

/** A part of what was passed over: of one rank, by sequences. */
interface Slice {
  readonly rank: number;
  readonly after: number;
  readonly until: number;
}

/** What one claim looks at. */
export interface Look {
  /** Ranges of the index, as JSON; undefined: all of it. */
  readonly ranges?: string;
  readonly slice?: Slice;
}

/** A part of the index, from behind one place to another. */
export interface Range {
  readonly first: number;
  readonly after: number;
  readonly last: number;
  readonly until: number;
}

export type Place = Pick<ClaimedRow, "rank" | "seq">;

/** Where the last claim ended: with `most` before it, claims walk far. */
interface End extends Place {
  readonly most: number;
}

/**
 * Where claims of a mailbox may begin to look. PostgreSQL keeps the entries of finished messages in the index for as
 * long as any transaction might still see them, and leased ones are there too: where a claim was seen to walk past
 * many, the next ones begin behind what was claimed, rank by rank, with a margin. Every rank has its range, and so
 * has all that lies between two, so the order of priorities stands. What is passed over (a lease that ended, a
 * message that was given back, a sender that committed late) is looked at again slice by slice, so that no claim walks
 * for long: all of it within a second or, where that is much, within ten times what a walk takes. In memory, and never
 * what correctness depends on. On SQLite only leased messages are in the way, and nobody says how long a claim walked:
 * what lies before its end is counted now and then. A claim of some types that found none, and read for long to know
 * that, has passed over all that is there.
 */
export class ClaimWalk {
  /** For each rank, the sequence up to which nothing ready was seen. */
  readonly #passed = new Map<number, number>();
  #dear = false;
  #over = false;
  /** Where the next slice begins, and how many sequences it has. */
  #next = { rank: LEAST, after: 0 };
  #size = FIRST_SLICE;
  #sliceAt = 0;
  #roundAt = Number.NEGATIVE_INFINITY;
  #end: End | undefined;
  #countedAt = Number.NEGATIVE_INFINITY;
  /** Whether every rank took one short slice in this round. */
  #short = true;
  /** Whether the last claim got all that it asked for. */
  full = false;
  /** The same for messages that fell due. */
  readonly due = new DueWalk();

  /** Whether whoever reads this mailbox from its beginning walks far before there is anything. */
  get far(): boolean {
    return this.#dear || this.due.far;
  }

  /** Whether others are passed over that nobody here asks for: then nothing found does not mean nothing there. */
  get passesOver(): boolean {
    return this.#dear && this.#over;
  }

  look(now = performance.now()): Look {
    if (!this.#dear) return {};
    const ranks = [...this.#passed.keys()].sort((a, b) => a - b);
    const ranges = [LEAST, ...ranks].map((first, n) => ({
      first,
      after: n === 0 ? 0 : this.#behind(first),
      last: (ranks[n] ?? MOST) - (n === ranks.length ? 0 : 1),
      until: MOST,
    }));
    const slice = now < this.#sliceAt ? undefined : this.#slice(ranks, now);
    if (slice === undefined) return { ranges: JSON.stringify(ranges) };
    // One at a time, also where this claim never answers.
    this.#sliceAt = now + AGAIN_MS;
    const { rank, after, until } = slice;
    const place = ranges.findIndex(({ first }) => first === rank);
    ranges.splice(place, 0, { first: rank, after, last: rank, until });
    return { ranges: JSON.stringify(ranges), slice };
  }

  /** What a claim found. `walkedMs`: until its first row, by the server; undefined where it found none. */
  found(
    { ranges, slice }: Look,
    rows: readonly Place[],
    walkedMs: number | undefined,
    tookMs: number,
    now = performance.now(),
  ): void {
    if (ranges === undefined) {
      this.#over = false;
      this.#passed.clear();
      this.#dear = isFar(this.#dear, walkedMs, tookMs);
      this.#sliceAt = againAt(now, tookMs);
    }
    if (slice !== undefined) this.#looked(slice, rows, walkedMs ?? tookMs, now);
    if (!this.#dear) this.#passed.clear();
    else this.#pass(rows);
  }

  /** A claim of some types read all there was to read and found none: where each rank ended then. */
  passOver(ends: readonly Place[], tookMs: number, now = performance.now()): void {
    if (!this.#dear) this.#sliceAt = againAt(now, tookMs);
    this.#dear = true;
    this.#over = true;
    this.#pass(ends);
  }

  /** Where it is time to count what lies before the last claim: its end. SQLite has no clock that runs in a statement. */
  toCount(now = performance.now()): End | undefined {
    if (this.#dear || this.#end === undefined || now < this.#countedAt + COUNT_MS) return undefined;
    this.#countedAt = now;
    return this.#end;
  }

  /** What a claim of so many found, where what it walks past is counted now and then: `far` tells that it is much. */
  foundFar(look: Look, rows: readonly Place[], far: boolean, tookMs: number, limit: number): void {
    this.full = rows.length >= limit;
    const end = rows.at(-1);
    this.#end = end && { rank: end.rank, seq: end.seq, most: DEAR_ROWS + rows.length };
    const walkedMs = far ? Number.POSITIVE_INFINITY : 0;
    this.found(look, rows, look.ranges === undefined ? walkedMs : undefined, tookMs);
  }

  /** Nothing was found behind what was claimed: the next look is at all of it. */
  startOver(): void {
    this.#dear = false;
    this.#passed.clear();
    this.#next = { rank: LEAST, after: 0 };
  }

  #behind(rank: number): number {
    return (this.#passed.get(rank) ?? 0) - MARGIN;
  }

  #slice(ranks: readonly number[], now: number): Slice | undefined {
    if (this.#next.rank === LEAST) {
      this.#sliceAt = this.#roundAt + AGAIN_MS;
      if (now < this.#sliceAt) return undefined;
      this.#roundAt = now;
    }
    const { rank: from, after: since } = this.#next;
    for (const rank of ranks) {
      const after = rank === from ? since : 0;
      const end = this.#behind(rank);
      if (rank >= from && after < end) {
        return { rank, after, until: Math.min(end, after + this.#size) };
      }
    }
    // All of it was looked at, or nothing is passed over but the margin.
    if (this.#short) this.#dear = false;
    this.#short = true;
    this.#next = { rank: LEAST, after: 0 };
    return undefined;
  }

  #looked(slice: Slice, rows: readonly Place[], ms: number, now: number): void {
    const { rank, after, until } = slice;
    // Where something was found there may be more.
    if (rows.some((row) => row.rank === rank && row.seq > after && row.seq <= until)) {
      this.#next = { rank, after };
      this.#sliceAt = now;
      return;
    }
    if (after > 0 || until < this.#behind(rank) || ms > DEAR_MS) this.#short = false;
    this.#next = { rank, after: until };
    this.#sliceAt = now + SHARE * ms;
    if (ms < SLICE_MS / 2 && until - after >= this.#size) this.#size *= 2;
    else if (ms > SLICE_MS * 2) this.#size = Math.max(MARGIN, Math.floor(this.#size / 2));
  }

  #pass(rows: readonly Place[]): void {
    for (const { rank, seq } of rows) {
      if (seq > (this.#passed.get(rank) ?? 0)) this.#passed.set(rank, seq);
    }
    if (this.#passed.size > MOST_RANKS) {
      this.#passed.clear();
      this.#dear = false;
    }
  }
}

const MOST_MAILBOXES = 1_000;

/** The walks of one database, by mailbox and what is wanted of it. */
export class ClaimWalks {
  readonly #walks = new Map<string, ClaimWalk>();

  of(agentId: string, messageTypes: readonly string[] | null): ClaimWalk {
    const key = messageTypes === null ? agentId : JSON.stringify([agentId, messageTypes]);
    let walk = this.#walks.get(key);
    if (walk === undefined) {
      if (this.#walks.size >= MOST_MAILBOXES) this.#walks.clear();
      walk = new ClaimWalk();
      this.#walks.set(key, walk);
    }
    return walk;
  }
}
