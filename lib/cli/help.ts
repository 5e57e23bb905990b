import type { Command, OptionSpec, Options } from "./command.ts";
import { flag, GLOBAL_OPTIONS, placeholder, usageOf } from "./parse.ts";
import type { Terminal } from "./terminal.ts";
import { wrap } from "./text.ts";

export interface CommandGroup {
  readonly title: string;
  readonly commands: readonly Command[];
}

const EXIT_CODES =
  "Exit codes: 0 done, 1 error, 2 wrong command line, 3 unhealthy, 4 not found, 130 ended by Ctrl-C.";

const EXAMPLES: Command["examples"] = [
  ["migrate", "make the tables (SQLite in this folder unless DATABASE_URL says otherwise)"],
  [`send worker-1 --type greet --content '{"name":"Ada"}'`, "put a message into a mailbox"],
  ["work worker-1 --exec 'jq .content'", "run a program for each message of it"],
  ["stats --watch", "see what happens"],
  ["demo", "see it all at work"],
];

/** Help is wrapped to 100 columns where the terminal is wider, or is none. */
const pageWidth = (terminal: Terminal): number => Math.min(terminal.width, 100);

/** Two columns; where the second would become too narrow it goes below the first. */
function definitions(
  terminal: Terminal,
  entries: readonly (readonly [term: string, meaning: string])[],
): string {
  const width = pageWidth(terminal);
  const longest = Math.max(...entries.map(([term]) => term.length));
  const column = Math.min(longest, 34) + 4;
  const below = width - column < 30;
  return entries
    .map(([term, meaning]) => {
      const indent = " ".repeat(below ? 6 : column);
      const text = wrap(meaning, width - indent.length, indent);
      const styled = terminal.style("cyan", term);
      return below || term.length > column - 3
        ? `  ${styled}\n${indent}${text}\n`
        : `  ${styled}${" ".repeat(column - 2 - term.length)}${text}\n`;
    })
    .join("");
}

function optionHelp(spec: OptionSpec): string {
  const notes = [
    ...(spec.choices === undefined || spec.value === undefined
      ? []
      : [`one of ${spec.choices.join(", ")}`]),
    ...(spec.multiple === "list" ? ["several: with commas, or given again"] : []),
    ...(spec.multiple === "repeat" ? ["may be given again"] : []),
    ...(spec.default === undefined ? [] : [`default ${spec.default}`]),
  ];
  return notes.length === 0 ? spec.help : `${spec.help} (${notes.join("; ")})`;
}

function optionList(terminal: Terminal, options: Options): string {
  return definitions(
    terminal,
    Object.entries(options).map(([name, spec]): [string, string] => [
      `${spec.short === undefined ? "    " : `-${spec.short}, `}${flag(name, spec)}`,
      optionHelp(spec),
    ]),
  );
}

function exampleList(terminal: Terminal, examples: Command["examples"]): string {
  return examples
    .map(
      ([line, purpose]) =>
        `  ${terminal.style("dim", `# ${wrap(purpose, pageWidth(terminal) - 4, "  # ")}`)}\n  ${line.includes("agent-outbox ") ? line : `agent-outbox ${line}`}\n`,
    )
    .join("");
}

const title = (terminal: Terminal, text: string): string => `\n${terminal.style("bold", text)}\n`;

/** The page of one command. */
export function commandHelp(terminal: Terminal, command: Command): string {
  const width = pageWidth(terminal);
  const named = Object.entries(command.arguments);
  const parts = [
    `${wrap(`${command.summary}.`, width, "")}\n`,
    title(terminal, "Usage"),
    `  agent-outbox ${usageOf(command)}\n`,
  ];
  for (const paragraph of command.details ?? []) parts.push(`\n${wrap(paragraph, width, "")}\n`);
  if (named.length > 0) {
    parts.push(
      title(terminal, "Arguments"),
      definitions(
        terminal,
        named.map(([name, spec]) => [placeholder(name), spec.help]),
      ),
    );
  }
  if (Object.keys(command.options).length > 0) {
    parts.push(title(terminal, "Options"), optionList(terminal, command.options));
  }
  parts.push(title(terminal, "Options of every command"), optionList(terminal, GLOBAL_OPTIONS));
  parts.push(title(terminal, "Examples"), exampleList(terminal, command.examples));
  return parts.join("");
}

/** The page of a family such as `dlq`. */
export function familyHelp(
  terminal: Terminal,
  family: string,
  commands: readonly Command[],
): string {
  return [
    title(terminal, "Usage").trimStart(),
    `  agent-outbox ${family} <command> …\n`,
    title(terminal, "Commands"),
    definitions(
      terminal,
      commands.map((command) => [usageOf(command).replace(" [options]", ""), command.summary]),
    ),
    title(terminal, "Examples"),
    exampleList(
      terminal,
      commands.flatMap(({ examples }) => examples.slice(0, 1)),
    ),
    `\nagent-outbox ${family} <command> --help tells more.\n`,
  ].join("");
}

/** The first page. */
export function overview(terminal: Terminal, groups: readonly CommandGroup[]): string {
  return [
    `${wrap(
      "agent-outbox: durable messages and tasks for agents, in the SQL database you already have.",
      pageWidth(terminal),
      "",
    )}\n`,
    title(terminal, "Usage"),
    "  agent-outbox <command> [arguments] [options]\n",
    ...groups.flatMap((group) => [
      title(terminal, group.title),
      definitions(
        terminal,
        group.commands.map((command) => [command.name, command.summary]),
      ),
    ]),
    title(terminal, "Options of every command"),
    optionList(terminal, GLOBAL_OPTIONS),
    title(terminal, "Examples"),
    exampleList(terminal, EXAMPLES),
    `\n${wrap(EXIT_CODES, pageWidth(terminal), "")}\n`,
    "agent-outbox <command> --help tells more.\n",
  ].join("");
}
