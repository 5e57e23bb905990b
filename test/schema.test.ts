import { readFile } from "node:fs/promises";
import type { Knex } from "knex";
import { describe, expect, it } from "vitest";
import { doctor, migrate, migrationStatus, openOutbox, schemaSql } from "../lib/index.ts";
import { runCli } from "./cli/support.ts";
import { eachDatabase, type TestDatabase } from "./support/databases.ts";

describe("schema.sql", () => {
  it("is what the migrations make (if not: npm run schema)", async () => {
    const file = await readFile(new URL("../schema.sql", import.meta.url), "utf8");
    expect(file).toBe(schemaSql("postgres"));
  });

  it("is printed for each client, without a database", async () => {
    for (const [client, dialect] of [
      ["pg", "postgres"],
      ["mssql", "mssql"],
      ["sqlite3", "sqlite"],
    ] as const) {
      const { code, out } = await runCli(["schema", "--client", client, "--prefix", "billing_"]);
      expect(code).toBe(0);
      expect(out).toBe(schemaSql(dialect, { prefix: "billing_" }));
      expect(out).not.toContain("outbox_");
    }
    const { json } = await runCli(["schema", "--client", "pg", "--json"]);
    expect(json()).toEqual({ sql: schemaSql("postgres") });
    const other = await runCli(["schema", "--database", "postgres://nobody@nowhere.invalid/none"]);
    expect(other.out).toBe(schemaSql("postgres"));
  });
});

interface SqliteConnection {
  exec(sql: string, done: (error: Error | null) => void): void;
}

/** As each database's own tool runs a script. */
const SCRIPT: Record<TestDatabase["dialect"], (knex: Knex, sql: string) => Promise<void>> = {
  postgres: async (knex, sql) => {
    await knex.raw(sql);
  },
  mssql: async (knex, sql) => {
    for (const batch of sql.split(/^GO$/m).filter((text) => text.trim() !== "")) {
      await knex.raw(batch);
    }
  },
  sqlite: async (knex, sql) => {
    const connection = (await knex.client.acquireConnection()) as SqliteConnection;
    await new Promise<void>((resolve, reject) => {
      connection.exec(sql, (error) => (error === null ? resolve() : reject(error)));
    });
    await knex.client.releaseConnection(connection);
  },
};

eachDatabase("the schema run by hand", (database) => {
  it("is a migrated database", async () => {
    const { knex, url } = await database.unmigrated();
    await SCRIPT[database.dialect](knex, schemaSql(database.dialect));
    const outbox = await openOutbox({ database: url });
    await outbox.queue.sendMessage({ toAgent: "a", messageType: "NOTE", content: {} });
    await outbox.close();
    const status = await migrationStatus(knex);
    expect(status.every(({ state }) => state === "applied")).toBe(true);
    for (const { appliedAt } of status) {
      expect(Math.abs(Date.parse(appliedAt ?? "") - Date.now())).toBeLessThan(86_400_000);
    }
    expect(await migrate(knex)).toEqual([]);
    const { checks } = await doctor(knex);
    expect(checks.find(({ check }) => check === "indexes")).toMatchObject({ level: "ok" });
  });
});
