/** One measurement, or the settings of one subject. */
export type Cell =
  | { database: string; subject: string; workload: string; rate: number }
  | { database: string; subject: string; settings: string };

interface Line {
  readonly database: string;
  readonly workload: string;
  /** The median of the rounds, messages a second. */
  readonly rates: Readonly<Record<string, number>>;
  /** Ours by the best peer's, and by the ceiling's. */
  readonly byBestPeer: number;
  readonly byCeiling: number;
}

export interface Result {
  readonly machine: Readonly<Record<string, unknown>>;
  readonly rounds: number;
  readonly lines: readonly Line[];
  readonly settings: readonly { database: string; subject: string; settings: string }[];
}

const OURS = "agent-outbox";
const CEILING = "raw SQL (ceiling)";

export function summary(cells: readonly Cell[]): Pick<Result, "lines" | "settings"> {
  const measured = cells.filter((cell) => "rate" in cell);
  const keys = new Map(measured.map((cell) => [`${cell.database} ${cell.workload}`, cell]));
  const lines = [...keys.values()].map(({ database, workload }): Line => {
    const here = measured.filter((it) => it.database === database && it.workload === workload);
    const subjects = [...new Set(here.map(({ subject }) => subject))];
    const rates = Object.fromEntries(
      subjects.map((subject) => [
        subject,
        median(here.filter((it) => it.subject === subject).map(({ rate }) => rate)),
      ]),
    );
    const ours = rates[OURS] ?? 0;
    const peers = subjects.filter((subject) => subject !== OURS && subject !== CEILING);
    return {
      database,
      workload,
      rates,
      byBestPeer: ours / Math.max(...peers.map((peer) => rates[peer] ?? 0)),
      byCeiling: ours / (rates[CEILING] ?? Number.NaN),
    };
  });
  return { lines, settings: cells.filter((cell) => "settings" in cell) };
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? upper) + upper) / 2;
}

export function markdown({ machine, rounds, lines, settings }: Result): string {
  const parts = [
    `Medians of ${rounds} interleaved rounds, messages a second. ${Object.entries(machine)
      .map(([key, value]) => `${key} ${value}`)
      .join(", ")}.`,
  ];
  for (const database of new Set(lines.map((line) => line.database))) {
    const here = lines.filter((line) => line.database === database);
    const subjects = [...new Set(here.flatMap(({ rates }) => Object.keys(rates)))];
    parts.push(
      `## ${database}`,
      table([
        ["", ...subjects, "by the best peer", "by the ceiling"],
        ...here.map(({ workload, rates, byBestPeer, byCeiling }) => [
          workload,
          ...subjects.map((subject) => String(Math.round(rates[subject] ?? Number.NaN))),
          ratio(byBestPeer),
          ratio(byCeiling),
        ]),
      ]),
      settings
        .filter((it) => it.database === database)
        .map(({ subject, settings: text }) => `- ${subject}: ${text}`)
        .join("\n"),
    );
  }
  return `${parts.join("\n\n")}\n`;
}

const ratio = (value: number) => (Number.isFinite(value) ? `${value.toFixed(2)}×` : "–");

export function table([head = [], ...rows]: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map((_, n) => (n === 0 ? "---" : "---:"))), ...rows.map(line)].join(
    "\n",
  );
}
