import { createRequire } from "node:module";
import type { Readable } from "node:stream";
import type { Command, Context } from "./command.ts";
import { COMMANDS, GROUPS } from "./commands.ts";
import { makeContext } from "./context.ts";
import { EXIT, exitOfSignal, UsageError } from "./exit-codes.ts";
import { reportFailure } from "./failure.ts";
import { commandHelp, familyHelp, overview } from "./help.ts";
import { GLOBAL_OPTIONS, parseArguments, parseOptions } from "./parse.ts";
import { didYouMean, didYouMeanOption } from "./suggest.ts";
import { type Output, Terminal } from "./terminal.ts";

export interface RunIo {
  readonly stdout: Output;
  readonly stderr: Output;
  readonly stdin?: Readable & { readonly isTTY?: boolean };
  readonly env?: NodeJS.ProcessEnv;
  /** Aborting it is what Ctrl-C does. */
  readonly signal?: AbortSignal;
}

/** Runs one command line and returns its exit code. Never throws, never ends the process. */
export async function run(argv: readonly string[], io: RunIo): Promise<number> {
  const env = io.env ?? process.env;
  // Found by hand, so that also the report of a wrong command line comes in the form that was asked for.
  const before = argv.slice(0, argv.includes("--") ? argv.indexOf("--") : undefined);
  const terminal = new Terminal(io.stdout, io.stderr, {
    env,
    json: before.includes("--json"),
    quiet: before.includes("--quiet") || before.includes("-q"),
  });
  const verbose = before.includes("--verbose") || (env.DEBUG ?? "") !== "";
  try {
    return await dispatch(argv, io, terminal, env);
  } catch (error) {
    return reportFailure(terminal, error, verbose);
  } finally {
    terminal.clearStatus();
  }
}

/** The words of the command, and what is left when they are taken away. */
function split(argv: readonly string[]): { words: string[]; rest: string[] } {
  const rest = [...argv];
  const words: string[] = [];
  for (let n = 0; n < rest.length; ) {
    const word = rest[n] ?? "";
    if (word === "--") break;
    if (word.startsWith("-")) {
      // A global option before the command may have a value of its own.
      const spec = Object.entries(GLOBAL_OPTIONS).find(([name]) => word === `--${name}`)?.[1];
      if (spec === undefined && words.length === 0 && !/^-[qh]|=/.test(word)) {
        throw new UsageError(
          `there is no option ${word} before the command`,
          didYouMeanOption(word, Object.keys(GLOBAL_OPTIONS)) ?? "Write options after the command.",
        );
      }
      n += spec?.type === "text" ? 2 : 1;
      if (words.length > 0 && spec === undefined) break;
      continue;
    }
    words.push(word);
    rest.splice(n, 1);
    // Words of a command's name: the family, the verb, and "help" before them.
    const [first, ...others] = words[0] === "help" ? words.slice(1) : words;
    const family = COMMANDS.some(({ name }) => name.startsWith(`${first} `));
    if (others.length > 0 || (first !== undefined && !family)) break;
  }
  return { words, rest };
}

function find(words: readonly string[]): Command | readonly Command[] | undefined {
  const command = COMMANDS.find(({ name }) => name === words.join(" "));
  if (command !== undefined) return command;
  const family = COMMANDS.filter(({ name }) => name.startsWith(`${words[0]} `));
  return words.length === 1 && family.length > 0 ? family : undefined;
}

function unknownCommand(words: readonly string[]): UsageError {
  const [first = "", second = ""] = words;
  const family = COMMANDS.filter(({ name }) => name.startsWith(`${first} `));
  if (family.length > 0) {
    const verbs = family.map(({ name }) => name.slice(first.length + 1));
    return new UsageError(
      `there is no command "${first} ${second}"`,
      didYouMean(second, verbs)?.replace(/"(.*)"/, `"${first} $1"`) ??
        `There are ${verbs.map((verb) => `"${first} ${verb}"`).join(", ")}.`,
    );
  }
  const firsts = [...new Set(COMMANDS.map(({ name }) => name.split(" ")[0] ?? ""))];
  return new UsageError(
    `there is no command "${first}"`,
    didYouMean(first, firsts) ?? "`agent-outbox --help` lists all commands.",
  );
}

async function dispatch(
  argv: readonly string[],
  io: RunIo,
  terminal: Terminal,
  env: NodeJS.ProcessEnv,
): Promise<number> {
  const { words, rest } = split(argv);
  const asksHelp = words[0] === "help";
  if (asksHelp) words.shift();
  if (words.length === 0) {
    const { options } = parseOptions(rest, GLOBAL_OPTIONS);
    if (options.version === true) {
      terminal.raw(`${version()}\n`);
      return EXIT.OK;
    }
    if (options.help !== true && !asksHelp) {
      terminal.error(overview(terminal, GROUPS).trimEnd());
      return EXIT.USAGE;
    }
    terminal.raw(overview(terminal, GROUPS));
    return EXIT.OK;
  }
  // `agent-outbox agents ls` and `agent-outbox help agents` both find the family first.
  const found = find(words);
  const wantsHelp = asksHelp || rest.includes("--help") || rest.includes("-h");
  if (found === undefined) throw unknownCommand(words);
  if (Array.isArray(found)) {
    const page = familyHelp(terminal, words[0] ?? "", found as Command[]);
    if (wantsHelp) terminal.raw(page);
    else terminal.error(page.trimEnd());
    return wantsHelp ? EXIT.OK : EXIT.USAGE;
  }
  return runCommand(found as Command, rest, asksHelp, io, terminal, env);
}

async function runCommand(
  command: Command,
  rest: readonly string[],
  asksHelp: boolean,
  io: RunIo,
  terminal: Terminal,
  env: NodeJS.ProcessEnv,
): Promise<number> {
  const option = rest.includes("--help") || rest.includes("-h");
  if (asksHelp || (option && command.passThrough !== true)) {
    terminal.raw(commandHelp(terminal, command));
    return EXIT.OK;
  }
  const { options, positionals } =
    command.passThrough === true
      ? { options: {}, positionals: rest }
      : parseOptions(rest, { ...command.options, ...GLOBAL_OPTIONS });
  const args = command.passThrough === true ? { args: rest } : parseArguments(command, positionals);
  const signal = io.signal ?? new AbortController().signal;
  let ownEnd = false;
  const { context, close } = makeContext({
    terminal,
    stdin: io.stdin ?? process.stdin,
    env,
    signal,
    endsByItself: () => {
      ownEnd = true;
    },
    globals: {
      database: options.database as string | undefined,
      prefix: options.prefix as string | undefined,
    },
  });
  const running = finished(command.run({ ...context, options, args } as Context), close);
  const interrupted = new Promise<number>((resolve) => {
    // Whatever the command waits for, Ctrl-C does not: the database rolls back what was open.
    const end = () => {
      if (ownEnd) return;
      terminal.afterInterrupt();
      resolve(exitOfSignal(signal));
    };
    if (signal.aborted) end();
    else signal.addEventListener("abort", end, { once: true });
  });
  return Promise.race([running, interrupted]);
}

async function finished(
  running: Promise<number | undefined>,
  close: () => Promise<void>,
): Promise<number> {
  try {
    return (await running) ?? EXIT.OK;
  } finally {
    // What cannot be closed any more (the database went away) must not hide how the command ended.
    await close().catch(() => {});
  }
}

/** The package's own, found the same way in the sources and in the published package. */
function version(): string {
  const { version: own } = createRequire(import.meta.url)("agent-outbox/package.json") as {
    version: string;
  };
  return own;
}
