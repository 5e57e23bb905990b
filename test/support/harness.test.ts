import pg from "pg";
import { describe, expect, test } from "vitest";
import { migrationStatus } from "../../lib/store/migrate.ts";
import { canOwnPostgres, eachDatabase, ownPostgres } from "./databases.ts";
import { spawnScript, until } from "./processes.ts";

eachDatabase("a test database", (database) => {
  const applied = async (knex: ReturnType<typeof database.knex>) =>
    (await migrationStatus(knex)).filter(({ state }) => state === "applied").length;

  test("is migrated, and its own for the suite", async () => {
    const other = await database.fresh();
    expect(await applied(database.knex())).toBeGreaterThan(0);
    expect(await applied(other.knex)).toBe(await applied(database.knex()));
    expect(other.url).not.toBe(database.url());
    await database.knex().raw("CREATE TABLE only_here (id int)");
    expect(await other.knex.schema.hasTable("only_here")).toBe(false);
  });

  test("can be had without tables", async () => {
    const { knex } = await database.unmigrated();
    expect(await applied(knex)).toBe(0);
  });
});

describe("a script in a process of its own", () => {
  const program = "test/support/programs/echo.ts";

  test("speaks over IPC and in JSON lines on stdout", async () => {
    const script = spawnScript(program, ["one"], { ECHO: "two" });
    expect(await script.message()).toEqual({ arguments: ["one"], echo: "two" });
    script.send({ hello: 1 });
    expect(await script.message()).toEqual({ hello: 1 });
    expect(script.output()).toBe("not JSON\n");
    script.kill("SIGKILL");
    expect(await script.exited).toEqual({ code: null, signal: "SIGKILL" });
    await expect(script.message()).rejects.toThrow(/signal SIGKILL/);
  });

  test("is not heard while it is stopped", async () => {
    const script = spawnScript(program);
    await script.message();
    script.kill("SIGSTOP");
    script.send({ late: true });
    await expect(script.message({ timeoutMs: 300 })).rejects.toThrow(/no message within 300 ms/);
    script.kill("SIGCONT");
    expect(await script.message()).toEqual({ late: true });
  });
});

test("until returns the first truthy answer, and tells the last one when it gives up", async () => {
  let tries = 0;
  expect(await until(() => ++tries === 3 && "third")).toBe("third");
  const failing = until(() => Promise.reject(new Error("still closed")), { timeoutMs: 60 });
  await expect(failing).rejects.toThrow(/not within 60 ms.*still closed/s);
});

describe.skipIf(!canOwnPostgres)("a PostgreSQL of one's own (needs the npm server package)", () => {
  test("keeps its address and what was committed when it is killed and started again", async () => {
    const server = await ownPostgres();
    try {
      const query = async (sql: string) => {
        const client = new pg.Client({ connectionString: server.url });
        await client.connect();
        return client.query(sql).finally(() => client.end());
      };
      await query("CREATE TABLE kept AS SELECT 42 AS answer");
      const { url } = server;
      await server.kill();
      await expect(query("SELECT 1")).rejects.toThrow(/ECONNREFUSED/);
      await server.start();
      expect(server.url).toBe(url);
      expect((await query("SELECT answer FROM kept")).rows).toEqual([{ answer: 42 }]);
      await server.stop();
      await expect(query("SELECT 1")).rejects.toThrow(/ECONNREFUSED/);
    } finally {
      await server.dispose();
    }
  });
});
