import type { Ratio } from "./measure.ts";
import type { Subject } from "./subject.ts";

/** One measurement. */
export interface Cell {
  readonly database: string;
  readonly workload: string;
  readonly subject: string;
  /** Messages a second, or milliseconds. */
  readonly unit: "/s" | "ms";
  readonly value: number;
}

export interface Settings extends Pick<Subject, "kind" | "settings"> {
  readonly database: string;
  readonly subject: string;
}

interface Line {
  readonly database: string;
  readonly workload: string;
  readonly unit: "/s" | "ms";
  /** The medians of the rounds. */
  readonly values: Readonly<Record<string, number>>;
  /** Ours by another's: by the best peer's and by each ceiling's, as `BY` names them. */
  readonly by: Readonly<Record<string, number>>;
}

interface Result {
  readonly machine: Readonly<Record<string, unknown>>;
  readonly rounds: number;
  readonly seconds: number;
  readonly durability: Readonly<Record<string, string>>;
  /** Who took no part, and why. */
  readonly left: readonly string[];
  readonly lines: readonly Line[];
  readonly settings: readonly Settings[];
  readonly ratios: readonly Ratio[];
}

const BY = {
  peer: "by the best peer",
  ceiling: "by raw SQL",
  guarantees: "by raw SQL, leased and archived",
} as const;

/** What is asked of the ratios: database, beginning of the workload, and by what. */
const TARGETS: readonly (readonly [string, string, keyof typeof BY, number])[] = [
  ["postgres", "single sends, 64", "peer", 10],
  ["postgres", "batch sends", "peer", 2.5],
  ["postgres", "batch sends", "ceiling", 0.8],
  ["postgres", "drain", "peer", 3],
  ["postgres", "drain", "ceiling", 0.7],
  ["postgres", "lone send", "ceiling", 1.1],
  ["sqlite", "single sends, 64", "peer", 1],
  ["sqlite", "batch sends", "peer", 1],
  ["sqlite", "drain", "peer", 4],
];

export function summary(
  cells: readonly Cell[],
  settings: readonly Settings[],
): Pick<Result, "lines" | "settings" | "ratios"> {
  const keys = new Map(cells.map((cell) => [`${cell.database} ${cell.workload}`, cell]));
  const lines = [...keys.values()].map(({ database, workload }) =>
    lineOf(
      cells.filter((cell) => cell.database === database && cell.workload === workload),
      settings.filter((it) => it.database === database),
    ),
  );
  return { lines, settings, ratios: lines.flatMap(ratiosOf) };
}

function lineOf(cells: readonly Cell[], settings: readonly Settings[]): Line {
  const { database, workload, unit } = cells[0] as Cell;
  const subjects = settings.filter((it) => cells.some(({ subject }) => subject === it.subject));
  const of = (subject: string) =>
    median(cells.filter((cell) => cell.subject === subject).map(({ value }) => value));
  const values = Object.fromEntries(subjects.map(({ subject }) => [subject, of(subject)]));
  const ours = subjects.find(({ kind }) => kind === "ours")?.subject ?? "";
  const by: Record<string, number> = {};
  for (const [kind, title] of Object.entries(BY)) {
    const theirs = subjects.filter((it) => it.kind === kind).map(({ subject }) => of(subject));
    const best = unit === "ms" ? Math.min(...theirs) : Math.max(...theirs);
    if (theirs.length > 0) by[title] = of(ours) / best;
  }
  return { database, workload, unit, values, by };
}

function ratiosOf({ database, workload, unit, by }: Line): Ratio[] {
  return Object.entries(by).map(([title, value]) => ({
    name: `${workload}: ${title}`,
    database,
    value,
    target: TARGETS.find(
      ([of, start, kind]) => of === database && workload.startsWith(start) && BY[kind] === title,
    )?.[3],
    higherIsBetter: unit === "/s",
  }));
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? upper) + upper) / 2;
}

/** A ratio reaches its target, or there is none. */
function reached({ value, target, higherIsBetter }: Ratio): boolean {
  return target === undefined || (higherIsBetter ? value >= target : value <= target);
}

export function markdown(result: Result): string {
  const { machine, rounds, seconds, lines, settings, ratios } = result;
  const parts = [
    `Medians of ${rounds} round${rounds === 1 ? "" : "s"} after one that warms up, in messages a second where no unit is named; ratios of these medians, ours by theirs. All take part in each round, in another order each time, on one server or disk with a database or file of their own, with the same payloads. A round gives each as many messages as it handles in about ${seconds} s. A drain ends when all is finished durably; a worker's start is not counted.`,
    `${Object.entries(machine)
      .map(([key, value]) => `${key} ${value}`)
      .join(", ")}.`,
  ];
  for (const [database, durability] of Object.entries(result.durability)) {
    const here = lines.filter((line) => line.database === database);
    const taking = settings.filter((it) => it.database === database);
    const titles = Object.values(BY);
    parts.push(
      `## ${database}`,
      `${durability}.`,
      table([
        ["", ...taking.map(({ subject }) => subject), ...titles],
        ...here.map(({ workload, unit, values, by }) => [
          unit === "ms" ? `${workload}, ms` : workload,
          ...taking.map(({ subject }) => shown(values[subject], unit)),
          ...titles.map((title) =>
            asked(
              by[title],
              ratios.find((it) => it.database === database && it.name === `${workload}: ${title}`),
            ),
          ),
        ]),
      ]),
      [
        ...taking.map(({ subject, settings: text }) => `- ${subject}: ${text}`),
        ...result.left
          .filter((line) => line.startsWith(`${database}: `))
          .map((line) => `- Not measured: ${line.slice(database.length + 2)}`),
      ].join("\n"),
    );
  }
  return `${parts.join("\n\n")}\n`;
}

const shown = (value: number | undefined, unit: "/s" | "ms") =>
  value === undefined ? "–" : unit === "ms" ? value.toFixed(2) : String(Math.round(value));

/** A ratio, with what is asked of it. */
function asked(value: number | undefined, ratio: Ratio | undefined): string {
  if (value === undefined) return "–";
  const text = `${value.toFixed(2)}×`;
  if (ratio?.target === undefined) return text;
  const target = `${ratio.higherIsBetter ? "≥" : "≤"} ${ratio.target}`;
  return reached(ratio) ? `${text} (${target})` : `${text} (**not** ${target})`;
}

export function table([head = [], ...rows]: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map((_, n) => (n === 0 ? "---" : "---:"))), ...rows.map(line)].join(
    "\n",
  );
}
