import { z } from "zod";
import { id, positiveInt } from "./validate.ts";

type Json = Readonly<Record<string, unknown>>;

/** What is known of an entity. Instants are milliseconds since the epoch, by the database's clock. */
export interface Entity {
  readonly entityType: string;
  readonly entityId: string;
  /** 1, 2, 3 …; grows with each update, and goes on after a deletion. */
  readonly version: number;
  readonly state: Json;
  /** All of the state before the last update; null: there was none. */
  readonly previousState: Json | null;
  readonly updatedBy: string | null;
  readonly updatedAt: number;
}

/** One update of an entity. */
export interface EntityChange {
  readonly version: number;
  /** Null: it was deleted. */
  readonly updates: Json | null;
  /** What the updated members were before; null for those that were not there. */
  readonly previousState: Json;
  readonly updatedBy: string | null;
  readonly updatedAt: number;
}

export const MOST_STATE_BYTES = 1_000_000;

export const entityKey = { entityType: id, entityId: id };

const object = z.record(z.string(), z.unknown());

export const updatesSchema = object.refine((updates) => Object.keys(updates).length > 0, {
  message: "expected at least one member to update",
});

const expectations = {
  /** These members must be as given; null also stands for "not there". */
  expectPrevious: object.optional(),
  /** The entity must have this version; 0: it is not there yet. */
  expectVersion: z.number().int().min(0).optional(),
  /** Who did it: the sender of the messages. */
  by: id.optional(),
  /** Who gets STATE_UPDATE in the same commit, at most 100. Default: nobody. */
  notify: z.array(id).max(100, "expected at most 100 agents").default([]),
  /** Keep the change for `history`. Default true. */
  history: z.boolean().default(true),
};

export const updateStateSchema = z.strictObject(expectations);
export type UpdateStateOptions = z.input<typeof updateStateSchema>;

export const historyOfStateSchema = z.strictObject({
  /** Only changes after this version. Default 0. */
  after: z.number().int().min(0).default(0),
  /** The most to return, 1 to 1,000. Default 100. */
  limit: positiveInt(1_000).default(100),
});
export type StateHistoryOptions = z.input<typeof historyOfStateSchema>;

function isObject(value: unknown): value is Record<string, unknown> {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

/** JSON merge patch (RFC 7396): objects are merged, null takes a member away, all else is put in its place. */
export function merged(state: unknown, updates: unknown): unknown {
  if (!isObject(updates)) return updates;
  // No prototype: a member may have any name.
  const result: Record<string, unknown> = Object.assign(
    Object.create(null) as object,
    isObject(state) ? state : {},
  );
  for (const [name, value] of Object.entries(updates)) {
    if (value === undefined) continue;
    if (value === null) delete result[name];
    else result[name] = merged(result[name], value);
  }
  return result;
}

/** What the members that `updates` names are now; null for those that are not there. */
export function previousOf(state: Json | null, updates: Json): Record<string, unknown> {
  return Object.fromEntries(
    Object.keys(updates).map((name) => [
      name,
      state !== null && Object.hasOwn(state, name) ? (state[name] ?? null) : null,
    ]),
  );
}

/** Whether each member of `expected` is what the state has; objects are compared whole. */
export function matches(state: Json | null, expected: Json): boolean {
  const now = previousOf(state, expected);
  return Object.entries(expected).every(
    ([name, value]) => canonical(now[name]) === canonical(value ?? null),
  );
}

/** Equal for equal JSON, whatever the order of the members: PostgreSQL keeps its own. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    isObject(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}
