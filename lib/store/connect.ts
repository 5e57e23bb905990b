import { createRequire } from "node:module";
import knexFactory, { type Knex } from "knex";
import { DEFAULT_PREFIX, migrationSource } from "../../migrations/index.ts";
import { AgentCommunicationError } from "../errors.ts";
import type { DialectName } from "./dialect.ts";
import { refuseMapped } from "./identity.ts";
import { tediousConfig } from "./mssql-connection.ts";
import { separateQueues } from "./mssql-knex.ts";
import { beginImmediate } from "./sqlite-begin.ts";
import { writeBack } from "./sqlite-log.ts";
import { keepStatements, type SqliteConnection } from "./sqlite-statements.ts";

/** Where the tables live: a URL, an ODBC/ADO connection string, a knex configuration, or an open knex. */
export type DatabaseInput = string | Knex.Config | Knex;

export const DEFAULT_DATABASE_URL = "sqlite:./agent-outbox.sqlite";

const DRIVERS: Record<DialectName, string> = {
  postgres: "pg",
  mssql: "tedious",
  sqlite: "sqlite3",
};
const INSTALL: Record<DialectName, string> = {
  postgres: "npm install pg",
  mssql: "npm install mssql tedious",
  sqlite: "npm install sqlite3",
};

export interface ConnectOptions {
  /** Most connections at once. Default 10; SQLite always uses one, because it has one writer. */
  readonly poolMax?: number;
  /** How long a call waits for a free connection, in milliseconds. Default 15,000. */
  readonly acquireTimeoutMs?: number;
}

export interface Connected {
  readonly knex: Knex;
  readonly dialect: DialectName;
  /** False for a knex instance that the caller opened: it is the caller's to close. */
  readonly owned: boolean;
}

function invalid(message: string, cause?: unknown): AgentCommunicationError {
  return new AgentCommunicationError("INVALID_CONFIGURATION", message, {
    cause,
    recoverySuggestion:
      'Use a URL such as "postgres://user:password@host/db", "mssql://user:password@host/db" or "sqlite:./file.sqlite", a knex config, or a knex instance.',
  });
}

function isKnex(value: unknown): value is Knex {
  return typeof value === "function" && "client" in value && "raw" in value;
}

/** The dialect behind a knex client name, or undefined for one that is not supported. */
function dialectOf(client: unknown): DialectName | undefined {
  const name = typeof client === "string" ? client : "";
  if (["pg", "postgres", "postgresql", "pgnative", "cockroachdb"].includes(name)) return "postgres";
  if (name === "mssql") return "mssql";
  if (["sqlite3", "sqlite", "better-sqlite3"].includes(name)) return "sqlite";
  return undefined;
}

/**
 * WAL lets readers go on beside the writer; NORMAL survives every crash of a process (README, SQLite notes). A claim
 * of 500 messages of 4 KB is larger than the cache of 2 MB that SQLite would have, and would be read again for each
 * step; and a log of 8 MB, not 4, is written back half as often.
 */
const SQLITE_PRAGMAS = (synchronous: string): readonly string[] => [
  "PRAGMA busy_timeout = 10000",
  "PRAGMA journal_mode = WAL",
  `PRAGMA synchronous = ${synchronous}`,
  "PRAGMA cache_size = -8000",
  "PRAGMA wal_autocheckpoint = 2000",
];

function sqlitePool(synchronous: string): Knex.PoolConfig {
  return {
    min: 0,
    max: 1,
    // A connection to ":memory:" is the database: it must never be closed for being idle.
    idleTimeoutMillis: 2_147_483_647,
    afterCreate: (
      connection: SqliteConnection,
      done: (error: Error | null, c: unknown) => void,
    ) => {
      const next = (statements: readonly string[]): void => {
        const [statement, ...rest] = statements;
        if (statement === undefined) {
          keepStatements(connection);
          done(null, connection);
        } else connection.run(statement, (error) => (error ? done(error, connection) : next(rest)));
      };
      next(SQLITE_PRAGMAS(synchronous));
    },
  };
}

const SYNCHRONOUS = ["NORMAL", "FULL", "EXTRA"];

function sqliteConfig(url: string): Knex.Config {
  const rest = url.replace(/^(sqlite3?|file):(\/\/)?/, "");
  const [path = "", query = ""] = rest.split("?", 2);
  const filename = path === "" ? ":memory:" : decodeURIComponent(path);
  const asked = new URLSearchParams(query).get("synchronous")?.toUpperCase() ?? "NORMAL";
  if (!SYNCHRONOUS.includes(asked)) {
    throw invalid(`synchronous=${asked} is not one of ${SYNCHRONOUS.join(", ")}`);
  }
  return {
    client: "sqlite3",
    connection: { filename },
    useNullAsDefault: true,
    pool: sqlitePool(asked),
  };
}

