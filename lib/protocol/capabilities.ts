import { z } from "zod";
import { capabilityName, type Scalar, scalar } from "./capability-values.ts";
import { parse } from "./validate.ts";

const OPERATORS = ["has", "=", "!=", "<", "<=", ">", ">=", "in"] as const;
type Operator = (typeof OPERATORS)[number];

/** One thing that an agent must be able to do, or had better be. */
export interface Requirement {
  readonly capability: string;
  /** `has`: whatever its version or value. `in`: one of several values. */
  readonly op: Operator;
  /** As text: the kind of the agent's own value decides how it is read. A list for `in` only. */
  readonly value?: string | readonly string[];
}

/** A requirement that counts in an agent's favour. */
export interface Preference {
  readonly requirement: Requirement;
  readonly weight: number;
}

/** What a task asks of its agent, checked, in one order, without repetitions. */
export interface Needs {
  readonly required: readonly Requirement[];
  readonly preferred: readonly Preference[];
}

/** A requirement as it is written: `"python >= 3.11"`, or as an object. */
export type RequirementInput =
  | string
  | {
      readonly capability: string;
      readonly op?: Operator | undefined;
      readonly value?: Scalar | readonly Scalar[] | undefined;
    };
/** A preference as it is written; its weight is 1 unless it says one. */
export type PreferenceInput =
  | RequirementInput
  | { readonly requirement: RequirementInput; readonly weight?: number | undefined };

const MOST_REQUIRED = 100;
const MOST_PREFERRED = 50;
const MOST_VALUES = 50;

/** A name; or a name, an operator and a value; or a name, "in" and values in brackets. */
const COMPARISON = /^([^\s@=<>!()]+)\s*(>=|<=|!=|==|=|<|>)\s*(\S.*)$/u;
const MEMBERSHIP = /^([^\s@=<>!()]+)\s+in\s*\((.*)\)$/iu;
/** One value, in quotation marks or without. */
const VALUE = /^(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^\s"'(),=<>!]+)$/u;
/** The first of several values, with the comma behind it. */
const LISTED = /^\s*("(?:[^"\\]|\\.)*"|'[^']*'|[^\s"'(),=<>!]+)\s*(,|$)/u;
/** What needs no quotation marks when it is written down. */
const BARE = /^[\p{L}\p{N}_.+:/-]+$/u;

function literal(text: string): string | undefined {
  if (!VALUE.test(text)) return undefined;
  if (text.startsWith("'")) return text.slice(1, -1);
  if (!text.startsWith('"')) return text;
  try {
    return String(JSON.parse(text));
  } catch {
    return undefined;
  }
}

/** "a, b" as its values; undefined where there is something else between the commas. */
function literals(text: string): string[] | undefined {
  const values: string[] = [];
  for (let rest = text; ; ) {
    const [whole, value, comma] = LISTED.exec(rest) ?? [];
    const read = value === undefined ? undefined : literal(value);
    if (whole === undefined || read === undefined) return undefined;
    values.push(read);
    if (comma === "") return values;
    rest = rest.slice(whole.length);
  }
}

interface Read {
  readonly capability: string;
  readonly op?: Operator | undefined;
  readonly value?: string | string[] | undefined;
}

function read(text: string): Read | undefined {
  const trimmed = text.trim();
  const [, name, op, right] = COMPARISON.exec(trimmed) ?? [];
  if (name !== undefined && op !== undefined && right !== undefined) {
    const value = literal(right.trim());
    return value === undefined
      ? undefined
      : { capability: name, op: op === "==" ? "=" : (op as Operator), value };
  }
  const [, member, list] = MEMBERSHIP.exec(trimmed) ?? [];
  if (member !== undefined && list !== undefined) {
    const value = literals(list);
    return value === undefined ? undefined : { capability: member, op: "in", value };
  }
  return { capability: trimmed, op: "has" };
}

const WRITTEN =
  'expected a requirement such as "code_review", "python >= 3.11" or "region in (eu, us)"';

