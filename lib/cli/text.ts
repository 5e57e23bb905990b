/** Letters that take two columns of a terminal: East Asian scripts and pictographs. */
const WIDE =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|\p{Emoji_Presentation}/u;
const NO_WIDTH = /[\p{M}\p{Cf}]/u;

/** How many columns of a terminal a text takes. */
export function textWidth(text: string): number {
  let width = 0;
  for (const letter of text) width += NO_WIDTH.test(letter) ? 0 : WIDE.test(letter) ? 2 : 1;
  return width;
}

/** At most `most` columns, with an ellipsis where something was cut. */
export function truncated(text: string, most: number): string {
  if (textWidth(text) <= most) return text;
  let short = "";
  let width = 0;
  for (const letter of text) {
    width += textWidth(letter);
    if (width > most - 1) break;
    short += letter;
  }
  return `${short}…`;
}

/** Words wrapped to a width, each line after the first indented. */
export function wrap(text: string, width: number, indent: string): string {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && textWidth(line) + 1 + textWidth(word) > width) {
      lines.push(line);
      line = word;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  return [...lines, line].join(`\n${indent}`);
}

/** Control characters, and those that turn the direction of writing. */
const UNSAFE = /[\p{Cc}\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu;

/**
 * Text from the database made safe for a terminal, on one line: what an agent sent must not move the cursor,
 * set the window's title or forge a line.
 */
export function clean(text: string): string {
  return text.replace(/\s*\r?\n\s*/g, " ⏎ ").replace(UNSAFE, "�");
}

/** JSON for people, safe for a terminal: JSON.stringify escapes only the older control characters. */
export function prettyJson(value: unknown, indent = ""): string {
  return JSON.stringify(value, null, 2)
    .split("\n")
    .map((line) => indent + line.replace(UNSAFE, "�"))
    .join("\n");
}

const UNITS: readonly (readonly [ms: number, name: string])[] = [
  [86_400_000, "d"],
  [3_600_000, "h"],
  [60_000, "min"],
  [1_000, "s"],
];

/** A length of time for people: `340 ms`, `3 s`, `2 min`, `5 h`, `12 d`. */
export function duration(ms: number): string {
  for (const [size, name] of UNITS) {
    if (ms >= size) return `${Math.floor(ms / size)} ${name}`;
  }
  return `${Math.max(0, Math.round(ms))} ms`;
}

/** How long ago, or how soon, an instant is. */
export function relative(at: number | null, now: number): string {
  if (at === null) return "–";
  if (at > now) return `in ${duration(at - now)}`;
  return now - at < 1_000 ? "now" : `${duration(now - at)} ago`;
}

export function bytes(count: number): string {
  if (count < 1_000) return `${count} B`;
  if (count < 1_000_000) return `${(count / 1_000).toFixed(1)} kB`;
  return count < 1_000_000_000
    ? `${(count / 1_000_000).toFixed(1)} MB`
    : `${(count / 1_000_000_000).toFixed(1)} GB`;
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}

/** Keys whose values belong to the application: they are shown as they are. */
const OPAQUE = new Set([
  "answer",
  "card",
  "content",
  "headers",
  "input",
  "metadata",
  "metrics",
  "parameters",
  "result",
  "progress",
  "details",
  "schema",
]);
/** Maps whose keys are names, not fields. */
const NAMED = new Set(["byStatus", "byRole", "byState", "capabilities"]);

const snake = (key: string): string =>
  key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/** The library's objects as they are written in JSON: snake_case, instants in ISO 8601. */
export function wire(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(wire);
  if (value === null || typeof value !== "object") return value;
  if (typeof (value as { toJSON?: unknown }).toJSON === "function") return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => {
      if (OPAQUE.has(key) || NAMED.has(key)) return [snake(key), inner];
      if ((key.endsWith("At") || key === "until") && typeof inner === "number") {
        return [snake(key), new Date(inner).toISOString()];
      }
      return [snake(key), wire(inner)];
    }),
  );
}
