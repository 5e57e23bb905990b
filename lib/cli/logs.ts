import type { LogLine } from "../index.ts";
import { defineCommand } from "./command.ts";
import { library } from "./context.ts";
import { EXIT, exitOfSignal, NotFound } from "./exit-codes.ts";
import { days } from "./parse.ts";
import type { Terminal } from "./terminal.ts";
import { bytes, clean, plural, wire } from "./text.ts";

const FILES = ["agent_activity", "message_audit", "task_history", "performance", "errors"] as const;

const DIRECTORY = {
  dir: {
    type: "text",
    value: "DIR",
    help: "Where the log files are; default OUTBOX_LOG_DIR, else ./logs",
  },
} as const;

const tail = defineCommand({
  name: "logs tail",
  summary: "Show the last lines of the log files, across days",
  options: {
    ...DIRECTORY,
    file: { type: "text", choices: FILES, value: "NAME", help: "Only this file; default all five" },
    lines: { type: "number", short: "n", value: "N", default: 10, help: "How many" },
    follow: { type: "flag", short: "f", help: "Go on with new lines until Ctrl-C" },
    agent: { type: "text", short: "a", value: "AGENT", help: "Only lines that name this agent" },
  },
  examples: [
    ["logs tail --follow", "what happens now"],
    ["logs tail --file errors -n 50", "what went wrong"],
    ["logs tail --file message_audit --json | jq .event", "for jq"],
  ],
  async run({ options, terminal, signal, config }) {
    const { tailLogs } = await library();
    const directory = options.dir ?? (await config()).logDir ?? "logs";
    const { agent } = options;
    let shown = 0;
    const lines = tailLogs(directory, {
      file: options.file,
      lines: options.lines,
      follow: options.follow,
      signal,
      ...(agent === undefined ? {} : { filter: (line: LogLine) => names(line, agent) }),
    });
    for await (const line of lines) {
      shown++;
      if (terminal.json) terminal.item(line.entry);
      else print(terminal, line);
    }
    if (signal.aborted) return exitOfSignal(signal);
    if (shown === 0) {
      throw new NotFound(
        `there are no log lines in ${directory}`,
        "File logging is off unless OUTBOX_LOG_DIR or fileLogging turns it on; --dir names another folder.",
      );
    }
    return EXIT.OK;
  },
});

const PEOPLE = ["agent_id", "from_agent", "to_agent"];

function names({ entry }: LogLine, agent: string): boolean {
  return PEOPLE.some((key) => entry[key] === agent);
}

const FIRST = ["timestamp", "level"];

/** `time file event …`: the fields as they come, short enough to be read. */
function print(terminal: Terminal, { file, entry }: LogLine): void {
  const time = String(entry.timestamp ?? "")
    .slice(0, 23)
    .replace("T", " ");
  const rest = Object.entries(entry)
    .filter(([key]) => !FIRST.includes(key))
    .map(([key, value]) => {
      const text = typeof value === "string" ? value : JSON.stringify(value);
      return `${terminal.style("dim", `${key}=`)}${clean(text)}`;
    });
  const label = terminal.style(file === "errors" ? "red" : "cyan", file.padEnd(14));
  terminal.line(`${terminal.style("dim", clean(time))}  ${label}  ${rest.join(" ")}`);
}

const cleanup = defineCommand({
  name: "logs cleanup",
  summary: "Remove log files of old days",
  details: ["Only files that bear the names of the log files are touched."],
  options: {
    ...DIRECTORY,
    keep: {
      type: "text",
      value: "DAYS",
      default: "30d",
      help: "Days to keep besides today, such as 30d or 4w",
    },
  },
  examples: [
    ["logs cleanup --keep 30d", "for a daily timer"],
    ["logs cleanup --keep 0 --dir /var/log/agents", "keep today alone"],
  ],
  async run({ options, terminal, config }) {
    const keep = days("keep", options.keep);
    const { FileLogger } = await library();
    const directory = options.dir ?? (await config()).logDir ?? "logs";
    const logger = new FileLogger(directory);
    const { removed, failed } = await logger.cleanupOldLogs(keep);
    await logger.close();
    terminal.document(wire({ removed, failed }));
    const freed = removed.reduce((sum, file) => sum + file.bytes, 0);
    terminal.say(
      removed.length === 0
        ? `No log file in ${directory} is older than ${plural(keep, "day")}.`
        : `Removed ${plural(removed.length, "log file")}, ${bytes(freed)}.`,
    );
    for (const { path, reason } of failed) terminal.error(`could not remove ${path}: ${reason}`);
    return failed.length === 0 ? EXIT.OK : EXIT.ERROR;
  },
});

export const logCommands = [tail, cleanup];
