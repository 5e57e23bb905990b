import { z } from "zod";
import { AgentCommunicationError } from "./errors.ts";
import type { QueueOptionsInput } from "./protocol/options.ts";
import { plainNames } from "./protocol/retry.ts";
import { DEFAULT_DATABASE_URL, redactUrl } from "./store/connect.ts";

/** What the environment says; options in code win over it. */
export interface EnvironmentConfig {
  /** A URL or connection string. */
  readonly database: string;
  readonly mode: "sql" | "mock";
  /**
   * How long waitForTask waits unless told otherwise, in milliseconds. AGENT_DEFAULT_TIMEOUT, in seconds;
   * default 300.
   */
  readonly defaultTimeoutMs: number;
  /** How long the run of a task may take where nothing else says it: AGENT_DEFAULT_TIMEOUT, or null where it is not set. */
  readonly runTimeoutMs: number | null;
  /** All runs of a message together. AGENT_MAX_RETRIES; default 3. */
  readonly maxAttempts: number;
  /** AGENT_HEARTBEAT_INTERVAL, in seconds; default 30. */
  readonly heartbeatIntervalMs: number;
  /** OUTBOX_PREFIX; default "outbox_". */
  readonly prefix: string;
  /** OUTBOX_LOG_DIR; file logging is off without it. */
  readonly logDir: string | null;
  /** OUTBOX_CLAIM_CHECK_DIR: the folder for contents too large for a row; without it they are refused. */
  readonly claimCheckDir: string | null;
}

function invalid(name: string, problem: string): never {
  throw new AgentCommunicationError("INVALID_CONFIGURATION", `${name}: ${problem}`, {
    details: { variable: name },
  });
}

function seconds(env: NodeJS.ProcessEnv, name: string, standard: number): number {
  const text = env[name];
  if (text === undefined || text.trim() === "") return standard * 1_000;
  const value = z.coerce.number().positive().max(31_536_000).safeParse(text);
  if (!value.success) invalid(name, `expected a number of seconds, got "${text}"`);
  return Math.round(value.data * 1_000);
}

function azureDatabase(env: NodeJS.ProcessEnv): string | undefined {
  const server = env.AZURE_SQL_SERVER;
  if (server === undefined || server === "") return undefined;
  const database = env.AZURE_SQL_DATABASE;
  if (database === undefined || database === "") {
    invalid("AZURE_SQL_DATABASE", "is missing beside AZURE_SQL_SERVER");
  }
  const user = env.AZURE_SQL_USERNAME;
  if (user !== undefined && user !== "") {
    const password = encodeURIComponent(env.AZURE_SQL_PASSWORD ?? "");
    return `mssql://${encodeURIComponent(user)}:${password}@${server}/${encodeURIComponent(database)}`;
  }
  return `Server=tcp:${server},1433;Database=${database};Authentication=ActiveDirectoryDefault;Encrypt=yes`;
}

/**
 * Reads the environment: DATABASE_URL, else AZURE_SQL_*, else a SQLite file in the working directory;
 * AGENT_COMMUNICATION_MODE=mock is SQLite in memory, the same code.
 *
 * @throws AgentCommunicationError INVALID_CONFIGURATION naming the variable
 */
export function configFromEnv(env: NodeJS.ProcessEnv = process.env): EnvironmentConfig {
  const mode = env.AGENT_COMMUNICATION_MODE ?? "sql";
  if (mode !== "sql" && mode !== "mock") {
    invalid("AGENT_COMMUNICATION_MODE", `expected "sql" or "mock", got "${mode}"`);
  }
  const attempts = z.coerce
    .number()
    .int()
    .min(1)
    .max(1_000)
    .safeParse(env.AGENT_MAX_RETRIES ?? "3");
  if (!attempts.success) {
    invalid("AGENT_MAX_RETRIES", `expected 1 to 1000, got "${env.AGENT_MAX_RETRIES}"`);
  }
  const url = env.DATABASE_URL;
  return {
    mode,
    database:
      mode === "mock"
        ? "sqlite::memory:"
        : url !== undefined && url !== ""
          ? url
          : (azureDatabase(env) ?? DEFAULT_DATABASE_URL),
    defaultTimeoutMs: seconds(env, "AGENT_DEFAULT_TIMEOUT", 300),
    runTimeoutMs: env.AGENT_DEFAULT_TIMEOUT ? seconds(env, "AGENT_DEFAULT_TIMEOUT", 300) : null,
    maxAttempts: attempts.data,
    heartbeatIntervalMs: seconds(env, "AGENT_HEARTBEAT_INTERVAL", 30),
    prefix: env.OUTBOX_PREFIX || "outbox_",
    logDir: env.OUTBOX_LOG_DIR || null,
    claimCheckDir: env.OUTBOX_CLAIM_CHECK_DIR || null,
  };
}

/** The configuration for people: passwords masked. */
export function maskedConfig(config: EnvironmentConfig): Record<string, unknown> {
  return { ...config, database: redactUrl(config.database) };
}

/** The queue's options, with the environment's where the caller gives none. */
export function queueOptions(
  config: EnvironmentConfig,
  given: QueueOptionsInput,
): QueueOptionsInput {
  return {
    ...given,
    prefix: given.prefix ?? config.prefix,
    retryPolicy: { maxAttempts: config.maxAttempts, ...plainNames(given.retryPolicy) },
  };
}
