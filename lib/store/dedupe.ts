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

  /**
   * Which messages were sent before, and the id of the first one. Ids are settled first: a message that its id
   * makes a repetition takes no dedupe key. Then keys, in order, among the rest.
   */
  async duplicates(
    trx: Db,
    messages: readonly EncodedMessage[],
  ): Promise<Map<EncodedMessage, string>> {
    const duplicates = new Map<EncodedMessage, string>();
    const byId = firsts(messages, (message) => this.#idKey(message));
    const heldIds = await this.#hold(trx, byId, () => this.#ownIdWindowMs);
    const fresh = messages.filter((message) => {
      const key = this.#idKey(message);
      if (key === undefined) return true;
      const before = heldIds.get(key);
      if (before !== undefined) duplicates.set(message, before);
      return before === undefined && byId.get(key) === message;
    });
    const byKey = firsts(fresh, keyOf);
    const heldKeys = await this.#hold(
      trx,
      byKey,
      ({ head }) => head.dedupeWindowMs ?? DEDUPE_WINDOW_MS,
    );
    const notStored: string[] = [];
    for (const message of fresh) {
      const key = keyOf(message);
      if (key === undefined) continue;
      const first = byKey.get(key) as EncodedMessage;
      const before = heldKeys.get(key) ?? (first === message ? undefined : first.messageId);
      if (before === undefined) continue;
      duplicates.set(message, before);
      const idKey = this.#idKey(message);
      if (idKey !== undefined) notStored.push(idKey);
    }
    // What its key made a duplicate is not stored, so its id must not be taken by it.
    for (let n = 0; n < notStored.length; n += STEP) {
      await trx(this.#table)
        .whereIn("dedupe_key", notStored.slice(n, n + STEP))
        .del();
    }
    // The same id again in the batch goes where its first one went.
    for (const message of messages) {
      const key = this.#idKey(message);
      const first = key === undefined ? undefined : byId.get(key);
      if (first === undefined || first === message || duplicates.has(message)) continue;
      duplicates.set(message, duplicates.get(first) ?? first.messageId);
    }
    return duplicates;
  }

  /** Takes keys for the messages; returns those that others hold, with the message that holds each. */
  async #hold(
    trx: Db,
    wanted: ReadonlyMap<string, EncodedMessage>,
    windowMs: (message: EncodedMessage) => number,
  ): Promise<Map<string, string>> {
    const keys = [...wanted].map(([key, message]) => ({
      key,
      message_id: message.messageId,
      window_ms: windowMs(message),
    }));
    const held = new Map<string, string>();
    for (let n = 0; n < keys.length; n += STEP) {
      const others = await this.#dialect.holdKeys(trx, keys.slice(n, n + STEP));
      for (const { key, message_id } of others) held.set(key, message_id);
    }
    return held;
  }

  #idKey({ ownId, head: { fromAgent }, messageId }: EncodedMessage): string | undefined {
    // The length tells where the sender ends: both may hold colons.
    return ownId ? `id:${fromAgent.length}:${fromAgent}:${messageId}` : undefined;
  }
}

function keyOf({ head: { dedupeKey, toAgent, addressedTo } }: EncodedMessage): string | undefined {
  if (dedupeKey === undefined) return undefined;
  const [only = "", ...others] = [...(addressedTo ?? toAgent)].sort();
  if (others.length === 0) return `key:${only.length}:${only}:${dedupeKey}`;
  const list = createHash("sha256")
    .update([only, ...others].join("\n"))
    .digest("hex");
  return `keys:${list}:${dedupeKey}`;
}

function firsts(
  messages: readonly EncodedMessage[],
  key: (message: EncodedMessage) => string | undefined,
): Map<string, EncodedMessage> {
  const first = new Map<string, EncodedMessage>();
  for (const message of messages) {
    const name = key(message);
    if (name !== undefined && !first.has(name)) first.set(name, message);
  }
  return first;
}
