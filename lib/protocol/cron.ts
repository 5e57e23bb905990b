import { Cron } from "croner";
import { ValidationFailed } from "../errors.ts";
import { shown } from "./validate.ts";

/**
 * Cron expressions as the instants they mean. Pure: what is due depends on the arguments alone, never on the
 * clock of this process.
 *
 * Where clocks change, the rule is that of classic cron, and goes by how the time of day is written:
 * - without `*` and `/` ("30 2 * * *", "0 6,18 * * *") each time of the day is due once a day: one that a change
 *   skips is due at the first instant after the gap, one that a change repeats is due the first time only;
 * - with them ("0 * * * *", every five minutes) whatever the clock on the wall matches is due: skipped times fall
 *   away, repeated ones are due twice.
 */

/** The fields in the order of the expression, the seconds left out. */
const FIELDS = [
  ["minute", "0 to 59"],
  ["hour", "0 to 23"],
  ["day of the month", "1 to 31, or L for the last"],
  ["month", "1 to 12, or JAN to DEC"],
  ["day of the week", "0 to 7 (0 and 7 are Sunday), or SUN to SAT, such as MON-FRI, MON#1, FRI#L"],
] as const;
const SECOND = ["second", "0 to 59"] as const;

const NICKNAMES = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/** Read once per expression and zone: reading costs more than asking for the next time. */
const read = new Map<string, Cron>();
const MOST_READ = 1_000;

function cronOf(expression: string, timeZone: string): Cron {
  const key = `${timeZone} ${expression}`;
  let cron = read.get(key);
  if (cron === undefined) {
    if (read.size >= MOST_READ) read.clear();
    cron = parsed(expression, timeZone);
    read.set(key, cron);
  }
  return cron;
}

function parsed(expression: string, timeZone: string): Cron {
  return new Cron(expression, {
    timezone: timeZone,
    mode: "5-or-6-parts",
    // What is due at certain times of the day must not be lost to a gap: not only where it is one single time.
    fixedTimeRule: "no-wildcard",
    // It is asked, never run: no timer.
    paused: true,
  });
}

/** The first due time after an instant, in milliseconds since the epoch; null when there is none before 10000. */
export function nextCron(expression: string, timeZone: string, afterMs: number): number | null {
  return cronOf(expression, timeZone).nextRun(new Date(afterMs))?.getTime() ?? null;
}

/** The last `most` due times up to an instant, that one included; the oldest first. */
export function lastCrons(
  expression: string,
  timeZone: string,
  untilMs: number,
  most: number,
): number[] {
  return cronOf(expression, timeZone)
    .previousRuns(most, new Date(untilMs + 1))
    .map((date) => date.getTime())
    .reverse();
}

/** @throws ValidationFailed naming the field that is wrong, and what may stand there */
export function checkCron(expression: string, what: string): void {
  try {
    if (parsed(expression, "UTC").nextRun(new Date(0)) === null) {
      throw new Error(`${shown(expression)} is never due: there is no such day`);
    }
  } catch (cause) {
    throw new ValidationFailed(`${what}: ${wrong(expression, cause)}`, {
      cause,
      details: { cron: expression },
      recoverySuggestion:
        'Write minute, hour, day of the month, month and day of the week, as in "0 9 * * MON-FRI".',
    });
  }
}

function wrong(expression: string, cause: unknown): string {
  const fields = expression.trim().split(/\s+/).filter(Boolean);
  if (expression.includes("@")) {
    return `${shown(expression)} is none of ${NICKNAMES.join(", ")}`;
  }
  if (fields.length !== 5 && fields.length !== 6) {
    return `expected five fields, or six with seconds in front, got ${fields.length} in ${shown(expression)}`;
  }
  const names = fields.length === 6 ? [SECOND, ...FIELDS] : FIELDS;
  for (const [n, field] of fields.entries()) {
    // Alone among stars it is wrong still: then it is this one.
    const alone = names.map((_, at) => (at === n ? field : "*")).join(" ");
    try {
      parsed(alone, "UTC");
    } catch {
      const [name = "", values = ""] = names[n] ?? [];
      return `the ${name} ${shown(field)} (field ${n + 1} of ${fields.length}) is wrong: expected ${values}, with lists 1,2, ranges 1-5 (the smaller first) and steps */2`;
    }
  }
  return cause instanceof Error ? cause.message : String(cause);
}

/** @throws ValidationFailed with the name that was probably meant */
export function checkTimeZone(timeZone: string, what: string): void {
  try {
    // Offsets are taken by newer versions of Node only; and they are no zones: they know no summer time.
    if (!/^[+-]/.test(timeZone)) {
      new Intl.DateTimeFormat("en", { timeZone });
      return;
    }
  } catch {
    // Said below.
  }
  const meant = nearestZone(timeZone);
  throw new ValidationFailed(`${what}: there is no time zone ${shown(timeZone)}`, {
    details: { timeZone, ...(meant === undefined ? {} : { suggestion: meant }) },
    recoverySuggestion:
      meant === undefined
        ? "Name a zone of the IANA database, such as Europe/Rome or UTC."
        : `Did you mean ${meant}? Zones are named as in the IANA database.`,
  });
}

function pairsOf(name: string): Set<string> {
  const text = ` ${name.toLowerCase().replace(/[^a-z]+/g, " ")} `;
  return new Set(Array.from({ length: text.length - 1 }, (_, n) => text.slice(n, n + 2)));
}

/** The zone whose name, or whose city's, shares most pairs of letters with what was written. */
function nearestZone(written: string): string | undefined {
  const pairs = pairsOf(written);
  let best: { zone: string; likeness: number } | undefined;
  for (const zone of Intl.supportedValuesOf("timeZone")) {
    for (const name of [zone, zone.slice(zone.lastIndexOf("/") + 1)]) {
      const others = pairsOf(name);
      const shared = [...pairs].filter((pair) => others.has(pair)).length;
      const likeness = (2 * shared) / (pairs.size + others.size);
      if (likeness > (best?.likeness ?? 0.64)) best = { zone, likeness };
    }
  }
  return best?.zone;
}
