import { AgentCommunicationError, type ErrorCode } from "../../errors.ts";
import type { EncodedMessage } from "../../protocol/envelope.ts";
import type { Sent } from "../../store/sending.ts";

/** After these the group may be stored for all we know, or each of it would fail alike: nothing is sent again. */
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

const MOST_MESSAGES = 500;
const MOST_BYTES = 4_000_000;
/** A group that takes longer waits for somebody's lock: the next one does not wait for it. */
const PATIENCE_MS = 25;
const MOST_AT_ONCE = 4;

interface Member {
  readonly message: EncodedMessage;
  resolve(sent: Sent): void;
  reject(error: unknown): void;
}

/**
 * Sends that come while another one is under way share the next statement and the next commit. Nobody waits for
 * company: a lone send goes at once. Each has its own result and its own error: where a group fails for a reason
 * that may be one's alone, it is sent in halves.
 */
export class SendGroup {
  readonly #send: (messages: readonly EncodedMessage[]) => Promise<Sent[]>;
  #waiting: Member[] = [];
  #underWay = 0;
  readonly #running = new Set<Promise<void>>();
  #timer: NodeJS.Timeout | undefined;
  /** When the last group was given to the database. */
  #begunAt = 0;

  constructor(send: (messages: readonly EncodedMessage[]) => Promise<Sent[]>) {
    this.#send = send;
  }

  send(message: EncodedMessage): Promise<Sent> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ message, resolve, reject });
      if (this.#underWay === 0) this.#begin();
      // Those under way may have been waiting for long: their time to be waited for is over then.
      else if (this.#timer === undefined) this.#watch();
    });
  }

  /** Resolves when everything that was given is stored, or has failed. */
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
      await this.#store(group);
      // Whoever sent in company mostly sends again: one turn for all of them to come, or the first goes alone.
      if (group.length > 1) await new Promise(setImmediate);
    }
    this.#underWay -= 1;
  }

  #take(): Member[] {
    let bytes = 0;
    let size = 0;
    while (size < Math.min(this.#waiting.length, MOST_MESSAGES)) {
      bytes += this.#waiting[size]?.message.contentText.length ?? 0;
      if (size > 0 && bytes > MOST_BYTES) break;
      size += 1;
    }
    const group = this.#waiting;
    this.#waiting = group.splice(size);
    return group;
  }

  /** Only while somebody waits: a timer for each lone send would be a good part of its cost. */
  #watch(): void {
    const left = this.#begunAt + PATIENCE_MS - performance.now();
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        if (this.#waiting.length > 0 && this.#underWay < MOST_AT_ONCE) this.#begin();
      },
      Math.max(0, left),
    );
    this.#timer.unref();
  }

  /** Never rejects. */
  async #store(group: readonly Member[]): Promise<void> {
    try {
      const sent = await this.#send(group.map(({ message }) => message));
      for (const [n, { resolve }] of group.entries()) resolve(sent[n] as Sent);
    } catch (error) {
      if (group.length === 1 || isForAll(error)) {
        for (const { reject } of group) reject(error);
      } else {
        const half = Math.ceil(group.length / 2);
        await this.#store(group.slice(0, half));
        await this.#store(group.slice(half));
      }
    }
  }
}

/**
 * Whether a message may share a statement with others: it waits for no key that somebody may hold for long, and
 * is counted nowhere.
 */
export function mayShare({ head }: EncodedMessage): boolean {
  return (
    head.orderingKey === undefined &&
    head.concurrencyKey === undefined &&
    head.dedupeKey === undefined
  );
}
