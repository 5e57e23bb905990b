/** A claim that meets nothing but ready messages finds them in a fraction of this. */
export const DEAR_MS = 4;
/** What was passed over is looked at again at most so often, and for no more than a tenth of the time. */
export const AGAIN_MS = 1_000;
export const SHARE = 10;

/** When a look that took so long may come again. */
export function againAt(at: number, tookMs: number): number {
  return at + Math.max(AGAIN_MS, SHARE * tookMs);
}

/** What is committed this much later than it falls due is found at once all the same. */
const MARGIN_MS = 100;
/** How many due messages one claim makes ready at most, and how many where it is far to the first of them. */
const PROMOTE = 500;
const PROMOTE_FAR = 5_000;
/** Finding and locking one of them takes less than this. */
const EACH_MS = 0.01;
/** Claims in a row that walked for long, two at least, are believed once they took so long together. */
const CERTAIN_MS = 50;

/**
 * Whether it is far to the first message, by what one claim took until its first row; one that found none says only
 * that it is far no longer.
 */
export function isFar(
  before: boolean,
  walkedMs: number | undefined,
  tookMs: number,
  dearMs = DEAR_MS,
): boolean {
  return walkedMs === undefined ? before && tookMs > dearMs : walkedMs > dearMs;
}

/** What one claim looks at of the messages that fell due. */
export interface DueLook {
  /** Only what fell due after this instant of the server's clock; undefined: all of it. */
  readonly after?: number | undefined;
  /** At most so many become ready. */
  readonly promote: number;
}

export interface DueFound {
  /** The server's clock; null where nobody told. */
  readonly now: number | null;
  /** Until the first row, by the server; undefined where it told nothing. */
  readonly walkedMs: number | undefined;
  /** Until the answer. */
  readonly tookMs: number;
  /** How many of those that had fallen due were found, and the last instant of theirs. */
  readonly count: number;
  readonly last: number | null;
  /** Whether that was all of them. */
  readonly all: boolean;
  /** How many were claimed, of these or ready ones. */
  readonly claimed: number;
}

/**
 * Where claims of a mailbox look for messages that fell due: as `ClaimWalk`, for the index of those. PostgreSQL keeps
 * the entries of all that fell due since a transaction that is still open began. Where a claim was seen to walk for
 * long, the next ones look only behind the instant up to which nothing was left, with a margin; and at all of it
 * again within a second or, where that takes long, for a tenth of the time.
 */
export class DueWalk {
  /** Whether most likely nothing has fallen due: a claim that looks at nothing but ready messages is enough. */
  mostlyReady = true;
  #far = false;
  /** How many claims in a row walked for long, and how long together. */
  #slow = { claims: 0, ms: 0 };
  #after: number | undefined;
  #allAt = 0;

  /** Whether it is far from the first entry to the first message. */
  get far(): boolean {
    return this.#far;
  }

  /** `mayAll`: whether this claim may look at all of it again. */
  look(mayAll = true, at = performance.now()): DueLook {
    if (!this.#far) return { promote: PROMOTE };
    if (!mayAll || at < this.#allAt) return { after: this.#after, promote: PROMOTE_FAR };
    // One at a time, also where this claim never answers.
    this.#allAt = at + AGAIN_MS;
    return { promote: PROMOTE_FAR };
  }

  found(
    look: DueLook,
    { now, walkedMs, tookMs, count, last, all, claimed }: DueFound,
    at = performance.now(),
  ): void {
    this.mostlyReady = count === 0;
    if (look.after === undefined) {
      const dearMs = DEAR_MS + (count + claimed) * EACH_MS;
      this.#far = this.#believed(isFar(this.#far, walkedMs, tookMs, dearMs), walkedMs ?? tookMs);
      this.#allAt = againAt(at, walkedMs ?? tookMs);
      this.#after = undefined;
    }
    const until = (all ? now : null) ?? last;
    if (until === null) return;
    this.#after = Math.max(until - MARGIN_MS, this.#after ?? Number.MIN_SAFE_INTEGER);
  }

  #believed(far: boolean, ms: number): boolean {
    if (!far) this.#slow = { claims: 0, ms: 0 };
    else this.#slow = { claims: this.#slow.claims + 1, ms: this.#slow.ms + ms };
    return far && (this.#far || (this.#slow.claims > 1 && this.#slow.ms >= CERTAIN_MS));
  }
}
