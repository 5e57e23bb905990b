import { randomUUID } from "node:crypto";
import type { WakeChannel } from "../../store/wake-channel.ts";

/** How often a quiet connection is asked whether it still hears. */
const TEST_EVERY_MS = 30_000;
const TEST_PATIENCE_MS = 5_000;
const OPEN_PATIENCE_MS = 20_000;
/** A connection that never hears (a pooler in between) is not tried more often than this. */
const LONGEST_BACK_OFF_MS = 60_000;

/** Begins the payload of a test; a mailbox has no space in its name. */
const TEST = " test:";

export interface EarCalls {
  readonly heard: (payload: string) => void;
  /** It could not hear for a while, and can now. */
  readonly missed: () => void;
}

/**
 * The one listening connection of a process: made again with growing pauses when it breaks, and tested by a
 * message to itself, because a connection whose other end is gone is silent like one on which nothing happens,
 * and some poolers accept LISTEN and never deliver. Its timers and its socket do not keep the process alive.
 */
export class Ear {
  readonly #channel: () => WakeChannel | undefined;
  readonly #calls: EarCalls;
  #connection: { close(): void } | undefined;
  #timer: NodeJS.Timeout | undefined;
  #expected: string | undefined;
  #failures = 0;
  #tested = false;
  /** Which try to open is the current one; an older one that still answers is not wanted any more. */
  #attempt = 0;
  #closed = false;

  constructor(channel: () => WakeChannel | undefined, calls: EarCalls) {
    this.#channel = channel;
    this.#calls = calls;
    void this.#open();
  }

  /** Whether news would be heard now, as far as it can tell. */
  get hears(): boolean {
    return this.#connection !== undefined && this.#tested;
  }

  close(): void {
    this.#closed = true;
    this.#attempt++;
    this.#drop();
  }

  async #open(): Promise<void> {
    const channel = this.#channel();
    if (channel === undefined || this.#closed) return;
    const attempt = ++this.#attempt;
    const failed = () => {
      if (attempt === this.#attempt) this.#retry();
    };
    this.#after(OPEN_PATIENCE_MS, failed);
    let connection: { close(): void };
    try {
      connection = await channel.listen({
        heard: (payload) => this.#heard(payload),
        lost: failed,
      });
    } catch {
      return failed();
    }
    if (attempt !== this.#attempt) return connection.close();
    this.#connection = connection;
    this.#calls.missed();
    if (channel.untested === undefined) return this.#test();
    clearTimeout(this.#timer);
    this.#tested = true;
    this.#failures = 0;
  }

  async #test(): Promise<void> {
    const channel = this.#channel();
    const connection = this.#connection;
    if (channel === undefined || connection === undefined) return;
    this.#expected = `${TEST}${randomUUID()}`;
    this.#after(TEST_PATIENCE_MS, () => this.#retry());
    try {
      // Through the pool, as other processes send.
      await channel.send([this.#expected]);
    } catch {
      if (this.#connection === connection) this.#retry();
    }
  }

  #heard(payload: string): void {
    if (!payload.startsWith(TEST)) {
      this.#calls.heard(payload);
    } else if (payload === this.#expected) {
      this.#expected = undefined;
      this.#tested = true;
      this.#failures = 0;
      this.#after(TEST_EVERY_MS * (0.75 + Math.random() / 2), () => void this.#test());
    }
  }

  #retry(): void {
    if (this.#closed) return;
    this.#drop();
    this.#attempt++;
    this.#failures++;
    const longest = Math.min(LONGEST_BACK_OFF_MS, 100 * 2 ** Math.min(this.#failures, 20));
    this.#after(longest * (0.5 + Math.random() / 2), () => void this.#open());
  }

  #drop(): void {
    clearTimeout(this.#timer);
    this.#expected = undefined;
    this.#tested = false;
    this.#connection?.close();
    this.#connection = undefined;
  }

  #after(ms: number, call: () => void): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(call, ms).unref();
  }
}
