import { parseArgs } from "node:util";

export const BENCHES = [
  "queue",
  "kinds",
  "assignment",
  "growth",
  "latency",
  "steady",
  "snapshot",
  "memory",
] as const;
export type BenchName = (typeof BENCHES)[number];

const DATABASES = ["postgres", "sqlite"] as const;
type DatabaseName = (typeof DATABASES)[number];

/** What the command line says. */
export interface Settings {
  readonly benches: readonly BenchName[];
  readonly databases: readonly DatabaseName[];
  readonly rounds: number;
  readonly quick: boolean;
  readonly postgres: string | undefined;
  readonly json: string | undefined;
  readonly markdown: string | undefined;
  readonly plots: string | undefined;
  /** The published result to compare with. */
  readonly gate: string | undefined;
  /** How far a ratio may fall behind the published one, as a part of it. */
  readonly margin: number;
}

export const HELP = `npm run bench -- [options]

  --only NAMES      ${BENCHES.join(", ")} or all; several with commas. Default queue, with --gate queue,assignment
  --database NAMES  ${DATABASES.join(", ")}; several with commas. Default both
  --rounds N        rounds whose median is told, after one that warms up. Default 5
  --quick           one short round: shows that it works, not how fast
  --postgres URL    a PostgreSQL server to measure on, by an account that may create databases. Default: one of the run's own
  --json FILE       writes what was found
  --markdown FILE   writes the text that is printed
  --plots DIR       draws the curves of growth, latency, steady, snapshot and memory as SVG
  --gate [FILE]     compares ratios with a result of --json, and exits with 1 where one fell. Default docs/performance.json
  --margin PART     how far a ratio may fall. Default 0.25
  --help            this
`;

/** A command line that cannot be followed, with what to write instead. */
export class UsageError extends Error {}

/** @returns undefined where only help is asked for */
export function settings(args: readonly string[]): Settings | undefined {
  const { values, positionals } = parsed(args);
  if (values.help) return undefined;
  const [file, ...more] = positionals;
  const unknown = values.gate ? more[0] : file;
  if (unknown !== undefined) {
    throw new UsageError(`"${unknown}" is not understood: the options begin with --`);
  }
  const margin = values.margin === undefined ? 0.25 : Number(values.margin);
  if (!(margin >= 0 && margin < 1) || values.margin === "") {
    throw new UsageError(
      `--margin is a part such as 0.25, from 0 to below 1, not "${values.margin}"`,
    );
  }
  const only = values.only ?? (values.gate ? "queue,assignment" : "queue");
  return {
    benches: only === "all" ? BENCHES : chosen("--only", only, BENCHES, " or all"),
    databases: chosen("--database", values.database ?? DATABASES.join(","), DATABASES),
    rounds: values.quick ? 1 : whole("--rounds", values.rounds ?? "5"),
    quick: values.quick === true,
    postgres: values.postgres === undefined ? undefined : serverUrl(values.postgres),
    json: path("--json", values.json),
    markdown: path("--markdown", values.markdown),
    plots: path("--plots", values.plots),
    gate: values.gate ? (file ?? "docs/performance.json") : undefined,
    margin,
  };
}

function parsed(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        only: { type: "string" },
        database: { type: "string" },
        postgres: { type: "string" },
        rounds: { type: "string" },
        quick: { type: "boolean" },
        json: { type: "string" },
        markdown: { type: "string" },
        plots: { type: "string" },
        gate: { type: "boolean" },
        margin: { type: "string" },
        help: { type: "boolean", short: "h" },
      },
    });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function chosen<T extends string>(
  option: string,
  given: string,
  known: readonly T[],
  or = "",
): readonly T[] {
  const names = given.split(",").map((name) => name.trim());
  for (const name of names) {
    if (!known.includes(name as T)) {
      throw new UsageError(`${option} does not know "${name}": it is ${known.join(", ")}${or}`);
    }
  }
  return known.filter((name) => names.includes(name));
}

function whole(option: string, given: string): number {
  const value = Number(given);
  if (given.trim() === "" || !Number.isSafeInteger(value) || value < 1) {
    throw new UsageError(`${option} is a whole number from 1 on, not "${given}"`);
  }
  return value;
}

function serverUrl(given: string): string {
  if (!/^postgres(ql)?:\/\//.test(given) || !URL.canParse(given)) {
    throw new UsageError("--postgres is a URL such as postgres://user:password@host:5432/postgres");
  }
  return given;
}

function path(option: string, given: string | undefined): string | undefined {
  if (given === "") throw new UsageError(`${option} needs the name of a file or folder`);
  return given;
}
