/** Puts the results of all tasks together, one finding per capability. */
import type { Task } from "../lib/index.ts";
import type { FoundFunction } from "./analysis/functions.ts";
import type { Inventory } from "./analysis/inventory.ts";
import type { BrokenLink } from "./analysis/links.ts";
import type { Capability, Facts, FileTask, TaskResult } from "./protocol.ts";

interface Lines {
  readonly files: number;
  readonly lines: number;
  readonly code: number;
  readonly comment: number;
  readonly blank: number;
}

export interface Findings {
  readonly code: Lines & {
    readonly functions: number;
    /** The longest functions, at most one of each file. */
    readonly longest: readonly (FoundFunction & { readonly path: string })[];
  };
  readonly markdown: {
    readonly files: number;
    readonly headings: number;
    readonly relativeLinks: number;
    readonly linksElsewhere: number;
    readonly fences: Readonly<Record<string, number>>;
    readonly brokenLinks: number;
    readonly broken: readonly (BrokenLink & { readonly path: string })[];
  };
  readonly json: {
    readonly files: number;
    readonly documents: number;
    readonly keys: number;
    readonly depth: number;
    readonly types: Readonly<Record<string, number>>;
    readonly invalid: readonly Place[];
    readonly duplicateKeys: readonly Place[];
  };
  readonly text: Lines & {
    readonly languages: Readonly<Record<string, number>>;
    readonly noFinalNewline: readonly string[];
    readonly mixedLineEnds: readonly string[];
  };
  readonly inventory: Inventory;
  readonly unreadable: readonly { readonly path: string; readonly reason: string }[];
}

export interface Place {
  readonly path: string;
  readonly line: number;
  readonly column: number;
  readonly message: string;
}

interface Done<C extends Capability> {
  readonly path: string;
  readonly facts: Facts[C];
}

export function findingsOf(tasks: readonly Task[]): Findings {
  const code = done(tasks, "code");
  const markdown = done(tasks, "markdown");
  const json = done(tasks, "json");
  const text = done(tasks, "text");
  const [inventory] = done(tasks, "inventory");
  return {
    code: {
      ...lines(code.map(({ facts }) => facts)),
      functions: sum(code, ({ facts }) => facts.functions),
      longest: longestOf(code),
    },
    markdown: {
      files: markdown.length,
      headings: sum(markdown, ({ facts }) => facts.headings),
      relativeLinks: sum(markdown, ({ facts }) => facts.relativeLinks),
      linksElsewhere: sum(markdown, ({ facts }) => facts.linksElsewhere),
      fences: tally(markdown.map(({ facts }) => facts.fences)),
      brokenLinks: sum(markdown, ({ facts }) => facts.brokenLinks),
      broken: markdown.flatMap(({ path, facts }) => facts.broken.map((one) => ({ path, ...one }))),
    },
    json: {
      files: json.length,
      documents: sum(json, ({ facts }) => facts.documents),
      keys: sum(json, ({ facts }) => facts.keys),
      depth: Math.max(0, ...json.map(({ facts }) => facts.depth)),
      types: tally(json.map(({ facts }) => facts.types)),
      invalid: json.flatMap(({ path, facts }) =>
        facts.error === null ? [] : [{ path, ...facts.error }],
      ),
      duplicateKeys: json.flatMap(({ path, facts }) =>
        facts.duplicateKeys.map((place) => ({ path, ...place })),
      ),
    },
    text: {
      ...lines(text.map(({ facts }) => facts)),
      languages: tally(text.map(({ facts }) => ({ [facts.language]: 1 }))),
      noFinalNewline: text.filter(({ facts }) => facts.noFinalNewline).map(({ path }) => path),
      mixedLineEnds: text.filter(({ facts }) => facts.mixedLineEnds).map(({ path }) => path),
    },
    inventory: inventory?.facts ?? { files: 0, bytes: 0, duplicates: [], largest: [] },
    unreadable: tasks.flatMap(({ parameters, result }) =>
      isUnreadable(result) ? [{ path: pathOf(parameters), reason: result.unreadable }] : [],
    ),
  };
}

/** The completed tasks of one type whose file could be read, in the order of their paths. */
function done<C extends Capability>(tasks: readonly Task[], capability: C): Done<C>[] {
  return tasks
    .filter((task) => task.taskType === capability && task.state === "completed")
    .filter(({ result }) => !isUnreadable(result))
    .map(({ parameters, result }) => ({ path: pathOf(parameters), facts: result as Facts[C] }))
    .sort((a, b) => (a.path < b.path ? -1 : 1));
}

function isUnreadable(result: unknown): result is { unreadable: string } {
  return typeof result === "object" && result !== null && "unreadable" in result;
}

function pathOf(parameters: unknown): string {
  return (parameters as Partial<FileTask>).path ?? "";
}

/** The time that agents spent on their tasks, in milliseconds, from what each task returned. */
export function workMsOf({ result }: Task): number {
  return (result as TaskResult | null)?.workMs ?? 0;
}

function lines(facts: readonly Omit<Lines, "files">[]): Lines {
  return {
    files: facts.length,
    lines: sum(facts, (one) => one.lines),
    code: sum(facts, (one) => one.code),
    comment: sum(facts, (one) => one.comment),
    blank: sum(facts, (one) => one.blank),
  };
}

const MOST_LONGEST = 3;

function longestOf(code: readonly Done<"code">[]): Findings["code"]["longest"] {
  return code
    .flatMap(({ path, facts: { longest } }) => (longest === null ? [] : [{ path, ...longest }]))
    .sort((a, b) => b.lines - a.lines)
    .slice(0, MOST_LONGEST);
}

function sum<T>(list: readonly T[], value: (one: T) => number): number {
  return list.reduce((total, one) => total + value(one), 0);
}

/** Adds up counts by name, the most frequent first. */
function tally(counts: readonly Readonly<Record<string, number>>[]): Record<string, number> {
  const totals = new Map<string, number>();
  for (const [name, count] of counts.flatMap((one) => Object.entries(one))) {
    totals.set(name, (totals.get(name) ?? 0) + count);
  }
  return Object.fromEntries([...totals].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)));
}
