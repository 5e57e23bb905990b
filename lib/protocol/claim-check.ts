import { z } from "zod";
import { positiveInt } from "./validate.ts";

/**
 * Where contents lie that are too large for a database row: the row keeps a reference, a size and a hash. Implement
 * it for your object store (S3, Azure Blob Storage, …); `FileClaimCheckStore` is the one that comes along.
 *
 * What must hold:
 * - A resolved `put` is durable and complete: a `get` by any process right after it finds all of it, and one that
 *   meets a `put` under way finds nothing or all. Object stores with read-after-write consistency do this.
 * - `put` of the same key again, with the same bytes, succeeds: a call whose answer was lost is repeated.
 * - `get` resolves to null only where the store knows that it has no such key. It rejects when it cannot tell.
 * - `delete` of a key that is not there succeeds.
 * - Keys have at most 562 of the characters a-z A-Z 0-9 . _ - and one slash, which object stores may take for a
 *   folder. No two differ in case alone. They hold the message's id in base64url.
 * - Every process that sends or receives uses the same store; a copy of the database (staging, a restored backup)
 *   must be given another one, or its sweep would delete what the original still needs.
 *
 * An error that is no `AgentCommunicationError` is taken for a passing one.
 */
export interface ClaimCheckStore {
  put(key: string, bytes: Uint8Array, about: ClaimCheckAbout): Promise<void>;
  get(key: string): Promise<Uint8Array | null>;
  delete(key: string): Promise<void>;
  /** All keys that begin with `prefix`, in any order. Without it nothing is swept. */
  list?(prefix: string): AsyncIterable<ClaimCheckEntry>;
}

export interface ClaimCheckAbout {
  readonly messageId: string;
  readonly contentType: "application/json" | "application/gzip";
}

export interface ClaimCheckEntry {
  readonly key: string;
  /** When it was put, in milliseconds since the epoch. */
  readonly storedAt: number;
}

/** `<outbox>/<random>.<message id in base64url>`: nothing in it is a sender's own text. */
const KEY = /^[0-9a-f]{16}\/[0-9a-f]{32}\.([A-Za-z0-9_-]{1,512})$/;

export function claimCheckKey(outbox: string, random: string, messageId: string): string {
  return `${outbox}/${random}.${Buffer.from(messageId).toString("base64url")}`;
}

/** The id of the message that a key was made for; undefined when it is no key of ours. */
export function messageIdOfKey(key: string): string | undefined {
  const encoded = typeof key === "string" ? KEY.exec(key)?.[1] : undefined;
  if (encoded === undefined) return undefined;
  const messageId = Buffer.from(encoded, "base64url").toString();
  return Buffer.from(messageId).toString("base64url") === encoded ? messageId : undefined;
}

/** What stands in the row for a content that lies in the store. */
export const contentRefSchema = z.object({
  ref: z.string().refine((key) => messageIdOfKey(key) !== undefined),
  /** Of the content's JSON as UTF-8. */
  bytes: z.number().int().min(1).max(1_000_000_000),
  /** Of the bytes in the store. */
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  encoding: z.literal("gzip").optional(),
});
export type ContentRef = z.output<typeof contentRefSchema>;

/** What stands in the row for a compressed content: gzip in base64, and the size of what is in it. */
export const gzippedSchema = z.object({
  gzip: z.string(),
  bytes: z.number().int().min(1).max(1_000_000_000),
});

export const compressSchema = z
  .union([
    z.literal(false),
    z.strictObject({
      /** Contents of more bytes of JSON than this are compressed, where it helps. Default 8,192. */
      aboveBytes: positiveInt(1_000_000_000).default(8_192),
    }),
  ])
  .prefault({});

function isStore(value: unknown): value is ClaimCheckStore {
  const store = (value ?? {}) as Record<string, unknown>;
  return ["put", "get", "delete"].every((name) => typeof store[name] === "function");
}

export const claimCheckSchema = z.strictObject({
  store: z.custom<ClaimCheckStore>(isStore, {
    message: "expected a claim-check store, with the methods put, get and delete",
  }),
  /** Contents of more bytes of JSON than this (or than maxMessageBytes) go into the store. Default 262,144. */
  aboveBytes: positiveInt(1_000_000_000).default(262_144),
  /** The most that a content may have, in bytes of JSON. Default 100,000,000. */
  maxBytes: positiveInt(1_000_000_000).default(100_000_000),
});
