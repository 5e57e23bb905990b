import { z } from "zod";
import {
  capabilityName,
  keyOf,
  numberOf,
  type Scalar,
  scalar,
  type ValueKind,
  versionKey,
  versionText,
} from "./capability-values.ts";

/** One row of what an agent can do: a capability has one for each of its versions and values. */
export interface CapabilityRow {
  readonly capability: string;
  /** "" where it has neither version nor value. */
  readonly kind: ValueKind | "";
  readonly sortKey: string;
  /** As declared. */
  readonly value: string | null;
}

/** A capability that has versions or values. */
export interface CapabilityDetail {
  readonly name: string;
  readonly versions: readonly string[];
  readonly values: readonly Scalar[];
}

const MOST_NAMES = 200;
const MOST_VALUES = 50;
const MOST_ROWS = 500;

const WRITTEN = 'expected a capability such as "code_review", "python@3.12" or "gpu=true"';

const declared = z.strictObject({
  name: capabilityName,
  /** One version, or several, all of which it can do. */
  version: z.union([versionText, z.array(versionText).min(1).max(MOST_VALUES)]).optional(),
  value: z.union([scalar, z.array(scalar).min(1).max(MOST_VALUES)]).optional(),
});

type Declared = z.output<typeof declared>;

function read(text: string): z.input<typeof declared> {
  const [, name = text, sign, right = ""] = /^([^@=]+)([@=])(.*)$/su.exec(text) ?? [];
  if (sign === "@") return { name, version: right };
  return sign === "=" ? { name, value: scalarOf(right) } : { name };
}

function scalarOf(text: string): Scalar {
  if (text === "true" || text === "false") return text === "true";
  const quoted = /^"(.*)"$/s.exec(text);
  return quoted === null ? (numberOf(text) ?? text) : (quoted[1] as string);
}

const capability = z.union(
  [z.string().max(512, "expected at most 512 characters").transform(read).pipe(declared), declared],
  WRITTEN,
);

const many = <T>(value: T | readonly T[] | undefined): readonly T[] =>
  value === undefined ? [] : Array.isArray(value) ? value : [value as T];

function rowsOf({ name, version, value }: Declared): CapabilityRow[] {
  const rows = [
    ...many<string>(version).map(
      (text): CapabilityRow => ({
        capability: name,
        kind: "version",
        sortKey: versionKey(text) as string,
        value: text,
      }),
    ),
    ...many<Scalar>(value).map((it): CapabilityRow => {
      const { kind, key } = keyOf(it);
      return { capability: name, kind, sortKey: key, value: String(it) };
    }),
  ];
  return rows.length > 0 ? rows : [{ capability: name, kind: "", sortKey: "", value: null }];
}

function order(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** What an agent can do, as it is written: `"python@3.12"`, `"gpu=true"`, `"code_review"`, or as an object. */
export type CapabilityInput = z.input<typeof capability>;

/** What an agent can do, as rows: in one order, each once. */
export const declarationList = z
  .array(capability, "expected an array of capabilities")
  .max(MOST_NAMES, `expected at most ${MOST_NAMES} capabilities`)
  .transform((list, context): CapabilityRow[] => {
    const rows = new Map<string, CapabilityRow>();
    for (const row of list.flatMap(rowsOf)) {
      rows.set(`${row.capability} ${row.kind} ${row.sortKey}`, row);
    }
    if (rows.size > MOST_ROWS) {
      context.addIssue({ code: "custom", message: `expected at most ${MOST_ROWS} values in all` });
      return z.NEVER;
    }
    const valued = new Set(
      [...rows.values()].filter((it) => it.kind !== "").map((it) => it.capability),
    );
    return [...rows]
      .filter(([, { kind, capability: name }]) => kind !== "" || !valued.has(name))
      .sort(([a], [b]) => order(a, b))
      .map(([, row]) => row);
  });

/** The same check for options that are handed on as they came. */
export const declarationsAsGiven = z
  .custom<z.input<typeof declarationList>>()
  .superRefine((list, context) => {
    for (const { message, path } of declarationList.safeParse(list).error?.issues ?? []) {
      context.addIssue({ code: "custom", message, path });
    }
  });

/** A row as it would be declared. */
export function declarationText({ capability: name, kind, value }: CapabilityRow): string {
  if (kind === "") return name;
  if (kind === "version") return `${name}@${value}`;
  // A text that reads as a number or a boolean is one only in quotation marks.
  const plain = kind !== "text" || typeof scalarOf(value ?? "") === "string";
  return `${name}=${plain ? value : `"${value}"`}`;
}

export function namesOf(rows: readonly { readonly capability: string }[]): string[] {
  return [...new Set(rows.map(({ capability: name }) => name))].sort(order);
}

/** The capabilities among these rows that have versions or values. */
export function detailsOf(rows: readonly CapabilityRow[]): CapabilityDetail[] {
  const sorted = rows
    .filter(({ kind }) => kind !== "")
    .sort(
      (a, b) =>
        order(a.capability, b.capability) || order(a.kind, b.kind) || order(a.sortKey, b.sortKey),
    );
  return namesOf(sorted).map((name) => {
    const own = sorted.filter(({ capability: it }) => it === name);
    return {
      name,
      versions: own.filter(({ kind }) => kind === "version").map(({ value }) => value ?? ""),
      values: own.filter(({ kind }) => kind !== "version").map(scalarIn),
    };
  });
}

/** The declarations that a capability was made of, in the order of its rows. */
export function declaredAs({ name, versions, values }: CapabilityDetail): string[] {
  return declarationList
    .parse([
      {
        name,
        ...(versions.length > 0 ? { version: versions } : {}),
        ...(values.length > 0 ? { value: values } : {}),
      },
    ])
    .map(declarationText);
}

function scalarIn({ kind, value }: CapabilityRow): Scalar {
  if (kind === "number") return Number(value);
  return kind === "boolean" ? value === "true" : (value ?? "");
}
