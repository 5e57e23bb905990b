import { createHash } from "node:crypto";
import type { EncodedMessage } from "../protocol/envelope.ts";
import type { Db, Dialect } from "./dialect.ts";

const DEDUPE_WINDOW_MS = 300_000;

/** One statement takes at most this many keys. */
const STEP = 1_000;

/** Recognises messages that were sent before, by the id of the sender's choosing or by a dedupe key. */
export class DedupeKeys {
  readonly #dialect: Dialect;
  readonly #table: string;
  readonly #ownIdWindowMs: number;

  constructor(dialect: Dialect, prefix: string, ownIdWindowMs: number) {
    this.#dialect = dialect;
    this.#table = `${prefix}dedupe`;
    this.#ownIdWindowMs = ownIdWindowMs;
  }

  /** Which messages were sent before, by their own id or by their key, and the id of the first one. */
  async duplicates(
    trx: Db,
    messages: readonly EncodedMessage[],
  ): Promise<Map<EncodedMessage, string>> {
    const duplicates = new Map<EncodedMessage, string>();
    const inBatch = new Map<string, { message: EncodedMessage; windowMs: number }>();
    for (const message of messages) {
      const keys = this.#keysOf(message);
      const earlier = keys.map(({ key }) => inBatch.get(key)?.message).find((found) => found);
      if (earlier !== undefined) {
        duplicates.set(message, earlier.messageId);
        continue;
      }
      for (const { key, windowMs } of keys) inBatch.set(key, { message, windowMs });
    }
    const wanted = [...inBatch].map(([key, { message, windowMs }]) => ({
      key,
      message_id: message.messageId,
      window_ms: windowMs,
    }));
    const held: string[] = [];
    for (let n = 0; n < wanted.length; n += STEP) {
      for (const { key, message_id } of await this.#dialect.holdKeys(
        trx,
        wanted.slice(n, n + STEP),
      )) {
        const mine = inBatch.get(key);
        if (mine === undefined) continue;
        held.push(key);
        duplicates.set(mine.message, message_id);
      }
    }
    await this.#giveBack(trx, duplicates, new Set(held));
    // A repetition inside the batch of a message that was itself a repetition points to the first one.
    const firstOf = new Map([...duplicates].map(([message, first]) => [message.messageId, first]));
    for (const [message, first] of duplicates) {
      const before = first === message.messageId ? undefined : firstOf.get(first);
      if (before !== undefined) duplicates.set(message, before);
    }
    return duplicates;
  }

  /** A message that one of its keys makes a duplicate is not stored, so its other keys must not be held by it. */
  async #giveBack(
    trx: Db,
    duplicates: ReadonlyMap<EncodedMessage, string>,
    held: ReadonlySet<string>,
  ): Promise<void> {
    for (const [message, first] of duplicates) {
      if (first === message.messageId) continue;
      const taken = this.#keysOf(message)
        .map(({ key }) => key)
        .filter((key) => !held.has(key));
      if (taken.length === 0) continue;
      await trx(this.#table)
        .where({ message_id: message.messageId })
        .whereIn("dedupe_key", taken)
        .del();
    }
  }

  #keysOf(message: EncodedMessage): { key: string; windowMs: number }[] {
    const keys: { key: string; windowMs: number }[] = [];
    if (message.ownId) {
      keys.push({
        key: `id:${message.fromAgent.length}:${message.fromAgent}:${message.messageId}`,
        windowMs: this.#ownIdWindowMs,
      });
    }
    if (message.dedupeKey !== undefined) {
      const [only, ...others] = [...message.toAgent].sort();
      const mailbox =
        others.length === 0
          ? only
          : createHash("sha256")
              .update([only, ...others].join("\n"))
              .digest("hex");
      keys.push({
        key: `key:${mailbox?.length}:${mailbox}:${message.dedupeKey}`,
        windowMs: message.dedupeWindowMs ?? DEDUPE_WINDOW_MS,
      });
    }
    return keys;
  }
}
