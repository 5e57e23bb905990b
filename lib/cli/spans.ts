import { UsageError } from "./exit-codes.ts";

const UNITS = { d: 86_400_000, h: 3_600_000, min: 60_000, s: 1_000, ms: 1 } as const;
const OTHER_NAMES: Readonly<Record<string, keyof typeof UNITS>> = {
  ...{ m: "min", minute: "min", second: "s", sec: "s", hour: "h", day: "d" },
};

function unitOf(text: string): number | undefined {
  const unit = OTHER_NAMES[text] ?? text;
  return unit in UNITS ? UNITS[unit as keyof typeof UNITS] : undefined;
}

/** A length of time as people write it: `500ms`, `90s`, `15min`, `6h`, `1d`. */
export function span(what: string, text: string): number {
  const [, count, unit = ""] = /^(\d{1,9})\s*([a-z]+)$/.exec(text) ?? [];
  const size = unitOf(unit);
  if (count === undefined || size === undefined) {
    throw new UsageError(
      `${what}: expected a number with its unit, got "${text}"`,
      "Write it as in 500ms, 90s, 15min, 6h or 1d.",
    );
  }
  return Number(count) * size;
}

/** In the greatest unit that says it exactly: `90s`, not `1.5min`. */
export function shortSpan(ms: number): string {
  const [unit, size] = Object.entries(UNITS).find(([, size]) => ms % size === 0) ?? ["ms", 1];
  return `${ms / size}${unit}`;
}

/** So much per time: `90000/min`, `10/s`, `500/15min`. */
export function rate(what: string, text: string): { amount: number; perMs: number } {
  const [, amount, count = "", unit = ""] =
    /^(\d[\d_]*(?:\.\d+)?)\/(\d{0,6})([a-z]+)$/.exec(text) ?? [];
  const size = unitOf(unit);
  if (amount === undefined || size === undefined) {
    throw new UsageError(
      `${what}: expected an amount and a time, got "${text}"`,
      "Write it as in 90000/min, 10/s or 500/15min.",
    );
  }
  return {
    amount: Number(amount.replaceAll("_", "")),
    perMs: (count === "" ? 1 : Number(count)) * size,
  };
}

export function shortRate({ amount, perMs }: { amount: number; perMs: number }): string {
  const per = shortSpan(perMs);
  return `${amount}/${per.startsWith("1") && !/^1\d/.test(per) ? per.slice(1) : per}`;
}

/** A number that may have a fraction. */
export function decimal(what: string, text: string): number {
  if (/^\d[\d_]*(\.\d+)?$/.test(text)) return Number(text.replaceAll("_", ""));
  throw new UsageError(`${what}: expected a number, got "${text}"`);
}

/** A whole number. */
export function whole(what: string, text: string): number {
  if (/^\d[\d_]*$/.test(text)) return Number(text.replaceAll("_", ""));
  throw new UsageError(`${what}: expected a whole number, got "${text}"`);
}
