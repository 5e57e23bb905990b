import type { MigrationStatus } from "../index.ts";
import { defineCommand } from "./command.ts";
import { confirmed } from "./confirm.ts";
import { library, missingFile, refuseMissingFile } from "./context.ts";
import { UsageError } from "./exit-codes.ts";
import { plural, relative, wire } from "./text.ts";

const CLIENTS = { pg: "postgres", mssql: "mssql", sqlite3: "sqlite" } as const;

const migrate = defineCommand({
  name: "migrate",
  summary: "Make or update the tables",
  details: [
    "Applies every pending migration, all or none, under a lock: any number of processes may do it at once, and the state is shared with knex's own command line. What is applied already is left as it is.",
    "--down asks before it deletes data, but only at a terminal: scripts are not asked, with or without --yes.",
  ],
  options: {
    status: { type: "flag", help: "Only show what is applied and what is pending" },
    "dry-run": { type: "flag", help: "Only print the SQL that would run" },
    down: { type: "flag", help: "Take the last migration back, with the data in its tables" },
    steps: {
      type: "number",
      value: "N",
      min: 1,
      max: 1_000,
      help: "With --down: how many; default 1",
    },
    yes: { type: "flag", short: "y", help: "With --down: do not ask" },
  },
  examples: [
    ["migrate", "bring the database to this version"],
    ["migrate --status --database postgres://app@db/app", "what is applied"],
    ["migrate --dry-run", "the SQL for a review"],
    ["migrate --down --steps 2", "take two migrations back"],
  ],
  async run({ options, terminal, database, config, stdin }) {
    const modes = (["status", "dry-run", "down"] as const).filter((mode) => options[mode]);
    if (modes.length > 1) {
      throw new UsageError(`--${modes[0]} and --${modes[1]} exclude each other`);
    }
    if (options.steps !== undefined && !options.down) {
      throw new UsageError("--steps goes with --down");
    }
    const api = await library();
    const { knex, dialect, prefix } = await database();
    // Looking must not make a file: where there is none, everything is pending.
    const absent = modes.length > 0 && (await missingFile((await config()).database)) !== undefined;
    const status = async (): Promise<MigrationStatus[]> =>
      absent
        ? api
            .migrationSql(dialect, { prefix })
            .map(({ name }) => ({ name, state: "pending", appliedAt: null }))
        : api.migrationStatus(knex, { prefix });

    if (options.status) {
      const list = await status();
      const now = Date.now();
      terminal.document(wire(list));
      terminal.table(list, [
        { title: "MIGRATION", value: ({ name }) => name },
        {
          title: "STATE",
          value: ({ state }) => state,
          style: ({ state }) =>
            state === "applied" ? "green" : state === "pending" ? "yellow" : "red",
        },
        {
          title: "APPLIED",
          value: ({ appliedAt }) =>
            appliedAt === null ? "–" : relative(Date.parse(appliedAt), now),
        },
      ]);
      return undefined;
    }
    if (options["dry-run"]) {
      const names = (await status())
        .filter(({ state }) => state === "pending")
        .map(({ name }) => name);
      const parts = api.migrationSql(dialect, { prefix, names });
      terminal.document(parts);
      for (const part of parts) {
        terminal.line(terminal.style("bold", `-- ${part.name}`));
        for (const statement of part.statements) terminal.line(`${statement};`);
        terminal.line();
      }
      if (parts.length === 0) terminal.say("Nothing to do: the database is up to date.");
      return undefined;
    }
    if (options.down) {
      const steps = options.steps ?? 1;
      if (absent) await refuseMissingFile((await config()).database);
      const last = (await status()).filter(({ state }) => state === "applied").slice(-steps);
      const question = `Take back ${last.map(({ name }) => name).join(", ")} and DELETE the data in their tables?`;
      if (last.length > 0 && !options.yes && !(await confirmed(terminal, stdin, question))) {
        terminal.say("Nothing was changed.");
        return undefined;
      }
      const names = await api.migrateDown(knex, { prefix, steps });
      terminal.document({ taken_back: names });
      terminal.say(names.length === 0 ? "Nothing to take back." : `Took back ${names.join(", ")}.`);
      return undefined;
    }
    const names = await api.migrate(knex, { prefix });
    terminal.document({ applied: names });
    const where = api.redactUrl((await config()).database);
    terminal.say(
      names.length === 0
        ? `${where} is up to date.`
        : `Applied ${plural(names.length, "migration")} to ${where}: ${names.join(", ")}.`,
    );
    return undefined;
  },
});

const schema = defineCommand({
  name: "schema",
  summary: "Print the tables as one SQL script",
  details: ["Needs no database. Whoever may not run DDL from an application gives this to a DBA."],
  options: {
    client: {
      type: "text",
      value: "CLIENT",
      choices: ["pg", "mssql", "sqlite3"],
      help: "For which database; default that of --database or DATABASE_URL",
    },
  },
  examples: [
    ["schema --client mssql > schema.sql", "the script for SQL Server"],
    ["schema --client pg --prefix billing_", "with other table names"],
  ],
  async run({ options, terminal, config }) {
    const { connect, schemaSql } = await library();
    const { database, prefix } = await config();
    const dialect = options.client === undefined ? undefined : CLIENTS[options.client];
    const sql = schemaSql(dialect ?? connect(database).dialect, { prefix });
    if (terminal.json) terminal.document({ sql });
    else terminal.raw(sql);
    return undefined;
  },
});

const config = defineCommand({
  name: "config",
  summary: "Show the settings in force, secrets masked",
  details: ["Options in code win over the environment; this shows the environment."],
  examples: [
    ["config", "what the variables and options come to"],
    ["config --json | jq -r .database", "one of them"],
  ],
  async run({ terminal, config: read, env }) {
    const { maskedConfig } = await library();
    const settings = maskedConfig(await read());
    const set = VARIABLES.filter((name) => (env[name] ?? "") !== "");
    terminal.document(wire({ ...settings, variables: set }));
    terminal.fields([
      ...Object.entries(settings).map(([name, value]): [string, string] => [
        name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
        value === null ? "off" : String(value),
      ]),
      ["set here", set.length === 0 ? "none of the variables" : set.join(", ")],
    ]);
    return undefined;
  },
});

/** Only whether they are set is ever told, never a value. */
const VARIABLES = [
  "DATABASE_URL",
  "OUTBOX_PREFIX",
  "OUTBOX_LOG_DIR",
  "OUTBOX_CLAIM_CHECK_DIR",
  "AGENT_COMMUNICATION_MODE",
  "AGENT_DEFAULT_TIMEOUT",
  "AGENT_MAX_RETRIES",
  "AGENT_HEARTBEAT_INTERVAL",
  "AZURE_SQL_SERVER",
  "AZURE_SQL_DATABASE",
  "AZURE_SQL_USERNAME",
  "AZURE_SQL_PASSWORD",
  "AZURE_KEY_VAULT_URL",
  "AZURE_CLIENT_ID",
  "AZURE_CLIENT_SECRET",
  "AZURE_TENANT_ID",
];

export const setupCommands = [migrate, schema, config];
