import type { ClaimedRow } from "./dialect.ts";

/** A claim that meets nothing but ready messages finds them in a fraction of this. */
const DEAR_MS = 4;
/** What commits late, or is given back, is mostly this near to what was claimed. */
const MARGIN = 1_000;
/** More ranks than these are places in time (aging, fair turns), not priorities: they are not worth remembering. */
const MOST_RANKS = 16;
/** A claim walks from the beginning at least this often, but not for more than a tenth of the time. */
const AGAIN_MS = 1_000;
const SHARE = 10;

/** A mailbox that just became empty is most likely filled by messages that are ready at once. */
const MOST_MISSES = 2;

const LEAST = Number.MIN_SAFE_INTEGER;
const MOST = Number.MAX_SAFE_INTEGER;

/**
 * Where claims of a mailbox may begin to look. PostgreSQL keeps the entries of finished messages in the index for as
 * long as any transaction might still see them, and leased ones are there too: where a claim was seen to walk past
 * many, the next ones begin behind what was claimed, rank by rank, with a margin. Every rank has its range, and so
 * has all that lies between two, so the order of priorities stands. What is passed over (a lease that ended, a
 * message that was given back, a sender that committed late) is found by the next walk from the beginning, a second
 * later or, where such walks are long, a tenth of the time. In memory, and never what correctness depends on.
 */
export class ClaimWalk {
  /** For each rank, the sequence up to which nothing ready was seen. */
  readonly #passed = new Map<number, number>();
  #dear = false;
  #againAt = 0;
  /** Whether the last claim got all that it asked for. */
  full = false;
  /** Claims in a row that found nothing ready, or something that had fallen due beside it. */
  #misses = 0;

  /** Whether a claim that looks at nothing but ready messages will most likely find some. */
  get mostlyReady(): boolean {
    return this.#misses < MOST_MISSES;
  }

  /** A claim has looked at nothing but ready messages, and gave up where something had fallen due. */
  foundReady(some: boolean): void {
    this.#misses = some ? 0 : this.#misses + 1;
  }

  /** A claim has found messages, and looked at all: whether some of them had fallen due. */
  foundDue(some: boolean): void {
    this.#misses = some ? MOST_MISSES : 0;
  }

  /** Ranges of the index to look at, as JSON; undefined: all of it. */
  ranges(now = performance.now()): string | undefined {
    if (!this.#dear || now >= this.#againAt) return undefined;
    const ranks = [...this.#passed.keys()].sort((a, b) => a - b);
    const starts = [LEAST, ...ranks];
    return JSON.stringify(
      starts.map((first, n) => ({
        first,
        after: n === 0 ? 0 : (this.#passed.get(first) ?? 0) - MARGIN,
        last: (ranks[n] ?? MOST) - (n === ranks.length ? 0 : 1),
      })),
    );
  }

  /** A claim has looked at all of it. `walkedMs`: until its first row, by the server; undefined where it found none. */
  all(
    rows: readonly Pick<ClaimedRow, "rank" | "seq">[],
    walkedMs: number | undefined,
    tookMs: number,
    now = performance.now(),
  ): void {
    this.#dear = walkedMs === undefined ? this.#dear && tookMs > DEAR_MS : walkedMs > DEAR_MS;
    if (!this.#dear) this.#passed.clear();
    else {
      this.#againAt = now + Math.max(AGAIN_MS, SHARE * tookMs);
      this.beyond(rows);
    }
  }

  /** A claim has looked at the ranges. */
  beyond(rows: readonly Pick<ClaimedRow, "rank" | "seq">[]): void {
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
