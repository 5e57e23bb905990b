import { z } from "zod";
import { durationMs, id, parse, plainText, positiveInt } from "./validate.ts";

/** A lock as its owner got it. Instants are milliseconds since the epoch, by the database's clock. */
export interface Lock {
  readonly resourceId: string;
  readonly ownerId: string;
  /**
   * Greater than that of every owner before, for ever: what a resource outside the database compares to refuse an
   * owner whose time has passed.
   */
  readonly fencingToken: number;
  readonly lockedAt: number;
  /** Somebody else may take it from then on, unless it is renewed. */
  readonly expiresAt: number;
  readonly metadata: Readonly<Record<string, unknown>> | null;
}

const DAY_MS = 86_400_000;
const MOST_LOCKS = 100;

export const lockTtlMs = durationMs(100).max(DAY_MS, "expected at most a day");

const signal = z.custom<AbortSignal>(
  (value) => value instanceof AbortSignal,
  "expected an AbortSignal",
);

export const acquireSchema = z.strictObject({
  /** Who it is, for people and for `locks ls`. Two calls of one owner are two owners. Default: this process. */
  ownerId: id.optional(),
  /** How long it is held unless it is renewed, in milliseconds; 100 to a day. Default 60,000. */
  ttlMs: lockTtlMs.default(60_000),
  /** How long to wait for it, in milliseconds. Default 0: one look. */
  waitMs: durationMs().default(0),
  /** Ends the waiting. */
  signal: signal.optional(),
  /** For people; a JSON object of up to 16,384 bytes. Default: none. */
  metadata: z.record(z.string(), z.unknown()).optional(),
});
export type AcquireOptions = z.input<typeof acquireSchema>;
export type AcquireSettings = z.output<typeof acquireSchema>;

export const MOST_LOCK_METADATA_BYTES = 16_384;

export const resourceIdOf = (value: unknown): string => parse(id, value, "resourceId");

/** Each once, and sorted: the one order in which everybody takes them. */
export const resourceIds = z
  .array(id, "expected an array of resource ids")
  .min(1, "expected at least one resource id")
  .max(MOST_LOCKS, `expected at most ${MOST_LOCKS} resource ids`)
  .transform((ids) => [...new Set(ids)].sort());

export const lockSchema = z.looseObject({
  resourceId: id,
  fencingToken: z.number().int().min(1),
});

export const listLocksSchema = z.strictObject({
  /** Only those of this owner. */
  ownerId: id.optional(),
  /** The most to return, 1 to 1,000. Default 100. */
  limit: positiveInt(1_000).default(100),
  /** Continue after this resource. */
  after: plainText(128).default(""),
});
export type ListLocksOptions = z.input<typeof listLocksSchema>;
export type LockFilter = z.output<typeof listLocksSchema>;
