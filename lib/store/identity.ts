import { resolve } from "node:path";
import type { Knex } from "knex";
import { AgentCommunicationError } from "../errors.ts";
import type { Db } from "./dialect.ts";
import { isTransaction } from "./sql.ts";

let memories = 0;
const memoryNames = new WeakMap<object, string>();

interface Settings {
  readonly connectionString?: string;
  readonly host?: string;
  readonly server?: string;
  readonly port?: number | string;
  readonly database?: string;
  readonly filename?: string;
}

/** A name for the database behind a knex, equal for two instances that reach the same one. */
export function databaseIdentity(knex: Db): string {
  const client = knex.client as {
    config: object & { client?: unknown };
    connectionSettings?: Settings;
  };
  const settings = client.connectionSettings ?? {};
  const standardPort = client.config.client === "mssql" ? 1433 : 5432;
  if (settings.filename !== undefined) {
    if (settings.filename !== ":memory:" && settings.filename !== "") {
      return `sqlite:${resolve(settings.filename)}`;
    }
    // Each in-memory database is its own; transactions share the configuration object of their knex.
    let name = memoryNames.get(client.config);
    if (name === undefined) {
      name = `memory:${++memories}`;
      memoryNames.set(client.config, name);
    }
    return name;
  }
  if (settings.connectionString !== undefined) {
    try {
      const url = new URL(settings.connectionString);
      return serverName(
        url.hostname,
        url.port || standardPort,
        decodeURIComponent(url.pathname.slice(1)),
      );
    } catch {
      return settings.connectionString;
    }
  }
  return serverName(
    settings.host ?? settings.server,
    settings.port ?? standardPort,
    settings.database,
  );
}

function serverName(host = "", port: number | string, database = ""): string {
  const local = /^(localhost|127\.0\.0\.1|\[?::1\]?|)$/i.test(host) ? "local" : host.toLowerCase();
  return `server:${local}:${port}:${database}`;
}

/**
 * The connection to write through: the caller's transaction if there is one, and it is one that can hold our
 * tables.
 *
 * @throws AgentCommunicationError FOREIGN_TRANSACTION
 */
export function joined(knex: Knex, tx: unknown): Db {
  if (tx === undefined) return knex;
  if (typeof tx !== "function" || !("client" in tx) || !isTransaction(tx as Db)) {
    throw new AgentCommunicationError("FOREIGN_TRANSACTION", "tx is not a knex transaction");
  }
  const trx = tx as Knex.Transaction;
  refuseMapped(trx);
  if (trx.isCompleted()) {
    throw new AgentCommunicationError("FOREIGN_TRANSACTION", "tx has already ended");
  }
  const ours = knex.client as { config: object; dialect?: string };
  const theirs = trx.client as { config: object; dialect?: string };
  if (ours.config !== theirs.config) {
    if (ours.dialect !== theirs.dialect || databaseIdentity(knex) !== databaseIdentity(trx)) {
      throw new AgentCommunicationError(
        "FOREIGN_TRANSACTION",
        "tx is a transaction of another database than the one that holds the outbox",
      );
    }
  }
  return trx;
}

/**
 * @throws AgentCommunicationError INVALID_CONFIGURATION for a knex that renames columns or changes results: what
 *   the statements return would not be what they name
 */
export function refuseMapped(knex: Db): void {
  const { config } = knex.client as { config?: Record<string, unknown> };
  for (const option of ["postProcessResponse", "wrapIdentifier"]) {
    if (config?.[option] === undefined) continue;
    throw new AgentCommunicationError(
      "INVALID_CONFIGURATION",
      `a knex with ${option} cannot be used: it would change what the outbox reads`,
      {
        recoverySuggestion:
          "Give the outbox a knex or URL of its own without it, and transactions of that knex.",
      },
    );
  }
}
