import { parseArgs } from "node:util";
import type { ArgumentSpec, Command, OptionSpec, Options } from "./command.ts";
import { UsageError } from "./exit-codes.ts";
import { didYouMeanOption, suggest } from "./suggest.ts";

/** Options of every command, before or after its name. */
export const GLOBAL_OPTIONS = {
  database: {
    type: "text",
    value: "URL",
    help: "The database; default DATABASE_URL, else AZURE_SQL_*, else sqlite:./agent-outbox.sqlite",
  },
  prefix: {
    type: "text",
    value: "TEXT",
    help: "What the table names begin with; default OUTBOX_PREFIX, else outbox_",
  },
  json: { type: "flag", help: "JSON for programs: one document, or a line per item of a stream" },
  quiet: { type: "flag", short: "q", help: "Results only, no remarks" },
  verbose: { type: "flag", help: "With an error, the stack and its causes (as DEBUG=1)" },
  help: { type: "flag", short: "h", help: "What the command does, its options, examples" },
  version: { type: "flag", help: "The version of agent-outbox" },
} as const satisfies Options;

type Value = string | number | boolean | readonly (string | number)[] | undefined;

export interface ParsedOptions {
  readonly options: Readonly<Record<string, Value>>;
  readonly positionals: readonly string[];
}

/** `--lease-ms MS`, as in messages and help. */
export function flag(name: string, spec?: OptionSpec): string {
  if (spec === undefined || spec.type === "flag") return `--${name}`;
  return `--${name} ${spec.value ?? spec.choices?.join("|") ?? "VALUE"}`;
}

/**
 * Options and arguments of one command line.
 *
 * @throws UsageError naming what is wrong and what was probably meant
 */
export function parseOptions(args: readonly string[], specs: Options): ParsedOptions {
  const names = Object.keys(specs);
  const { tokens } = parseArgs({
    args: [...args],
    strict: false,
    tokens: true,
    options: Object.fromEntries(
      Object.entries(specs).map(([name, spec]) => [
        name,
        {
          type: spec.type === "flag" ? ("boolean" as const) : ("string" as const),
          ...(spec.short === undefined ? {} : { short: spec.short }),
        },
      ]),
    ),
  });
  const given = new Map<string, string[]>();
  const positionals: string[] = [];
  for (const token of tokens) {
    if (token.kind === "positional") positionals.push(token.value);
    if (token.kind !== "option") continue;
    const { name, rawName, value, inlineValue } = token;
    const spec = Object.hasOwn(specs, name) ? specs[name] : undefined;
    if (spec === undefined) {
      throw new UsageError(`there is no option ${rawName}`, didYouMeanOption(rawName, names));
    }
    if (spec.type === "flag") {
      if (value !== undefined) throw new UsageError(`--${name} takes no value (got "${value}")`);
      given.set(name, []);
      continue;
    }
    // The next option is no value; a lone "-" is one (the standard input), and so is a negative number.
    const missing = value === undefined || (!inlineValue && /^-[^\d]/.test(value));
    if (missing) {
      const meant =
        value === undefined ? "" : ` (to give it "${value}", write ${rawName}=${value})`;
      throw new UsageError(`${flag(name, spec)} needs a value${meant}`);
    }
    if (given.has(name) && spec.multiple === undefined) {
      throw new UsageError(`--${name} is given twice`);
    }
    given.set(name, [...(given.get(name) ?? []), value]);
  }
  const options: Record<string, Value> = {};
  for (const [name, spec] of Object.entries(specs)) {
    options[name] = optionValue(name, spec, given.get(name));
  }
  return { options, positionals };
}

function optionValue(name: string, spec: OptionSpec, given: readonly string[] | undefined): Value {
  if (spec.type === "flag") return given !== undefined;
  if (spec.multiple !== undefined) {
    const texts =
      spec.multiple === "repeat"
        ? (given ?? [])
        : (given ?? []).flatMap((text) => text.split(",")).map((text) => text.trim());
    return texts.filter((text) => text !== "").map((text) => one(name, spec, text));
  }
  const [text] = given ?? [];
  return text === undefined ? spec.default : one(name, spec, text);
}

