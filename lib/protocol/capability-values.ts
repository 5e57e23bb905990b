import { z } from "zod";

/** What a capability may be worth: `gpu=true`, `memory_gb=64`, `region=eu`. */
export type Scalar = string | number | boolean;

/** How the values of a capability are compared. */
export type ValueKind = "version" | "number" | "boolean" | "text";

/** A value that sorts among its kind as text, byte by byte, on every database. */
export interface ValueKey {
  readonly kind: ValueKind;
  readonly key: string;
}

/** The longest text and the longest version, so that their keys fit into an index of every database. */
const LONGEST_TEXT = 128;
const LONGEST_VERSION = 40;

const RELEASE =
  /^v?(\d{1,18}(?:\.\d{1,18})*)(?:[-.]?([a-z][0-9a-z.-]*|(?<=-)[0-9a-z][0-9a-z.-]*))?(?:\+[0-9a-z.-]+)?$/i;

const NUMBER = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d{1,3})?$/i;

/** Digits that sort by their number: the shorter number first. "9" is a9, "11" is b11. */
function digits(text: string): string {
  const plain = text.replace(/^0+(?=\d)/, "");
  return `${String.fromCharCode(96 + plain.length)}${plain}`;
}

/**
 * A version as text that sorts: number by number, a pre-release before its release, `3.11` equal to `3.11.0`.
 * Of what follows a "+" nothing counts. Undefined for what is no version.
 */
export function versionKey(version: string): string | undefined {
  if (version.length > LONGEST_VERSION) return undefined;
  const [, release, pre] = RELEASE.exec(version) ?? [];
  if (release === undefined) return undefined;
  const numbers = release.replace(/(?:\.0+)+$/, "").split(".");
  const main = numbers.map(digits).join("");
  if (pre === undefined) return `${main}.`;
  // rc1 is rc.1, so that rc10 comes after rc9. A number sorts before a word, and "!" before all that goes on.
  const parts = pre.toLowerCase().match(/\d+|[a-z]+/g) ?? [];
  return `${main}-${parts.map((part) => (/^\d/.test(part) ? `0${digits(part)}` : `1${part}!`)).join("")}!`;
}

/** A double as sixteen hexadecimal digits that sort as the numbers do. */
function numberKey(value: number): string {
  const bits = new DataView(new ArrayBuffer(8));
  // 0 and -0 are one number.
  bits.setFloat64(0, value === 0 ? 0 : value);
  const raw = bits.getBigUint64(0);
  const sorted = raw >> 63n === 1n ? ~raw & 0xffff_ffff_ffff_ffffn : raw | (1n << 63n);
  return sorted.toString(16).padStart(16, "0");
}

/** The number that a text is; undefined for all others, also for those beyond what a number can be. */
export function numberOf(text: string): number | undefined {
  const value = NUMBER.test(text) ? Number(text) : Number.NaN;
  return Number.isFinite(value) ? value : undefined;
}

export function keyOf(value: Scalar): ValueKey {
  if (typeof value === "number") return { kind: "number", key: numberKey(value) };
  if (typeof value === "boolean") return { kind: "boolean", key: value ? "1" : "0" };
  return { kind: "text", key: value };
}

/** Everything that a value of a requirement may mean: the kind of what it is compared with decides. */
export function readings(text: string): ValueKey[] {
  const version = versionKey(text);
  const number = numberOf(text);
  return [
    { kind: "text", key: text },
    ...(version === undefined ? [] : [{ kind: "version" as const, key: version }]),
    ...(number === undefined ? [] : [keyOf(number)]),
    ...(text === "true" || text === "false" ? [keyOf(text === "true")] : []),
  ];
}

/** Values of SQL Server that end in a space equal those without it, and control characters sort before it. */
const UNCLEAN = /^\s|\s$|\p{Cc}|\p{Cs}/u;

/** A text as a capability may have it. */
const valueText = z
  .string("expected a text, a number or a boolean")
  .refine((text) => text.length >= 1 && text.length <= LONGEST_TEXT && !UNCLEAN.test(text), {
    message: `expected 1 to ${LONGEST_TEXT} characters, without spaces around them or control characters`,
  });

export const scalar = z.union(
  [z.number(), z.boolean(), valueText],
  `expected a number, a boolean, or a text of 1 to ${LONGEST_TEXT} characters without spaces around it`,
);

export const versionText = z
  .string("expected a version")
  .refine((text) => versionKey(text) !== undefined, {
    message: `expected a version such as 3.12 or 2.0.0-rc.1, of at most ${LONGEST_VERSION} characters`,
  });

/** What a capability may be called: what a requirement can name without quotation marks. */
export const capabilityName = z
  .string("expected the name of a capability")
  .refine((text) => text.length <= 128 && /^[^\s\p{Cc}\p{Cf}\p{Cs}\p{Z}@=<>!()]+$/u.test(text), {
    message: "expected a name of 1 to 128 visible characters without @ = < > ! ( )",
  });
