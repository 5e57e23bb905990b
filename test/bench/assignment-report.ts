import { median, table } from "./report.ts";

/** Measurements of one round. */
export interface Measured {
  readonly database: string;
  readonly agents: number;
  readonly title: string;
  /** Times, or rates. */
  readonly unit: "ms" | "tasks/s";
  readonly values: readonly number[];
}

interface Given {
  readonly machine: Readonly<Record<string, unknown>>;
  readonly rounds: number;
  readonly durability: Readonly<Record<string, string>>;
  readonly cells: readonly Measured[];
}

interface Line {
  readonly database: string;
  readonly title: string;
  readonly unit: string;
  /** By the number of agents. */
  readonly medians: Readonly<Record<number, number>>;
  /** Of times. */
  readonly p95: Readonly<Record<number, number>>;
  /** What it costs with the most agents, by what it costs with the fewest: the median of the rounds' ratios. */
  readonly cost: number;
}

export function assignmentMarkdown(given: Given): { result: object; text: string } {
  const { machine, rounds, durability, cells } = given;
  const keys = new Map(cells.map((cell) => [`${cell.database} ${cell.title}`, cell]));
  const lines = [...keys.values()].map(({ database, title }) =>
    lineOf(cells.filter((cell) => cell.database === database && cell.title === title)),
  );
  const about = Object.entries(machine).map(([key, value]) => `${key} ${value}`);
  const parts = [
    `Medians of ${rounds} rounds; the cost is that with the most agents by that with the fewest. ${about.join(", ")}.`,
  ];
  for (const [database, settings] of Object.entries(durability)) {
    const here = lines.filter((line) => line.database === database);
    const sizes = Object.keys(here[0]?.medians ?? {}).map(Number);
    parts.push(
      `## ${database} (${settings})`,
      table([
        ["", ...sizes.map((size) => `${size} agents`), "cost"],
        ...here.map((line) => [
          line.title,
          ...sizes.map((size) => shown(line, size)),
          `${line.cost.toFixed(2)}×`,
        ]),
      ]),
    );
  }
  return { result: { machine, rounds, durability, lines }, text: `${parts.join("\n\n")}\n` };
}

function shown({ unit, medians, p95 }: Line, size: number): string {
  const middle = medians[size] ?? Number.NaN;
  if (unit !== "ms") return `${Math.round(middle)} ${unit}`;
  return `${middle.toFixed(1)} ms (p95 ${(p95[size] ?? Number.NaN).toFixed(1)})`;
}

function lineOf(cells: readonly Measured[]): Line {
  const { database, title, unit } = cells[0] as Measured;
  const sizes = [...new Set(cells.map(({ agents }) => agents))].sort((a, b) => a - b);
  const of = (agents: number) => cells.filter((cell) => cell.agents === agents);
  const all = (agents: number) => of(agents).flatMap(({ values }) => values);
  const few = of(sizes[0] ?? 0);
  const many = of(sizes.at(-1) ?? 0);
  const ratios = many.map(({ values }, round) => {
    const ratio = median(values) / median(few[round]?.values ?? []);
    return unit === "ms" ? ratio : 1 / ratio;
  });
  return {
    database,
    title,
    unit,
    medians: Object.fromEntries(sizes.map((agents) => [agents, median(all(agents))])),
    p95: Object.fromEntries(sizes.map((agents) => [agents, percentile(all(agents), 0.95)])),
    cost: median(ratios),
  };
}

function percentile(values: readonly number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.ceil(sorted.length * part) - 1] ?? Number.NaN;
}