function one(name: string, spec: OptionSpec, text: string): string | number {
  if (spec.type === "number") return wholeNumber(name, spec, text);
  if (spec.choices === undefined || spec.choices.includes(text)) return text;
  const meant = suggest(text, spec.choices);
  throw new UsageError(
    `--${name}: expected ${spec.choices.join(", ")}, got "${text}"`,
    meant === undefined ? undefined : `Did you mean --${name} ${meant}?`,
  );
}

function wholeNumber(name: string, spec: OptionSpec, text: string): number {
  const value = /^[+-]?[\d_]+$/.test(text) ? Number(text.replaceAll("_", "")) : Number.NaN;
  const unit = name.endsWith("-ms") ? " of milliseconds" : "";
  if (!Number.isSafeInteger(value)) {
    throw new UsageError(
      `--${name}: expected a whole number${unit}, got "${text}"`,
      unit === "" ? undefined : milliseconds(name, text),
    );
  }
  const { min = 0, max = Number.MAX_SAFE_INTEGER } = spec;
  if (value < min || value > max) {
    const range = max === Number.MAX_SAFE_INTEGER ? `at least ${min}` : `${min} to ${max}`;
    throw new UsageError(`--${name}: expected ${range}${unit}, got ${value}`);
  }
  return value;
}

const UNIT_MS: Record<string, number> = {
  ms: 1,
  s: 1_000,
  m: 60_000,
  min: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** Whoever wrote `30s` gets to read what to write. */
function milliseconds(name: string, text: string): string | undefined {
  const [, count, unit] = /^(\d+)\s*(ms|s|m|min|h|d)$/.exec(text) ?? [];
  const size = UNIT_MS[unit ?? ""];
  return count === undefined || size === undefined
    ? undefined
    : `Write --${name} ${Number(count) * size}.`;
}

/** Days as people write them: `30`, `30d`, `4w`. */
export function days(name: string, text: string): number {
  const [, count, unit = "d"] = /^(\d{1,6})\s*(d|w)?$/.exec(text) ?? [];
  if (count === undefined) {
    throw new UsageError(`--${name}: expected a number of days such as 30d, got "${text}"`);
  }
  return Number(count) * (unit === "w" ? 7 : 1);
}

/** The arguments of a command by name. @throws UsageError for too few and too many */
export function parseArguments(
  command: Command,
  positionals: readonly string[],
): Record<string, string | readonly string[] | undefined> {
  const values: Record<string, string | readonly string[] | undefined> = {};
  const rest = [...positionals];
  const usage = `Usage: agent-outbox ${usageOf(command)}`;
  for (const [name, spec] of Object.entries(command.arguments)) {
    if (spec.many === true) {
      values[name] = rest.splice(0);
      if (spec.optional !== true && positionals.length === 0) {
        throw new UsageError(`${placeholder(name)} is missing`, usage);
      }
      continue;
    }
    const value = rest.shift();
    if ((value === undefined || value === "") && spec.optional !== true) {
      throw new UsageError(`${placeholder(name)} is missing`, usage);
    }
    values[name] = value;
  }
  if (rest.length > 0) {
    throw new UsageError(`"${rest[0]}" is one argument too many`, usage);
  }
  return values;
}

export const placeholder = (name: string): string => name.toUpperCase();

function shownArgument([name, spec]: [string, ArgumentSpec]): string {
  const text = `${placeholder(name)}${spec.many === true ? "…" : ""}`;
  return spec.optional === true ? `[${text}]` : text;
}

/** The command line of a command, without the program's name. */
export function usageOf(command: Command): string {
  const shown = Object.entries(command.arguments).map(shownArgument);
  const options = Object.keys(command.options).length > 0 ? ["[options]"] : [];
  return [command.name, ...shown, ...options].join(" ");
}
