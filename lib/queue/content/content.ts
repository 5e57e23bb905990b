import { createHash, randomBytes } from "node:crypto";
import { promisify } from "node:util";
import { gunzip, gzip } from "node:zlib";
import { AgentCommunicationError } from "../../errors.ts";
import {
  type ClaimCheckAbout,
  type ContentRef,
  claimCheckKey,
  contentRefSchema,
  gzippedSchema,
  messageIdOfKey,
} from "../../protocol/claim-check.ts";
import type { EncodedMessage } from "../../protocol/envelope.ts";
import type { Content } from "../../protocol/message-input.ts";
import type { QueueOptions } from "../../protocol/options.ts";
import type { Db } from "../../store/dialect.ts";
import type { PayloadStore } from "../../store/payloads.ts";

const deflate = promisify(gzip);
const unzip = promisify(gunzip);

/** Of 200 KB of ordinary JSON it makes 51 KB in 1.5 ms; the standard level takes 4.3 ms for 44 KB. */
const LEVEL = 4;
const zip = (plain: string | Uint8Array) => deflate(plain, { level: LEVEL });

/** Compressed or stored at once; each holds a copy of its content. */
const AT_ONCE = 4;
/** Compressed, it must be this much smaller to be worth reading back: nine tenths. */
const WORTHWHILE = 0.9;
/** What any consumer unpacks, whatever its own limit for sending is. */
const LARGEST = 100_000_000;

/** A content as the row has it. */
export interface Packed {
  readonly messageId: string;
  readonly encoding: string;
  readonly stored: unknown;
}

/** Makes large contents small before they go into a row, and the other way round. */
export class Contents {
  readonly #options: QueueOptions;
  readonly #payloads: PayloadStore;
  /** Contents of more bytes than these are looked at at all. */
  readonly #least: number;
  readonly #compressAbove: number;
  readonly #storeAbove: number;
  readonly #largest: number;

  constructor(options: QueueOptions, payloads: PayloadStore) {
    this.#options = options;
    this.#payloads = payloads;
    const { compress, claimCheck, maxMessageBytes } = options;
    this.#compressAbove = compress === false ? Number.POSITIVE_INFINITY : compress.aboveBytes;
    this.#storeAbove =
      claimCheck === undefined
        ? Number.POSITIVE_INFINITY
        : Math.min(claimCheck.aboveBytes, maxMessageBytes);
    this.#least = Math.min(this.#compressAbove, this.#storeAbove);
    this.#largest = Math.max(LARGEST, maxMessageBytes, claimCheck?.maxBytes ?? 0);
  }

  /** Nothing but a comparison of lengths for messages that stay as they are. */
  needsPacking(messages: readonly EncodedMessage[]): boolean {
    // A character has at most three bytes of UTF-8.
    return messages.some(({ contentText }) => contentText.length * 3 > this.#least);
  }

  /**
   * Messages whose contents are fit for a row. What goes into the claim-check store is there when this resolves; if
   * the send comes to nothing, the next sweep finds it.
   */
  async pack(db: Db, messages: readonly EncodedMessage[]): Promise<EncodedMessage[]> {
    const packed = [...messages];
    await eachOf(messages, AT_ONCE, async (message, n) => {
      const bytes = Buffer.byteLength(message.contentText);
      if (bytes > this.#storeAbove) packed[n] = await this.#stored(db, message, bytes);
      else if (bytes > this.#compressAbove) packed[n] = await compressed(message, bytes);
    });
    return packed;
  }

  async #stored(db: Db, message: EncodedMessage, bytes: number): Promise<EncodedMessage> {
    const { messageId } = message;
    const plain = Buffer.from(message.contentText);
    const small = bytes > this.#compressAbove ? await zip(plain) : plain;
    const helps = small.length <= plain.length * WORTHWHILE;
    const body = helps ? small : plain;
    const key = claimCheckKey(
      await this.#payloads.outbox(db),
      randomBytes(16).toString("hex"),
      messageId,
    );
    await this.#put(key, body, {
      messageId,
      contentType: helps ? "application/gzip" : "application/json",
    });
    const ref: ContentRef = {
      ref: key,
      bytes,
      sha256: sha256(body),
      ...(helps ? { encoding: "gzip" } : {}),
    };
    return message.packed(JSON.stringify(ref), "ref");
  }

