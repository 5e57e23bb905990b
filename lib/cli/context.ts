import { existsSync } from "node:fs";
import type { Readable } from "node:stream";
import type { EnvironmentConfig, Outbox } from "../index.ts";
import type { Context } from "./command.ts";
import type { Terminal } from "./terminal.ts";

/** Loaded when a command needs it: help and a wrong option answer without waiting for knex. */
export const library = () => import("../index.ts");

export interface Surroundings {
  readonly terminal: Terminal;
  readonly stdin: Readable & { readonly isTTY?: boolean };
  readonly env: NodeJS.ProcessEnv;
  readonly signal: AbortSignal;
  readonly endsByItself: () => void;
  readonly globals: {
    readonly database?: string | undefined;
    readonly prefix?: string | undefined;
  };
}

type Common = Omit<Context, "options" | "args">;

/** What a command gets, and the call that closes all it opened. */
export function makeContext(given: Surroundings): { context: Common; close(): Promise<void> } {
  const { terminal, stdin, env, signal, endsByItself, globals } = given;
  const closing: (() => Promise<unknown>)[] = [];
  let opened: Promise<Outbox> | undefined;

  const config = async (): Promise<EnvironmentConfig> => {
    const read = (await library()).configFromEnv(env);
    return {
      ...read,
      ...(globals.database === undefined ? {} : { database: globals.database, mode: "sql" }),
      ...(globals.prefix === undefined ? {} : { prefix: globals.prefix }),
    };
  };
  const open = async (): Promise<Outbox> => {
    const { FileClaimCheckStore, openOutbox } = await library();
    const settings = await config();
    const folder = settings.claimCheckDir;
    await refuseMissingFile(settings.database);
    const outbox = await openOutbox({
      database: settings.database,
      prefix: settings.prefix,
      retryPolicy: { maxAttempts: settings.maxAttempts },
      migrate: settings.mode === "mock",
      fileLogging: settings.logDir ?? false,
      ...(folder === null ? {} : { claimCheck: { store: new FileClaimCheckStore(folder) } }),
    });
    closing.push(() => outbox.close());
    return outbox;
  };
  return {
    context: {
      terminal,
      stdin,
      env,
      signal,
      endsByItself,
      config,
      outbox: () => {
        opened ??= open();
        return opened;
      },
      database: async () => {
        const { connect } = await library();
        const { database, prefix } = await config();
        const { knex, dialect } = connect(database);
        closing.push(() => knex.destroy());
        return { knex, dialect, prefix };
      },
    },
    close: async () => {
      for (const step of closing.splice(0).reverse()) await step();
    },
  };
}

/** The SQLite file that is not there, or undefined where the database is a server, in memory, or a file that is. */
export async function missingFile(database: string): Promise<string | undefined> {
  const { knexConfig } = await library();
  const connection = knexConfig(database).connection as { filename?: string } | undefined;
  const file = connection?.filename;
  if (file === undefined || file === ":memory:" || file === "") return undefined;
  return existsSync(file) ? undefined : file;
}

/**
 * SQLite makes a file that is not there. Whoever asks for statistics in the wrong folder wants to be told so,
 * not left with an empty file.
 */
export async function refuseMissingFile(database: string): Promise<void> {
  const file = await missingFile(database);
  if (file === undefined) return;
  const { AgentCommunicationError, redactUrl } = await library();
  throw new AgentCommunicationError("NOT_MIGRATED", `there is no database file ${file}`, {
    recoverySuggestion: `Make it with \`agent-outbox migrate\`, or name another database with --database or DATABASE_URL (now: ${redactUrl(database)}).`,
  });
}
