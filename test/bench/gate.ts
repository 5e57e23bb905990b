import type { Ratio } from "./measure.ts";
import { table } from "./report.ts";
import type { Found } from "./run.ts";

/** What `--json` writes: the results of the benches by their names. */
export interface Results {
  readonly benches: Readonly<Record<string, object & Found>>;
}

export interface Verdict {
  readonly fell: boolean;
  readonly text: string;
}

/** The ratios of a result; those of a bench that names none are its costs, of which 1.5 times is allowed. */
export function ratiosOf(result: object & Found): readonly Ratio[] {
  if (result.ratios !== undefined) return result.ratios;
  const { lines = [] } = result as { lines?: { database: string; title: string; cost?: number }[] };
  return lines.flatMap(({ database, title, cost }) =>
    cost === undefined
      ? []
      : [
          {
            name: `${title}: cost with the most agents`,
            database,
            value: cost,
            target: 1.5,
            higherIsBetter: false,
          },
        ],
  );
}

/**
 * Compares the ratios, never times: a ratio fell if it is worse than the published one by more than this part of it,
 * or was not measured although its bench and its database were.
 */
export function compare(
  published: Results,
  measured: Results,
  databases: readonly string[],
  margin: number,
): Verdict {
  const rows: string[][] = [];
  let failures = 0;
  for (const [bench, result] of Object.entries(measured.benches)) {
    const before = ratiosOf(published.benches[bench] ?? {});
    const now = ratiosOf(result);
    for (const ratio of before.filter(({ database }) => databases.includes(database))) {
      const same = now.find((it) => it.database === ratio.database && it.name === ratio.name);
      const fell = same === undefined || worse(ratio, same.value, margin);
      if (fell) failures += 1;
      rows.push([
        `${bench}, ${ratio.database}: ${ratio.name}`,
        shown(ratio.value),
        same === undefined ? "not measured" : shown(same.value),
        fell ? "**fell**" : "",
      ]);
    }
  }
  const percent = `${Math.round(margin * 100)} %`;
  const said =
    rows.length === 0
      ? "Nothing was compared: the published result has no ratio of what was measured."
      : failures === 0
        ? `No ratio of ${rows.length} is worse than the published one by more than ${percent}.`
        : `${failures} of ${rows.length} ratios are worse than the published ones by more than ${percent}.`;
  const head = ["row", "published", "measured", ""];
  // A gate that compares nothing guards nothing.
  return {
    fell: failures > 0 || rows.length === 0,
    text: rows.length === 0 ? `${said}\n` : `${table([head, ...rows])}\n\n${said}\n`,
  };
}

function worse({ value, higherIsBetter }: Ratio, now: number, margin: number): boolean {
  // A published ratio that is none (JSON has no NaN) asks for nothing.
  if (!Number.isFinite(value)) return false;
  // Anything but a number that is good enough is worse.
  return higherIsBetter ? !(now >= value * (1 - margin)) : !(now <= value * (1 + margin));
}

const shown = (value: number) => (Number.isFinite(value) ? `${value.toFixed(2)}×` : "none");
