import type { Schedule } from "../index.ts";
import { UsageError } from "./exit-codes.ts";
import { relative } from "./text.ts";

export const NAME = { name: { help: "The schedule's name" } } as const;

const UNITS = { d: 86_400_000, h: 3_600_000, min: 60_000, s: 1_000, ms: 1 } as const;

/** Intervals as people write them: `90s`, `15min`, `6h`, `1d`. */
export function interval(text: string): number {
  const [, count, unit = ""] = /^(\d{1,9})\s*(ms|s|m|min|h|d)$/.exec(text) ?? [];
  if (count === undefined) {
    throw new UsageError(
      `--every: expected a number with its unit, got "${text}"`,
      "Write it as in --every 90s, 15min, 6h or 1d.",
    );
  }
  return Number(count) * UNITS[(unit === "m" ? "min" : unit) as keyof typeof UNITS];
}

/** In the greatest unit that says it exactly: 90 s, not 1 min. */
function whole(ms: number): string {
  const [unit, size] = Object.entries(UNITS).find(([, size]) => ms % size === 0) ?? ["ms", 1];
  return `${ms / size} ${unit}`;
}

export const when = ({ cron, timeZone, everyMs }: Schedule): string =>
  cron === null ? `every ${whole(everyMs ?? 0)}` : `${cron} (${timeZone})`;

export const stateOf = ({ pausedAt, failures, nextRunAt }: Schedule): string =>
  pausedAt !== null ? "paused" : failures > 0 ? "failing" : nextRunAt === null ? "ended" : "active";

const STYLES = { paused: "yellow", failing: "red", ended: "dim", active: "green" } as const;
export const styleOf = (schedule: Schedule) => STYLES[stateOf(schedule) as keyof typeof STYLES];

export const recipients = ({ message: { toAgent } }: Schedule): string =>
  typeof toAgent === "string" ? toAgent : toAgent.join(", ");

export const instant = (at: number | null, now: number): string | null =>
  at === null ? null : `${new Date(at).toISOString()} (${relative(at, now)})`;
