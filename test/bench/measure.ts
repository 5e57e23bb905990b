import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Place, place } from "./place.ts";
import { table } from "./report.ts";
import type { Asked } from "./run.ts";

/** What a bench found as a ratio: it holds on other machines too, which times do not. */
export interface Ratio {
  /** The same in every run: the row, and by what it is measured. */
  readonly name: string;
  readonly database: string;
  readonly value: number;
  /** What it should reach; undefined where nothing is asked. */
  readonly target?: number | undefined;
  readonly higherIsBetter: boolean;
}

/** Something over something else, for a plot. */
export interface Curve {
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly series: readonly {
    readonly name: string;
    readonly points: readonly [number, number][];
  }[];
}

/** One on which `part` of the values lie or below; NaN of none. */
export function quantile(values: ArrayLike<number>, part: number): number {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.max(0, Math.ceil(sorted.length * part) - 1)] ?? Number.NaN;
}

export const round = (value: number, digits = 2): number => Number(value.toFixed(digits));

/** The instant in milliseconds, the same in all processes of this machine, and finer than Date.now(). */
export const instant = (): number => performance.timeOrigin + performance.now();

export async function timed(work: () => Promise<unknown>): Promise<number> {
  const since = performance.now();
  await work();
  return performance.now() - since;
}

/** Who loses a message, or never stops, would be waited for without end. */
export async function inTime<T>(work: Promise<T>, ms = 300_000): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done within ${ms / 1_000} s`)), ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** How long a run over time lasts, in seconds. */
export function lasting(seconds: number, quickSeconds: number, quick: boolean): number {
  const given = process.env.BENCH_SECONDS;
  if (given === undefined || given === "") return quick ? quickSeconds : seconds;
  const value = Number(given);
  if (!(value > 0)) throw new Error(`BENCH_SECONDS is a number of seconds, not "${given}"`);
  return value;
}

/** The last quarter of what was measured over time by its first: 1 is flat. */
export function lastByFirst(values: readonly number[]): number {
  const quarter = Math.max(1, Math.floor(values.length / 4));
  return mean(values.slice(-quarter)) / mean(values.slice(0, quarter));
}

export const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

type Database = "postgres" | "sqlite";

/** Runs a bench on each database that is asked for, each on a server or in a folder of its own. */
export async function onEach(
  { databases, postgres }: Asked,
  run: (at: Place, database: Database) => Promise<void>,
): Promise<Record<string, string>> {
  const durability: Record<string, string> = {};
  const folder = mkdtempSync(join(tmpdir(), "agent-outbox-bench-"));
  try {
    for (const database of databases) {
      await using at = await place(database, join(folder, database), postgres);
      durability[database] = await at.durability();
      await run(at, database);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return durability;
}

/** How the text of a bench begins. */
export function heading(
  title: string,
  { machine, quick }: Asked,
  durability: Readonly<Record<string, string>>,
): string[] {
  const about = Object.entries(machine).map(([key, value]) => `${key} ${value}`);
  const places = Object.entries(durability).map(([key, value]) => `${key}: ${value}`);
  return [
    `# ${title}`,
    [...(quick ? ["quick: shows that it works, not how fast"] : []), ...about, ...places].join(
      "; ",
    ),
  ];
}

/** Ratios as a table, with what they should be. */
export function ratioTable(ratios: readonly Ratio[]): string {
  return table([
    ["", "database", "ratio", "target"],
    ...ratios.map(({ name, database, value, target, higherIsBetter }) => [
      name,
      database,
      `${value.toFixed(2)}×`,
      target === undefined ? "–" : `${higherIsBetter ? "≥" : "≤"} ${target}`,
    ]),
  ]);
}
