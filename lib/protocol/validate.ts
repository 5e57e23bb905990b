import { z } from "zod";
import { PayloadTooLarge, ValidationFailed } from "../errors.ts";

/** A value for a message to a person: short, never the whole payload, and without anything that breaks lines. */
export function shown(value: unknown): string {
  if (typeof value === "function") return "a function";
  let text: string;
  try {
    text = typeof value === "bigint" ? `${value}n` : (JSON.stringify(value) ?? String(value));
  } catch {
    text = Object.prototype.toString.call(value);
  }
  return text.length > 80 ? `${text.slice(0, 77)}…` : text;
}

function at(value: unknown, path: readonly PropertyKey[]): unknown {
  let inner: unknown = value;
  for (const key of path) {
    // A lone value that was taken for a list of one: show it itself.
    if (inner === null || typeof inner !== "object") return inner;
    inner = (inner as Record<PropertyKey, unknown>)[key];
  }
  return inner;
}

/**
 * Checks a value against a schema at the library's door.
 *
 * @throws ValidationFailed naming the field, what was expected and what came.
 */
export function parse<S extends z.ZodType>(schema: S, value: unknown, what: string): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issues = result.error.issues.map((issue) => {
    const path = issue.path.map(String).join(".");
    // A union's own message says nothing; the longest of its branches does.
    return { path, message: issue.message, got: shown(at(value, issue.path)) };
  });
  const [first] = issues;
  const where = first === undefined || first.path === "" ? what : `${what}.${first.path}`;
  throw new ValidationFailed(
    `${where}: ${first?.message ?? "invalid"}${first === undefined ? "" : ` (got ${first.got})`}`,
    { details: { issues } },
  );
}

const INVISIBLE = /[\s\p{Cc}\p{Cf}\p{Cs}\p{Z}]/u;

/** As most ids are; the classes of Unicode take several times as long. */
const ASCII_ID = /^[!-~]{1,128}$/;

export function isId(value: unknown): value is string {
  if (typeof value !== "string") return false;
  return (
    ASCII_ID.test(value) || (value.length >= 1 && value.length <= 128 && !INVISIBLE.test(value))
  );
}

/** Ids of messages, agents, tasks: 1 to 128 visible characters. */
export const id = z.string("expected a string of 1 to 128 visible characters").refine(isId, {
  message: "expected 1 to 128 visible characters, without spaces or control characters",
});

/** Who claims. A "!" in front is kept for what is leased to the reason that ends it. */
export const workerId = id.refine((text) => !text.startsWith("!"), {
  message: 'must not begin with "!"',
});

/** Text that every database stores and returns unchanged: no NUL, no lone surrogates. */
function storable(text: string): boolean {
  return !text.includes("\0") && text.isWellFormed();
}

/** Text for people, up to a length. */
export const plainText = (most: number) =>
  z
    .string()
    .max(most, `expected at most ${most} characters`)
    .refine(storable, { message: "holds a NUL or a lone surrogate, which SQL cannot store" });

/** The last instant that all three databases and JavaScript agree on: the end of the year 9999. */
const LAST_INSTANT = 253_402_300_799_999;

/** An instant: a Date, an ISO 8601 string, or milliseconds since the epoch; between 1970 and 9999. */
export const instant = z
  .union([z.date(), z.number(), z.string()], "expected a Date, an ISO 8601 string or milliseconds")
  .transform((value, context) => {
    const ms =
      typeof value === "number" ? value : value instanceof Date ? value.getTime() : isoMs(value);
    if (!Number.isInteger(ms) || ms < 0 || ms > LAST_INSTANT) {
      context.addIssue({ code: "custom", message: "expected an instant between 1970 and 9999" });
      return z.NEVER;
    }
    return ms;
  });

function isoMs(text: string): number {
  // Date.parse also takes local formats; only ISO 8601 means the same everywhere.
  return /^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:?\d{2})?)?$/.test(text)
    ? Date.parse(/T.*(Z|[+-]\d{2}:?\d{2})$|^\d{4}-\d{2}-\d{2}$/.test(text) ? text : `${text}Z`)
    : Number.NaN;
}

const TEN_YEARS = 315_576_000_000;

/** A duration in integer milliseconds, up to ten years. */
export const durationMs = (least = 0) =>
  z
    .number("expected a number of milliseconds")
    .int("expected whole milliseconds")
    .min(least, `expected at least ${least} ms`)
    .max(TEN_YEARS, "expected at most ten years");