  async #put(key: string, body: Uint8Array, about: ClaimCheckAbout): Promise<void> {
    try {
      await this.#options.claimCheck?.store.put(key, body, about);
    } catch (cause) {
      if (cause instanceof AgentCommunicationError) throw cause;
      throw new AgentCommunicationError(
        "CONTENT_UNAVAILABLE",
        `the claim-check store did not take the content of message ${about.messageId}: ${said(cause)}`,
        { cause, recoverySuggestion: "Nothing was sent. Mend the store, then send it again." },
      );
    }
  }

  /**
   * The content that the row stands for.
   *
   * @throws AgentCommunicationError CONTENT_UNREADABLE, which will not change; CONTENT_MISSING; CONTENT_UNAVAILABLE,
   *   which says nothing about the message
   */
  async unpack(packed: Packed): Promise<Content> {
    const { messageId, encoding, stored } = packed;
    if (encoding === "gzip") {
      const { data } = gzippedSchema.safeParse(stored);
      if (data === undefined)
        throw unreadable(messageId, "its compressed form is not what it should be");
      return this.#content(messageId, Buffer.from(data.gzip, "base64"), data.bytes, true);
    }
    if (encoding === "ref") return this.#loaded(messageId, stored);
    throw unreadable(messageId, `its encoding "${encoding}" is not known to this version`);
  }

  async #loaded(messageId: string, stored: unknown): Promise<Content> {
    const ref = contentRef(stored);
    if (ref === null || messageIdOfKey(ref.ref) !== messageId) {
      throw unreadable(
        messageId,
        "its reference to the claim-check store is not what it should be",
      );
    }
    const body = await this.#get(messageId, ref);
    if (sha256(body) !== ref.sha256) {
      throw unreadable(
        messageId,
        `what lies in the claim-check store under ${ref.ref} was changed`,
      );
    }
    return this.#content(messageId, body, ref.bytes, ref.encoding === "gzip");
  }

  async #get(messageId: string, { ref }: ContentRef): Promise<Uint8Array> {
    const store = this.#options.claimCheck?.store;
    if (store === undefined) {
      throw new AgentCommunicationError(
        "CONTENT_UNAVAILABLE",
        `the content of message ${messageId} lies in a claim-check store, and this process has none`,
        {
          details: { messageId, contentRef: ref },
          recoverySuggestion:
            "Give this queue the store that the senders have: claimCheck: { store } or OUTBOX_CLAIM_CHECK_DIR.",
        },
      );
    }
    let body: Uint8Array | null;
    try {
      body = await store.get(ref);
    } catch (cause) {
      // Of whatever kind: a right or a disk can be mended, and the message has done nothing wrong.
      throw new AgentCommunicationError(
        "CONTENT_UNAVAILABLE",
        `the content of message ${messageId} could not be loaded: ${said(cause)}`,
        {
          cause,
          details: { messageId, contentRef: ref },
          ...(cause instanceof AgentCommunicationError
            ? { recoverySuggestion: cause.recoverySuggestion }
            : {}),
        },
      );
    }
    if (body instanceof Uint8Array) return body;
    throw new AgentCommunicationError(
      "CONTENT_MISSING",
      `the content of message ${messageId} is not in the claim-check store under ${ref}`,
      { details: { messageId, contentRef: ref } },
    );
  }

  /** The size that was written down bounds what unpacking may take, whatever the bytes say. */
  async #content(
    messageId: string,
    body: Uint8Array,
    bytes: number,
    zipped: boolean,
  ): Promise<Content> {
    if (bytes > this.#largest) {
      throw unreadable(
        messageId,
        `its ${bytes} bytes are more than this process takes (${this.#largest}); raise claimCheck.maxBytes or maxMessageBytes here`,
      );
    }
    let content: unknown;
    try {
      const plain = zipped ? await unzip(body, { maxOutputLength: bytes }) : Buffer.from(body);
      if (plain.length !== bytes) throw new Error(`${plain.length} bytes instead of ${bytes}`);
      content = JSON.parse(plain.toString());
    } catch (cause) {
      throw unreadable(messageId, `it cannot be unpacked: ${said(cause)}`, cause);
    }
    if (content === null || typeof content !== "object") {
      throw unreadable(messageId, "it is no object or array");
    }
    return content as Content;
  }
}

async function compressed(message: EncodedMessage, bytes: number): Promise<EncodedMessage> {
  const body = await zip(message.contentText);
  const text = JSON.stringify({ gzip: body.toString("base64"), bytes });
  if (text.length > bytes * WORTHWHILE) return message;
  return message.packed(text, "gzip");
}

export function contentRef(stored: unknown): ContentRef | null {
  return contentRefSchema.safeParse(stored).data ?? null;
}

/** Runs `run` for all, `atOnce` at a time; after a failure none is begun any more. */
export async function eachOf<T>(
  items: readonly T[],
  atOnce: number,
  run: (item: T, n: number) => Promise<void>,
): Promise<void> {
  let next = 0;
  const lanes = Array.from({ length: Math.min(atOnce, items.length) }, async () => {
    while (next < items.length) {
      const n = next++;
      try {
        await run(items[n] as T, n);
      } catch (error) {
        next = items.length;
        throw error;
      }
    }
  });
  // All have ended when this does: nothing goes on behind a failure's back.
  const ends = await Promise.allSettled(lanes);
  for (const end of ends) if (end.status === "rejected") throw end.reason;
}

function unreadable(messageId: string, why: string, cause?: unknown): AgentCommunicationError {
  return new AgentCommunicationError(
    "CONTENT_UNREADABLE",
    `the content of message ${messageId} cannot be read: ${why}`,
    { details: { messageId }, ...(cause === undefined ? {} : { cause }) },
  );
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

function said(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
