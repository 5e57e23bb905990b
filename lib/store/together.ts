import { AgentCommunicationError, type ErrorCode } from "../errors.ts";

/** After these a group may be written for all we know, or each of it would fail alike: nothing is tried again. */
const FOR_ALL: readonly ErrorCode[] = [
  "SERVICE_UNAVAILABLE",
  "STORAGE_FULL",
  "CLOSED",
  "NOT_MIGRATED",
  "PERMISSION_DENIED",
];

export function isForAll(error: unknown): boolean {
  return error instanceof AgentCommunicationError && FOR_ALL.includes(error.code);
}

/** One statement takes at most this many: on SQL Server more would lock the whole table. */
const MOST_ITEMS = 500;
const MOST_CHARACTERS = 4_000_000;
/** A group that takes longer waits for somebody's lock: the next one does not wait for it. */
const PATIENCE_MS = 25;
const MOST_AT_ONCE = 4;
/** Where so many take longer than this, their connections may never answer: one more is tried. */
const SILENCE_MS = 1_000;

export interface TogetherOptions<Item, Answer> {
  /** Writes a group down, all or nothing; one answer for each, in order. */
  readonly run: (items: readonly Item[]) => Promise<readonly Answer[]>;
  /**
   * A group weighs at most `mostWeight`, unless it is a single item: mostly in characters, of which one statement takes
   * 4,000,000 by default. Default: nothing weighs anything.
   */
  readonly weightOf?: (item: Item) => number;
  readonly mostWeight?: number;
  /** Whether one of a group waits for somebody: then each goes alone, and nobody waits with it. Default: never. */
  readonly isForOne?: (error: unknown) => boolean;
}

interface Member<Item, Answer> {
  readonly item: Item;
  resolve(answer: Answer): void;
  reject(error: unknown): void;
}

/**
 * Calls that come while another one is under way share the next statement and the next commit. Nobody waits for
 * company: a lone call goes at once. Each has its own answer and its own error: where a group fails for a reason
 * that may be one's alone, it is tried in halves.
 */
export class Together<Item, Answer> {
  readonly #options: TogetherOptions<Item, Answer>;
  #waiting: Member<Item, Answer>[] = [];
  #underWay = 0;
  readonly #running = new Set<Promise<void>>();
  #timer: NodeJS.Timeout | undefined;
  /** When the last group was given to the database. */
  #begunAt = 0;

  constructor(options: TogetherOptions<Item, Answer>) {
    this.#options = options;
  }

  add(item: Item): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ item, resolve, reject });
      if (this.#underWay === 0) this.#begin();
      // Those under way may have been waiting for long: their time to be waited for is over then.
      else if (this.#timer === undefined) this.#watch();
    });
  }

  /** Resolves when everything that was given is written down, or has failed. */
  async idle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }

  #begin(): void {
    const running = this.#next().finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  async #next(): Promise<void> {
    this.#underWay += 1;
    while (this.#waiting.length > 0) {
      const group = this.#take();
      this.#begunAt = performance.now();
      clearTimeout(this.#timer);
      this.#timer = undefined;
      if (this.#waiting.length > 0) this.#watch();
      await this.#write(group);
      // Whoever came in company mostly comes again: one turn for all of them, or the first goes alone.
      if (group.length > 1) await new Promise(setImmediate);
    }
    this.#underWay -= 1;
  }

  #take(): Member<Item, Answer>[] {
    const { weightOf = () => 0, mostWeight = MOST_CHARACTERS } = this.#options;
    let weight = 0;
    let size = 0;
    for (const { item } of this.#waiting) {
      weight += weightOf(item);
      if (size > 0 && (weight > mostWeight || size === MOST_ITEMS)) break;
      size += 1;
    }
    const group = this.#waiting;
    this.#waiting = group.splice(size);
    return group;
  }

  /** Only while somebody waits: a timer for each lone call would be a good part of its cost. */
  #watch(): void {
    const patience = this.#underWay < MOST_AT_ONCE ? PATIENCE_MS : SILENCE_MS;
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        if (this.#waiting.length > 0) this.#begin();
      },
      Math.max(0, this.#begunAt + patience - performance.now()),
    );
    this.#timer.unref();
  }

  /** Never rejects. */
  async #write(group: readonly Member<Item, Answer>[]): Promise<void> {
    try {
      const answers = await this.#options.run(group.map(({ item }) => item));
      for (const [n, { resolve }] of group.entries()) resolve(answers[n] as Answer);
    } catch (error) {
      if (group.length === 1 || isForAll(error)) {
        for (const { reject } of group) reject(error);
      } else if (this.#options.isForOne?.(error)) {
        await Promise.all(group.map((member) => this.#write([member])));
      } else {
        const half = Math.ceil(group.length / 2);
        await this.#write(group.slice(0, half));
        await this.#write(group.slice(half));
      }
    }
  }
}