function parseInput(input: string | Knex.Config, options: ConnectOptions): Knex.Config {
  if (typeof input !== "string") return input;
  const pool = { min: 0, max: options.poolMax ?? 10 };
  const text = input.trim();
  if (/^postgres(ql)?:\/\//i.test(text)) {
    return {
      client: "pg",
      connection: {
        connectionString: text,
        application_name: "agent-outbox",
        // A server that vanished without a word is noticed, instead of waited for without end.
        keepAlive: true,
        connectionTimeoutMillis: 10_000,
      } as Knex.PgConnectionConfig,
      pool,
    };
  }
  if (
    /^(mssql|sqlserver):\/\//i.test(text) ||
    /(^|;)\s*(driver|server|data source)\s*=/i.test(text)
  ) {
    return { client: "mssql", connection: tediousConfig(text), pool };
  }
  if (/^(sqlite3?|file):/i.test(text)) return sqliteConfig(text);
  throw invalid(`"${redactUrl(text)}" is no database URL that agent-outbox knows`);
}

/** The knex configuration of a database URL, with this library's migrations: all that a knexfile needs. */
export function knexConfig(
  database: string | Knex.Config = process.env.DATABASE_URL ?? DEFAULT_DATABASE_URL,
  options: ConnectOptions & { prefix?: string } = {},
): Knex.Config {
  let config: Knex.Config;
  try {
    config = parseInput(database, options);
  } catch (error) {
    if (error instanceof AgentCommunicationError) throw error;
    throw invalid(`the database URL cannot be read: ${(error as Error).message}`, error);
  }
  const dialect = dialectOf(config.client);
  if (dialect === undefined) {
    throw invalid(`the knex client "${String(config.client)}" is not supported`);
  }
  const prefix = options.prefix ?? DEFAULT_PREFIX;
  return {
    acquireConnectionTimeout: options.acquireTimeoutMs ?? 15_000,
    // What knex would print here it also throws, and a library does not write to its user's terminal.
    log: { warn: () => undefined, error: () => undefined },
    ...config,
    migrations: {
      migrationSource: migrationSource(dialect, prefix),
      tableName: `${prefix}migrations`,
      ...config.migrations,
    },
  };
}

function requireDriver(dialect: DialectName): void {
  try {
    createRequire(import.meta.url).resolve(DRIVERS[dialect]);
  } catch (cause) {
    throw new AgentCommunicationError(
      "DRIVER_MISSING",
      `the driver "${DRIVERS[dialect]}" for this database is not installed`,
      { cause, recoverySuggestion: `Run \`${INSTALL[dialect]}\`.` },
    );
  }
}

/** Opens the database (lazily: the first statement connects), or takes the caller's knex as it is. */
export function connect(input: DatabaseInput, options: ConnectOptions = {}): Connected {
  if (isKnex(input)) {
    const dialect = dialectOf(input.client.dialect) ?? dialectOf(input.client.config?.client);
    if (dialect === undefined) {
      throw invalid(`a knex of the dialect "${String(input.client.dialect)}" is not supported`);
    }
    refuseMapped(input);
    if (dialect === "mssql") separateQueues(input);
    return { knex: input, dialect, owned: false };
  }
  if (typeof input !== "string" && (typeof input !== "object" || input === null)) {
    throw invalid(`a database of type ${input === null ? "null" : typeof input} cannot be opened`);
  }
  const config = knexConfig(input, options);
  const dialect = dialectOf(config.client) as DialectName;
  if (typeof input === "string") requireDriver(dialect);
  const knex = knexFactory(config);
  if (dialect === "sqlite") {
    beginImmediate(knex);
    // Whoever gives a configuration has settings of their own.
    if (typeof input === "string") writeBack(knex.client);
  }
  if (dialect === "mssql") separateQueues(knex);
  return { knex, dialect, owned: true };
}

/** A URL or connection string without its password, for messages and for `config`. */
export function redactUrl(text: string): string {
  return text
    .replace(/^((?:\w+:\/\/)?[^:/@\s]*):(?!\/\/)(\S*)@/, "$1:***@")
    .replace(/((?:pwd|password|client_?secret)\s*=\s*)[^;&\s]*/gi, "$1***");
}
