import { z } from "zod";
import type { MessageInput } from "./message-input.ts";
import { durationMs, id, positiveInt } from "./validate.ts";

/** An event as it was stored. Instants are milliseconds since the epoch, by the database's clock. */
export interface StoredEvent {
  readonly eventId: string;
  readonly aggregateId: string;
  readonly aggregateType: string | null;
  /** 1, 2, 3 … within its aggregate, without gaps. */
  readonly version: number;
  readonly eventType: string;
  readonly data: unknown;
  readonly metadata: Readonly<Record<string, unknown>> | null;
  readonly agentId: string | null;
  readonly correlationId: string | null;
  readonly recordedAt: number;
  /** Its place among all events, from 1; null until somebody has read so far with `readAll`. */
  readonly position: number | null;
}

export const MOST_EVENT_BYTES = 1_000_000;
export const MOST_EVENT_METADATA_BYTES = 65_536;
/** Of all the events of one call. */
export const MOST_APPEND_BYTES = 16_000_000;
export const MOST_SNAPSHOT_BYTES = 4_000_000;

export const newEventSchema = z.strictObject({
  /** Appending the same id again stores nothing. Default: a new one. */
  eventId: id.optional(),
  eventType: id,
  /** A JSON object or array of up to 1,000,000 bytes. Default {}. */
  data: z.unknown().default({}),
  /** For whoever looks at it; a JSON object of up to 65,536 bytes. Default: none. */
  metadata: z.record(z.string(), z.unknown()).optional(),
  correlationId: id.optional(),
});
export type NewEvent = z.input<typeof newEventSchema>;

export const newEventList = z
  .array(newEventSchema, "expected an array of events")
  .min(1, "expected at least one event")
  .max(500, "expected at most 500 events")
  .refine(
    (events) => {
      const ids = events.flatMap(({ eventId }) => eventId ?? []);
      return new Set(ids).size === ids.length;
    },
    { message: "two of them have one eventId" },
  );

export const appendSchema = z.strictObject({
  /** What the aggregate's version must be: a number, `none` (no event yet), or `any`. Default any. */
  expectedVersion: z.union([z.number().int().min(0), z.enum(["none", "any"])]).default("any"),
  /** What the aggregate is; the first append decides. */
  aggregateType: id.optional(),
  /** Who did it. */
  agentId: id.optional(),
});

/** Messages of the call, or what each event says; sent in the commit of the events. */
export type Publish =
  | MessageInput
  | readonly MessageInput[]
  | ((event: StoredEvent) => MessageInput | readonly MessageInput[] | undefined);

export const loadSchema = z.strictObject({
  /** From this version on. Default 1. */
  fromVersion: z.number().int().min(1).default(1),
  /** The most to return, 1 to 1,000. Default 1,000. */
  limit: positiveInt(1_000).default(1_000),
});
export type LoadOptions = z.input<typeof loadSchema>;

export const readAllSchema = z.strictObject({
  /** Those after this position. Default 0: from the first on. */
  after: z.number().int().min(0).default(0),
  /** The most to return, 1 to 1,000. Default 1,000. */
  limit: positiveInt(1_000).default(1_000),
  /** Only of these types, at most 20. Default: of all. */
  types: z.array(id).min(1).max(20, "expected at most 20 types").optional(),
});
export type ReadAllOptions = z.input<typeof readAllSchema>;

export const projectSchema = z.strictObject({
  /** Where the state is kept, so that the next call begins there. Default: nowhere. */
  snapshot: z
    .strictObject({
      /** Different projections of one aggregate keep theirs apart. Default "state". */
      name: id.default("state"),
      /** Raise it when the reducer or the state changes: snapshots of other versions are not used. Default 1. */
      schemaVersion: positiveInt(1_000_000).default(1),
      /** After how many events a new one is kept. Default 100. */
      every: positiveInt(1_000_000).default(100),
    })
    .optional(),
});
export type ProjectOptions = z.input<typeof projectSchema>;

export const followSchema = z.strictObject({
  /** Only events of these types, at most 20. Default: of all. */
  types: z.array(id).min(1).max(20, "expected at most 20 types").optional(),
  /** The most events of one commit, 1 to 500. Default 100. */
  batch: positiveInt(500).default(100),
  /** The longest pause between two looks, in milliseconds. Default 1,000. */
  intervalMs: durationMs(10).default(1_000),
  /** Ends it. */
  signal: z.custom<AbortSignal>((value) => value instanceof AbortSignal, "expected an AbortSignal"),
});
export type FollowOptions = z.input<typeof followSchema>;
