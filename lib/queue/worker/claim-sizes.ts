import { contentRefSchema, gzippedSchema } from "../../protocol/claim-check.ts";
import type { ClaimedRow } from "../../store/dialect.ts";

/** A claim takes at most so many times as many messages as one of the last ones, whose sizes were seen. */
const GROWTH = 4;
/** For so long one of the last ones is one of the last. */
const LATELY_MS = 10_000;
/** The average is that of about so many messages. */
const AVERAGED = 32;
/** Messages that turned out larger than the last ones are kept up to so many times the budget. */
const KEPT = 1.5;
/** This part of the budget is for what is claimed ahead: more of it makes nothing quicker, and much to collect. */
const AHEAD = 1 / 8;

/**
 * How many messages a worker may claim, so that what it has in its hands takes about `maxBytes` at most. How large a
 * message is shows when it is there: what comes next is taken to be as large as what came last or, where that is
 * more, as the average. Where nothing came lately, a message may be as large as messages can be, and every claim asks
 * for some times more than the last one, so that large ones are met by few claims that are small.
 */
export class ClaimSizes {
  readonly #maxBytes: number;
  readonly #maxMessageBytes: number;
  /** The most messages that one claim took lately, and when. */
  #most = 0;
  #mostAt = Number.NEGATIVE_INFINITY;
  /** Bytes of a message: in the last claim, and of the last ones. */
  #last = 0;
  #average = 0;

  constructor(maxBytes: number, maxMessageBytes: number) {
    this.#maxBytes = maxBytes;
    this.#maxMessageBytes = maxMessageBytes;
  }

  /** How many of so many messages to claim, while others of so many bytes are held. */
  room(wanted: number, heldBytes: number, now = performance.now()): number {
    const left = this.#maxBytes - heldBytes;
    const fitting = Math.floor(left / this.#expected);
    const lately = now - this.#mostAt > LATELY_MS ? 0 : this.#most;
    const careful = Math.max(1, GROWTH * lately, Math.floor(left / this.#maxMessageBytes));
    const room = Math.min(wanted, careful, Math.max(0, fitting));
    return heldBytes === 0 ? Math.max(room, Math.min(wanted, 1)) : room;
  }

  /** How many messages may be there for which no handler is free. */
  get ahead(): number {
    return Math.floor((this.#maxBytes * AHEAD) / this.#expected);
  }

  get #expected(): number {
    return Math.max(this.#last, this.#average, 1);
  }

  /** A claim has found messages of these sizes. */
  saw(sizes: readonly number[], now = performance.now()): void {
    const count = sizes.length;
    if (count >= this.#most || now - this.#mostAt > LATELY_MS) {
      this.#most = count;
      this.#mostAt = now;
    }
    this.#last = sum(sizes) / count;
    const old = this.#average === 0 ? 0 : (1 - 1 / AVERAGED) ** count;
    this.#average = this.#average * old + this.#last * (1 - old);
  }

  /** How many of these to keep, from the first one on, while others of so many bytes are held. */
  kept(sizes: readonly number[], heldBytes: number): number {
    let bytes = heldBytes;
    for (const [n, size] of sizes.entries()) {
      bytes += size;
      if (bytes > KEPT * this.#maxBytes) return heldBytes === 0 ? Math.max(1, n) : n;
    }
    return sizes.length;
  }
}

export function sum(sizes: readonly number[]): number {
  return sizes.reduce((bytes, size) => bytes + size, 0);
}

/** About what a claimed message takes in memory, once its content was unpacked or fetched. */
export function bytesOf({ content, content_encoding, headers, progress }: ClaimedRow): number {
  let bytes = documentBytes(content);
  if (content_encoding !== null) {
    const packed = content_encoding === "gzip" ? gzippedSchema : contentRefSchema;
    bytes = Math.max(bytes, packed.safeParse(content).data?.bytes ?? 0);
  }
  return bytes + documentBytes(headers) + documentBytes(progress);
}

/** Longer texts are worth the question how many of their characters take more than a byte. */
const LONG = 256;

/** What is still to be looked into. One for all: most messages have nothing in them. */
const inside: object[] = [];

/** A few nanoseconds for a small document; a tenth of what parsing took for a large one, however deep it is. */
function documentBytes(document: unknown): number {
  let bytes = 0;
  let next = document;
  while (typeof next === "object" && next !== null) {
    bytes += 24;
    if (Array.isArray(next)) {
      for (let n = 0; n < next.length; n++) bytes += valueBytes(next[n]);
    } else {
      for (const name in next) bytes += valueBytes((next as Record<string, unknown>)[name]);
    }
    next = inside.pop();
  }
  return bytes;
}

/** Of a value by itself; what is in it comes later. */
function valueBytes(value: unknown): number {
  if (typeof value === "string") {
    return 32 + (value.length > LONG ? Buffer.byteLength(value) : value.length);
  }
  if (typeof value === "object" && value !== null) inside.push(value);
  return 8;
}
