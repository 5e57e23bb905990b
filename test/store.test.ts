import { access, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import knexFactory from "knex";
import { describe, expect, it, onTestFinished } from "vitest";
import {
  configFromEnv,
  connect,
  knexConfig,
  MessageQueueManager,
  maskedConfig,
  openOutbox,
  redactUrl,
} from "../lib/index.ts";
import { dialectFor } from "../lib/store/dialects.ts";
import { tediousConfig } from "../lib/store/mssql-connection.ts";
import { query } from "../lib/store/sql.ts";

describe("where the database is", () => {
  it("reads the URLs of all three, and refuses others with a remedy", () => {
    expect(knexConfig("postgres://u:p@h/d").client).toBe("pg");
    expect(knexConfig("postgresql://h/d").client).toBe("pg");
    expect(knexConfig("mssql://u:p@h:1433/d").client).toBe("mssql");
    expect(knexConfig("sqlite:./x.sqlite")).toMatchObject({
      connection: { filename: "./x.sqlite" },
    });
    expect(knexConfig("sqlite::memory:")).toMatchObject({ connection: { filename: ":memory:" } });
    expect(knexConfig("sqlite:///tmp/a%20b.db")).toMatchObject({
      connection: { filename: "/tmp/a b.db" },
    });
    for (const bad of ["mysql://h/d", "", "nonsense", "sqlite:x?synchronous=off"]) {
      expect(() => knexConfig(bad)).toThrow(
        expect.objectContaining({ code: "INVALID_CONFIGURATION" }),
      );
    }
    for (const bad of [5, null, {}, { client: "mysql" }]) {
      expect(() => connect(bad as never)).toThrow(
        expect.objectContaining({ code: "INVALID_CONFIGURATION" }),
      );
    }
  });

  it("SQL Server is encrypted and verified unless the address says otherwise", () => {
    expect(tediousConfig("mssql://sa:p%40ss@db.example.com/agents")).toMatchObject({
      server: "db.example.com",
      port: 1433,
      user: "sa",
      password: "p@ss",
      database: "agents",
      options: { encrypt: true, trustServerCertificate: false },
    });
    expect(
      tediousConfig("mssql://h:1500/d?encrypt=false&trustServerCertificate=true"),
    ).toMatchObject({
      port: 1500,
      options: { encrypt: false, trustServerCertificate: true },
    });
  });

  it("reads the ODBC strings of the founding document", () => {
    const odbc =
      "Driver={ODBC Driver 17 for SQL Server};Server=tcp:server.database.windows.net,1433;Database=agent-communication;Uid=admin;Pwd=password;Encrypt=yes;TrustServerCertificate=no;Connection Timeout=30;";
    expect(tediousConfig(odbc)).toMatchObject({
      server: "server.database.windows.net",
      port: 1433,
      database: "agent-communication",
      user: "admin",
      password: "password",
      options: { encrypt: true, trustServerCertificate: false },
    });
    expect(
      tediousConfig(
        "Server=tcp:s.database.windows.net,1433;Database=d;Authentication=ActiveDirectoryIntegrated;Encrypt=yes;",
      ),
    ).toMatchObject({ type: "azure-active-directory-default", database: "d" });
  });

  it("every string that SQL Server gets is declared with one of two lengths", () => {
    const { mapBinding } = tediousConfig("mssql://h/d").options as unknown as {
      mapBinding: (value: unknown) => { type: { declaration(p: unknown): string } } | undefined;
    };
    const declared = ["", "a", "b".repeat(4_000), "c".repeat(4_001)].map((value) =>
      mapBinding(value)?.type.declaration({ value }),
    );
    expect(declared).toEqual([
      "nvarchar(4000)",
      "nvarchar(4000)",
      "nvarchar(4000)",
      "nvarchar(max)",
    ]);
    expect(mapBinding(5)).toBeUndefined();
  });

  it("masks passwords", () => {
    expect(redactUrl("postgres://user:secret@h/d")).toBe("postgres://user:***@h/d");
    expect(redactUrl("mssql://sa:pa@ss@h/d")).toBe("mssql://sa:***@h/d");
    expect(redactUrl("postgres://runner@127.0.0.1:5/app")).toBe(
      "postgres://runner@127.0.0.1:5/app",
    );
    expect(redactUrl("postgres:secret@h/d")).not.toContain("secret");
    expect(redactUrl("sqlite:./a.sqlite")).toBe("sqlite:./a.sqlite");
    expect(redactUrl("Server=h;Uid=u;Pwd=secret;Database=d")).not.toContain("secret");
    expect(
      JSON.stringify(maskedConfig(configFromEnv({ DATABASE_URL: "mssql://u:secret@h/d" }))),
    ).not.toContain("secret");
  });

  it("takes the environment's word, the founding names included", () => {
    expect(configFromEnv({})).toMatchObject({
      database: "sqlite:./agent-outbox.sqlite",
      mode: "sql",
      defaultTimeoutMs: 300_000,
      runTimeoutMs: null,
      maxAttempts: 3,
      heartbeatIntervalMs: 30_000,
      prefix: "outbox_",
    });
    expect(
      configFromEnv({
        AZURE_SQL_SERVER: "s.database.windows.net",
        AZURE_SQL_DATABASE: "d b",
        AZURE_SQL_USERNAME: "u@x",
        AZURE_SQL_PASSWORD: "p/ss",
      }).database,
    ).toBe("mssql://u%40x:p%2Fss@s.database.windows.net/d%20b");
    expect(
      configFromEnv({ AGENT_COMMUNICATION_MODE: "mock", DATABASE_URL: "postgres://h/d" }).database,
    ).toBe("sqlite::memory:");
    for (const env of [
      { AGENT_COMMUNICATION_MODE: "redis" },
      { AGENT_MAX_RETRIES: "many" },
      { AGENT_DEFAULT_TIMEOUT: "-5" },
      { AZURE_SQL_SERVER: "s" },
    ]) {
      expect(() => configFromEnv(env)).toThrow(
        expect.objectContaining({ code: "INVALID_CONFIGURATION" }),
      );
    }
  });
});

describe("statements", () => {
  it("refuse a prefix that could be SQL", () => {
    for (const bad of ["", "a b", "x;drop", "Ü", "1x", "x".repeat(32), 'a"']) {
      expect(() => dialectFor("sqlite", bad)).toThrow(
        expect.objectContaining({ code: "INVALID_CONFIGURATION" }),
      );
    }
  });

  it("name every binding, which knex would leave to the database to notice", async () => {
    const { knex } = connect("sqlite::memory:");
    await expect(query(knex, "SELECT :a AS a, :b AS b", { a: 1 })).rejects.toThrow(":b");
    expect(await query(knex, "SELECT :a AS a, '12:30' AS t", { a: 1 })).toHaveLength(1);
    await knex.destroy();
  });
});

describe("a knex of the caller", () => {
  it("that renames columns is refused, and so are its transactions", async () => {
    const mapped = knexFactory({
      client: "sqlite3",
      connection: { filename: ":memory:" },
      useNullAsDefault: true,
      postProcessResponse: (rows: unknown) => rows,
    });
    onTestFinished(() => mapped.destroy());
    expect(() => new MessageQueueManager(mapped)).toThrow(
      expect.objectContaining({ code: "INVALID_CONFIGURATION" }),
    );
    const { knex } = connect("sqlite::memory:");
    onTestFinished(() => knex.destroy());
    const queue = new MessageQueueManager(knex);
    const tx = await mapped.transaction();
    await expect(
      queue.sendMessage({ toAgent: "a", messageType: "T", content: {} }, { tx }),
    ).rejects.toMatchObject({ code: "INVALID_CONFIGURATION" });
    await tx.rollback();
  });

  it("wrong options are refused before a database is made", async () => {
    const folder = await mkdtemp(join(tmpdir(), "outbox-options-"));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    const file = join(folder, "never.sqlite");
    for (const wrong of [{ foo: 1 }, { poolMax: -1 }, { prefix: null }, { retryPolicy: null }]) {
      await expect(
        openOutbox({ database: `sqlite:${file}`, migrate: true, ...wrong } as never),
      ).rejects.toMatchObject({ code: "VALIDATION_FAILED" });
    }
    await expect(openOutbox(null as never)).rejects.toMatchObject({ code: "VALIDATION_FAILED" });
    await expect(access(file)).rejects.toThrow();
  });
});