export const positiveInt = (most: number) =>
  z
    .number("expected a whole number")
    .int("expected a whole number")
    .min(1, "expected at least 1")
    .max(most, `expected at most ${most}`);

/** SQL Server's JSON functions go 128 levels deep; the batch around a content takes two of them. */
const DEEPEST = 100;

function refuse(path: string, message: string): never {
  const where = path.length > 120 ? `${path.slice(0, 117)}…` : path;
  throw new ValidationFailed(`${where}: ${message}`, { details: { path: where } });
}

/** What cannot be stored, and the keys on the way to it, the last one first. */
interface Misfit {
  readonly message: string;
  readonly keys: (string | number)[];
}

const misfit = (message: string): Misfit => ({ message, keys: [] });

/**
 * What JSON.stringify would silently drop or change: it would be lost without anyone knowing. The way to it is put
 * together on the way back, because there is mostly nothing to find.
 */
function misfitIn(value: unknown, depth: number): Misfit | undefined {
  switch (typeof value) {
    case "string":
    case "boolean":
      return undefined;
    case "number":
      return Number.isFinite(value) ? undefined : misfit(`${value} is no JSON number`);
    case "object":
      break;
    default:
      return misfit(`a ${typeof value} cannot be stored as JSON`);
  }
  if (value === null) return undefined;
  if (depth > DEEPEST) return misfit("is cyclic, or nested more than 100 levels deep");
  if (Array.isArray(value)) {
    for (let n = 0; n < value.length; n++) {
      const found = misfitIn(value[n], depth + 1);
      if (found !== undefined) return within(found, n);
    }
    return undefined;
  }
  if (typeof (value as { toJSON?: unknown }).toJSON === "function") return undefined;
  if (value instanceof Map || value instanceof Set || ArrayBuffer.isView(value)) {
    return misfit("a Map, Set or buffer would be stored empty; convert it to plain JSON");
  }
  if (value instanceof Promise) return misfit("is a promise; await it first");
  for (const key of Object.keys(value)) {
    const inner = (value as Record<string, unknown>)[key];
    const found = inner === undefined ? undefined : misfitIn(inner, depth + 1);
    if (found !== undefined) return within(found, key);
  }
  return undefined;
}

function within(found: Misfit, key: string | number): Misfit {
  found.keys.push(key);
  return found;
}

/** In JSON text, an escape that stands for NUL or a lone surrogate (whole pairs are written out, not escaped). */
const UNSTORABLE = /(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f][0-9a-f]{2})/;

/**
 * A value as JSON text that all three databases store and return unchanged.
 *
 * @throws ValidationFailed for what JSON cannot hold, PayloadTooLarge above `maxBytes` of UTF-8.
 */
export function jsonText(value: unknown, what: string, maxBytes: number, remedy?: string): string {
  const found = misfitIn(value, 0);
  if (found !== undefined) refuse([what, ...found.keys.reverse()].join("."), found.message);
  let text: string | undefined;
  try {
    text = JSON.stringify(value);
  } catch (cause) {
    throw new ValidationFailed(`${what}: cannot be written as JSON: ${(cause as Error).message}`, {
      cause,
    });
  }
  if (text === undefined) refuse(what, "cannot be written as JSON");
  if (text.includes("\\u") && UNSTORABLE.test(text)) {
    refuse(what, "a string in it holds a NUL or a lone surrogate, which SQL cannot store");
  }
  // Three bytes at most for each, and one at least, so most texts need no count.
  const enough = text.length * 3 <= maxBytes;
  const bytes = enough || text.length > maxBytes ? text.length : Buffer.byteLength(text);
  if (bytes > maxBytes) {
    throw new PayloadTooLarge(`${what}: ${bytes} bytes are more than the limit of ${maxBytes}`, {
      details: { bytes, maxBytes },
      ...(remedy === undefined ? {} : { recoverySuggestion: remedy }),
    });
  }
  return text;
}

/** JSON text of an object or array: SQL Server's JSON functions take no bare scalars. */
export function jsonDocument(
  value: unknown,
  what: string,
  maxBytes: number,
  remedy?: string,
): string {
  if (value === null || typeof value !== "object") {
    refuse(what, `expected an object or an array, got ${shown(value)}; wrap it: { value: … }`);
  }
  const text = jsonText(value, what, maxBytes, remedy);
  if (text[0] !== "{" && text[0] !== "[") {
    refuse(what, "becomes a bare value in JSON; wrap it: { value: … }");
  }
  return text;
}