const requirementObject = z
  .strictObject({
    capability: capabilityName,
    op: z.enum(OPERATORS, `expected one of ${OPERATORS.join(" ")}`).optional(),
    value: z
      .union(
        [scalar, z.array(scalar).min(1).max(MOST_VALUES)],
        `expected a value, or 1 to ${MOST_VALUES}`,
      )
      .optional(),
  })
  .transform((given, context): Requirement => {
    const { capability, value } = given;
    const op = given.op ?? (value === undefined ? "has" : Array.isArray(value) ? "in" : "=");
    const wrong =
      op === "has"
        ? value !== undefined && 'a requirement with "has" takes no value'
        : op === "in"
          ? !Array.isArray(value) && 'a requirement with "in" takes a list of values'
          : (value === undefined || Array.isArray(value)) &&
            `a requirement with "${op}" takes one value`;
    if (wrong !== false) {
      context.addIssue({ code: "custom", message: wrong, path: ["value"] });
      return z.NEVER;
    }
    if (value === undefined) return { capability, op };
    if (!Array.isArray(value)) return { capability, op, value: String(value) };
    const values = [...new Set(value.map(String))].sort(byText);
    return values.length === 1
      ? { capability, op: "=", value: values[0] as string }
      : { capability, op, value: values };
  });

const requirement = z.union(
  [
    z
      .string()
      .max(8_192, "expected at most 8192 characters")

      .transform((text, context): z.input<typeof requirementObject> => {
        const found = read(text);
        if (found !== undefined) return found;
        context.addIssue({ code: "custom", message: WRITTEN });
        return z.NEVER;
      })
      .pipe(requirementObject),
    requirementObject,
  ],
  WRITTEN,
);

const weight = z
  .number("expected a weight above 0, at most 100")
  .gt(0, "expected a weight above 0")
  .max(100, "expected a weight of at most 100");

const preference = z.union(
  [
    z.strictObject({ requirement, weight: weight.default(1) }),
    requirement.transform((it) => ({ requirement: it, weight: 1 })),
  ],
  'expected a requirement, or { requirement: "python >= 3.11", weight: 5 }',
);

/** Requirements as a call takes them: texts or objects, at most 100. */
export const requirementList = z
  .array(requirement, "expected an array of requirements")
  .max(MOST_REQUIRED, `expected at most ${MOST_REQUIRED} capabilities`)
  .transform((list) => distinct(list));

/** Preferences as a call takes them, at most 50. Of one that is there twice the higher weight counts. */
export const preferenceList = z
  .array(preference, "expected an array of preferences")
  .max(MOST_PREFERRED, `expected at most ${MOST_PREFERRED} preferences`)
  .transform((list) => {
    const sorted = [...list].sort((a, b) => a.weight - b.weight);
    const byName = new Map(sorted.map((it) => [requirementText(it.requirement), it]));
    return [...byName].sort(([a], [b]) => byText(a, b)).map(([, it]): Preference => it);
  });

const needs = z.strictObject({
  required: requirementList.default([]),
  preferred: preferenceList.default([]),
});

function byText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function distinct(list: readonly Requirement[]): Requirement[] {
  const byName = new Map(list.map((it) => [requirementText(it), it]));
  return [...byName].sort(([a], [b]) => byText(a, b)).map(([, it]) => it);
}

/**
 * What a task asks of its agent, checked and brought into one form.
 *
 * @throws ValidationFailed
 */
export function needsOf(
  input: {
    readonly required?: readonly RequirementInput[] | undefined;
    readonly preferred?: readonly PreferenceInput[] | undefined;
  },
  what = "capabilities",
): Needs {
  return parse(needs, input, what);
}

function written(value: string): string {
  return BARE.test(value) ? value : JSON.stringify(value);
}

/** A requirement in its one written form; needsOf reads it again as the same. */
export function requirementText({ capability, op, value }: Requirement): string {
  if (value === undefined) return capability;
  if (typeof value === "string") return `${capability} ${op} ${written(value)}`;
  return `${capability} in (${value.map(written).join(", ")})`;
}
