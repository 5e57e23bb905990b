import { parseArgs } from "node:util";

export const HELP = `Usage: npm run demo -- [folder] [options]
       agent-outbox demo [folder] [options]

Four agents, each a process of its own, analyse the files of a folder (default:
this one). A supervisor gives them the tasks as messages in a database. One agent
is killed in the middle of a task, and another one finishes it.

Options
  --list           list the scenarios: smaller stories, each of a few agents
  --scenario NAME  play one of them instead (--database, --keep and --json apply)
  --out DIR        for the database and the logs (default .outbox-demo/<time>)
  --database URL   postgres://… or mssql://… instead of a SQLite file; the demo
                   uses tables of its own and removes them at the end
  --keep           leave these tables in the database
  --max-files N    analyse the first N files, 1 to 2000 (default 400)
  --json           print the report as one JSON document
  --interactive    wait for Enter before each act
  --help           show this

Examples
  npm run demo
  npm run demo -- ../my-project --max-files 100
  npm run demo -- --scenario incident
  npm run demo -- --database postgres://me:secret@localhost/scratch
  npm run --silent demo -- --json > report.json
`;

export interface DemoOptions {
  readonly folder: string;
  readonly out: string | undefined;
  readonly database: string | undefined;
  readonly keep: boolean;
  readonly maxFiles: number;
  readonly json: boolean;
  readonly interactive: boolean;
  /** The name of a scenario to play instead of the demo. */
  readonly scenario: string | undefined;
}

/** The arguments cannot be understood: exit code 2. */
export class UsageError extends Error {}

const MOST_FILES = 2_000;

/** @throws UsageError */
export function parseOptions(args: string[]): DemoOptions | "help" | "list" {
  const { values, positionals } = parsed(args);
  if (values.help) return "help";
  if (values.list) return "list";
  if (positionals.length > 1) {
    throw new UsageError(`one folder at a time, got ${positionals.join(" and ")}`);
  }
  const maxFiles = Number(values["max-files"] ?? 400);
  if (!Number.isInteger(maxFiles) || maxFiles < 1 || maxFiles > MOST_FILES) {
    throw new UsageError(`--max-files takes 1 to ${MOST_FILES}, got "${values["max-files"]}"`);
  }
  if (values.scenario !== undefined && positionals.length > 0) {
    throw new UsageError(`--scenario needs no folder, got ${positionals.join(" and ")}`);
  }
  if (values.database !== undefined && /:memory:/.test(values.database)) {
    throw new UsageError("--database: a database in memory cannot be shared by five processes");
  }
  if (values.interactive && !(process.stdin.isTTY && process.stderr.isTTY)) {
    throw new UsageError("--interactive needs a terminal");
  }
  return {
    folder: positionals[0] ?? ".",
    out: values.out,
    database: values.database,
    keep: values.keep,
    maxFiles,
    json: values.json,
    interactive: values.interactive,
    scenario: values.scenario,
  };
}

function parsed(args: string[]) {
  try {
    return parseArgs({
      args,
      allowPositionals: true,
      options: {
        out: { type: "string" },
        database: { type: "string" },
        keep: { type: "boolean", default: false },
        "max-files": { type: "string" },
        json: { type: "boolean", default: false },
        interactive: { type: "boolean", default: false },
        scenario: { type: "string" },
        list: { type: "boolean", default: false },
        help: { type: "boolean", short: "h", default: false },
      },
    });
  } catch (error) {
    // Node's own text goes on with advice about "--" that only confuses here.
    throw new UsageError((error as Error).message.split(". ", 1)[0] ?? "");
  }
}
