import { type ConsumerKey, type ConsumerRow, ConsumerStore } from "../../store/consumers.ts";
import type { QueueCore } from "../core.ts";
import { settledWithin } from "../worker/pace.ts";

/** How often a consumer notes that it is there. A little more where it is noted by a timer, a little apart. */
const EVERY_MS = 15_000;
/** Who was not seen for three times as long is gone. */
const LIVE_MS = 45_000;
/** A worker says so soon after it began, but after its first claims. */
const FIRST_MS = 100;
/** Whoever stops does not wait longer than this for being taken off the list. */
const LONGEST_REMOVE_MS = 1_000;
/** Callers of one mailbox, each with an id of its own, that one process notes. */
const MOST_CALLERS = 10;
const MOST_LISTED = 1_000;
/** Callers that were seen within so long are noted together, so many at most by one statement. */
const TOGETHER_MS = 50;
const MOST_TOGETHER = 100;

/** Who claims from a mailbox. */
export interface Consumer {
  readonly agentId: string;
  readonly workerId: string;
  /** Only messages of these types; null: of every type. */
  readonly messageTypes: readonly string[] | null;
  /** When it was seen last, in milliseconds since the epoch, by the database's clock. */
  readonly seenAt: number;
  /** It was seen within the last 45 seconds. */
  readonly live: boolean;
}

const storeOf = ({ knex, dialect, options }: QueueCore) =>
  new ConsumerStore(knex, dialect, options.prefix);

/** The consumers of one mailbox, or of all, who was seen last first; at most 1,000. */
export async function consumersOf(core: QueueCore, agentId: string | null): Promise<Consumer[]> {
  return (await storeOf(core).list(agentId, MOST_LISTED)).map(consumerOf);
}

function consumerOf({ idleMs, ...consumer }: ConsumerRow): Consumer {
  return { ...consumer, live: idleMs < LIVE_MS };
}

/**
 * Notes from time to time that a worker is there, until the returned call takes it off the list. What fails costs
 * `why` a fact, never a message.
 */
export function attend(core: QueueCore, consumer: ConsumerKey): () => Promise<void> {
  const store = storeOf(core);
  let known = false;
  let stopped = false;
  let noting: Promise<unknown> = Promise.resolve();
  let timer: NodeJS.Timeout;
  const note = async () => {
    try {
      await core.db();
      await store.note([consumer], known);
      known = true;
    } catch {
      // The next time tries again.
    }
    if (!stopped) arm(EVERY_MS * (1.05 + Math.random() / 10));
  };
  const arm = (ms: number) => {
    timer = setTimeout(() => {
      noting = note();
    }, ms);
    timer.unref();
  };
  arm(FIRST_MS * (1 + Math.random()));
  return async () => {
    stopped = true;
    clearTimeout(timer);
    const removed = noting.then(() => (known ? store.remove([consumer]) : undefined));
    await settledWithin(LONGEST_REMOVE_MS, removed);
  };
}

interface Caller {
  notedAt: number;
  readonly consumer: ConsumerKey;
}

/**
 * Notes who calls `getMessages`: beside the claim, seldom, and at little cost to it: whoever goes from mailbox to
 * mailbox would pay half a claim in each for a statement of its own.
 */
export class Callers {
  readonly #core: QueueCore;
  readonly #mailboxes = new Map<string, Map<string, Caller>>();
  /** To be noted, each once, and whether it was before. */
  #waiting = new Map<string, { readonly consumer: ConsumerKey; readonly known: boolean }>();
  #timer: NodeJS.Timeout | undefined;
  #noting: Promise<unknown> = Promise.resolve();
  #lastPruned = performance.now();

  constructor(core: QueueCore) {
    this.#core = core;
  }

  /** Returns at once. */
  seen({ agentId, workerId, messageTypes }: ConsumerKey): void {
    const now = performance.now();
    const callers = this.#mailboxes.get(agentId);
    const caller = callers?.get(workerId);
    const fresh = caller !== undefined && now - caller.notedAt < EVERY_MS;
    // One that takes these types by one call and those by another takes all of them.
    const types = fresh ? both(caller.consumer.messageTypes, messageTypes) : messageTypes;
    if (fresh && types?.length === caller.consumer.messageTypes?.length) return;
    this.#prune(now);
    if (caller === undefined && (callers?.size ?? 0) >= MOST_CALLERS) return;
    const consumer = { agentId, workerId, messageTypes: types };
    const others = callers ?? new Map<string, Caller>();
    this.#mailboxes.set(agentId, others.set(workerId, { notedAt: now, consumer }));
    const name = JSON.stringify([agentId, workerId]);
    const known = this.#waiting.get(name)?.known ?? caller !== undefined;
    this.#waiting.set(name, { consumer, known });
    this.#timer ??= setTimeout(() => this.#note(), TOGETHER_MS).unref();
  }

  #note(): void {
    this.#timer = undefined;
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const known of [true, false]) {
      const consumers = waiting.filter((one) => one.known === known);
      for (let from = 0; from < consumers.length; from += MOST_TOGETHER) {
        const some = consumers.slice(from, from + MOST_TOGETHER).map(({ consumer }) => consumer);
        const note = () => storeOf(this.#core).note(some, known);
        // One after the other, so that they never take more than one connection of the pool.
        this.#noting = this.#noting.then(note).catch(() => undefined);
      }
    }
  }

  /** Takes the callers off the list. */
  async close(): Promise<void> {
    clearTimeout(this.#timer);
    this.#waiting.clear();
    const callers = [...this.#mailboxes.values()].flatMap((each) => [...each.values()]);
    this.#mailboxes.clear();
    if (callers.length === 0) return;
    const removed = this.#noting.then(() =>
      storeOf(this.#core).remove(callers.slice(0, 100).map(({ consumer }) => consumer)),
    );
    await settledWithin(LONGEST_REMOVE_MS, removed);
  }

  /** Forgets who has not called for so long that the list has forgotten it too. */
  #prune(now: number): void {
    if (now - this.#lastPruned < EVERY_MS) return;
    this.#lastPruned = now;
    for (const [agentId, callers] of this.#mailboxes) {
      for (const [workerId, { notedAt }] of callers) {
        if (now - notedAt >= LIVE_MS) callers.delete(workerId);
      }
      if (callers.size === 0) this.#mailboxes.delete(agentId);
    }
  }
}

function both(
  some: readonly string[] | null,
  others: readonly string[] | null,
): readonly string[] | null {
  return some === null || others === null ? null : [...new Set([...some, ...others])];
}
