import { z } from "zod";

/** Where a value comes from: the workflow's input, or the result of an earlier step. */
export interface Path {
  readonly stepId: string | null;
  readonly keys: readonly (string | number)[];
}

const LONGEST_PATH = 512;
const STEP_ID = "[A-Za-z0-9_-]{1,64}";
const HEAD = new RegExp(`^\\$\\.(?:input|steps\\.(${STEP_ID})\\.result)(?=[.[]|$)`);
const KEY = /\.([A-Za-z0-9_-]+)|\[(\d{1,9})\]|\["((?:[^"\\]|\\["\\])*)"\]/y;

/**
 * Reads `$.input`, `$.input.file`, `$.steps.parse.result.rows[0]`, `$.steps.parse.result["any key"]`. Undefined for
 * anything else: there are no filters, wildcards or expressions.
 */
export function pathOf(text: string): Path | undefined {
  if (text.length > LONGEST_PATH) return undefined;
  const head = HEAD.exec(text);
  if (head === null) return undefined;
  const keys: (string | number)[] = [];
  let at = head[0].length;
  while (at < text.length) {
    KEY.lastIndex = at;
    const found = KEY.exec(text);
    if (found === null) return undefined;
    const [whole, name, index, quoted] = found;
    keys.push(
      index === undefined ? (name ?? (quoted ?? "").replace(/\\(["\\])/g, "$1")) : Number(index),
    );
    at += whole.length;
  }
  return { stepId: head[1] ?? null, keys };
}

/** The value at the end of the path; undefined where there is none. Only what a value has of its own counts. */
function valueAt(root: unknown, keys: readonly (string | number)[]): unknown {
  let value = root;
  for (const key of keys) {
    if (value === null || typeof value !== "object") return undefined;
    if (Array.isArray(value) !== (typeof key === "number")) return undefined;
    if (!Object.hasOwn(value, key)) return undefined;
    value = (value as Record<string | number, unknown>)[key];
  }
  return value;
}

/** What references are looked up in. */
export interface Values {
  readonly input: unknown;
  /** Results by step; a step that brought none is missing. */
  readonly results: ReadonlyMap<string, unknown>;
}

export function lookUp({ input, results }: Values, text: string): unknown {
  const path = pathOf(text);
  if (path === undefined) return undefined;
  return valueAt(path.stepId === null ? input : results.get(path.stepId), path.keys);
}

export const pathText = z
  .string("expected a reference such as $.input.file or $.steps.parse.result.rows[0]")
  .refine((text) => pathOf(text) !== undefined, {
    message: "expected a reference such as $.input.file or $.steps.parse.result.rows[0]",
  });

const CONDITION_OPERATORS = ["exists", "missing", "=", "!=", "<", "<=", ">", ">=", "in"] as const;

const scalar = z.union([z.string().max(4_096), z.number(), z.boolean(), z.null()]);

export const conditionSchema = z
  .strictObject({
    /** What is looked at, e.g. `$.steps.review.result.verdict`. */
    path: pathText,
    op: z.enum(CONDITION_OPERATORS),
    /** What it is compared with; a list for `in`; not for `exists` and `missing`. */
    value: z.union([scalar, z.array(scalar).min(1).max(100)]).optional(),
  })
  .refine(
    ({ op, value }) =>
      op === "exists" || op === "missing" ? value === undefined : value !== undefined,
    "exists and missing take no value, all others need one",
  )
  .refine(
    ({ op, value }) => (op === "in") === Array.isArray(value),
    "in needs a list of values, and only in",
  );
export type Condition = z.output<typeof conditionSchema>;

/** Whether a condition holds. Values of two types are different, and neither is the greater one. */
export function holds({ path, op, value }: Condition, values: Values): boolean {
  const found = lookUp(values, path);
  switch (op) {
    case "exists":
      return found !== undefined;
    case "missing":
      return found === undefined;
    case "=":
      return found === value;
    case "!=":
      return found !== value;
    case "in":
      return (value as readonly unknown[]).includes(found);
    default:
      return compares(op, found, value);
  }
}

function compares(op: "<" | "<=" | ">" | ">=", found: unknown, value: unknown): boolean {
  const comparable =
    (typeof found === "number" && typeof value === "number") ||
    (typeof found === "string" && typeof value === "string");
  if (!comparable) return false;
  const [a, b] = [found as number, value as number];
  if (op === "<") return a < b;
  if (op === "<=") return a <= b;
  return op === ">" ? a > b : a >= b;
}
