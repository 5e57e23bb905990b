import { spawn } from "node:child_process";
import { once } from "node:events";
import type { Knex } from "knex";
import { expect, it } from "vitest";
import {
  AgentRegistry,
  MessageQueueManager,
  migrate,
  migrateDown,
  migrationStatus,
  openOutbox,
  SupervisorCoordinator,
} from "../../lib/index.ts";
import { migrations } from "../../migrations/index.ts";
import { runCli, spawnCli } from "../cli/support.ts";
import { eachDatabase } from "../support/databases.ts";
import { failure } from "../support/queue.ts";

const NAMES = migrations.map(({ name }) => name);
const note = { toAgent: "agent", messageType: "NOTE", content: { n: 1 } };

const stateOf = async (knex: Knex, prefix = "outbox_") =>
  (await migrationStatus(knex, { prefix })).map(({ state }) => state);

eachDatabase("migrations", (database) => {
  it("are applied once when ten processes migrate at once", async () => {
    const { knex, url } = await database.unmigrated();
    const processes = Array.from({ length: 10 }, () =>
      spawnCli(["migrate", "--json"], { database: url }),
    );
    const applied: string[] = [];
    for (const cli of processes) {
      expect(await cli.exited, cli.err()).toEqual({ code: 0, signal: null });
      applied.push(...(JSON.parse(cli.out()) as { applied: string[] }).applied);
    }
    expect(applied).toEqual(NAMES);
    expect(await knex("outbox_migrations").orderBy("id").pluck("name")).toEqual(NAMES);
  });

  it("go up, down and up again", async () => {
    const { knex, url } = await database.unmigrated();
    expect(await migrate(knex)).toEqual(NAMES);
    const queue = new MessageQueueManager(url);
    await queue.sendMessage(note);
    await queue.close();
    expect(await migrateDown(knex)).toEqual(NAMES.slice(-1));
    expect(await stateOf(knex)).toEqual(
      NAMES.map((_, n) => (n < NAMES.length - 1 ? "applied" : "pending")),
    );
    expect(await migrate(knex)).toEqual(NAMES.slice(-1));
    expect(await migrateDown(knex, { steps: 100 })).toEqual([...NAMES].reverse());
    expect(await migrateDown(knex)).toEqual([]);
    for (const table of ["messages", "agents", "tasks", "dead_letters", "mailboxes"]) {
      expect(await knex.schema.hasTable(`outbox_${table}`), table).toBe(false);
    }
    expect(await migrate(knex)).toEqual(NAMES);
    expect(await knex("outbox_messages").select("seq")).toEqual([]);
  });

  it("are all applied or none", async () => {
    const { knex } = await database.unmigrated();
    await knex.raw("CREATE TABLE outbox_tasks (in_the_way int)");
    expect((await failure(() => migrate(knex))).code).toBe("DATABASE_ERROR");
    expect(await knex.schema.hasTable("outbox_messages")).toBe(false);
    expect(await stateOf(knex)).toEqual(NAMES.map(() => "pending"));
    await knex.raw("DROP TABLE outbox_tasks");
    expect(await migrate(knex)).toEqual(NAMES);
  });

  it("of a newer version are refused by every entry, with what to do", async () => {
    const { knex, url } = await database.fresh();
    await knex("outbox_migrations").insert({
      name: "999_later",
      batch: 9,
      migration_time: new Date(),
    });
    for (const entry of entries(knex, url)) {
      const error = await failure(entry);
      expect(error).toMatchObject({
        code: "NEWER_DATABASE",
        message: expect.stringContaining("999_later"),
        recoverySuggestion: expect.stringContaining("npm install agent-outbox@latest"),
      });
    }
    for (const entry of [() => migrate(knex), () => migrateDown(knex)]) {
      expect((await failure(entry)).code).toBe("NEWER_DATABASE");
    }
    const { code, err } = await runCli(["stats"], { database: url });
    expect(code).toBe(1);
    expect(err).toMatch(/^error: .*999_later\n {2}fix: .*npm install agent-outbox@latest.*\n$/);
    const status = await runCli(["migrate", "--status"], { database: url });
    expect(status.out).toMatch(/999_later +unknown/);
  });

  it("that are missing are told by every entry, with the command to run and no driver's stack", async () => {
    const empty = await database.unmigrated();
    const behind = await database.fresh();
    await migrateDown(behind.knex);
    for (const { knex, url } of [empty, behind]) {
      for (const entry of entries(knex, url)) {
        const error = await failure(entry);
        expect(error.code).toBe("NOT_MIGRATED");
        expect(error.recoverySuggestion).toContain("npx agent-outbox migrate");
      }
      for (const argv of [
        ["stats"],
        ["send", "a", "--type", "t"],
        ["why", "x"],
        ["agents", "ls"],
      ]) {
        const { code, out, err } = await runCli(argv, { database: url });
        expect({ code, out }, argv.join(" ")).toEqual({ code: 1, out: "" });
        expect(err).toMatch(/^error: .*\n {2}fix: Run `npx agent-outbox migrate`.*\n$/);
      }
      const health = await runCli(["health", "--json"], { database: url });
      expect(health.code).toBe(3);
      expect(health.json()).toMatchObject({ database_connected: true, queue_operational: false });
    }
  });

  it("and knex's own command line understand each other", async () => {
    const { knex, url } = await database.unmigrated();
    await knexCommand(url, "migrate:latest");
    expect(await stateOf(knex)).toEqual(NAMES.map(() => "applied"));
    expect(await migrate(knex)).toEqual([]);
    expect(await migrateDown(knex)).toEqual(NAMES.slice(-1));
    expect(await migrate(knex)).toEqual(NAMES.slice(-1));
    await knexCommand(url, "migrate:rollback", "--all");
    expect(await stateOf(knex)).toEqual(NAMES.map(() => "pending"));
    expect(await knex.schema.hasTable("outbox_messages")).toBe(false);
    expect(await migrate(knex)).toEqual(NAMES);
    expect(await knexCommand(url, "migrate:latest")).toContain("Already up to date");
  });

  it("change nothing in a dry run, and print what would run", async () => {
    const { knex, url } = await database.unmigrated();
    const dry = await runCli(["migrate", "--dry-run"], { database: url });
    expect(dry.code).toBe(0);
    for (const name of NAMES) expect(dry.out).toContain(`-- ${name}\n`);
    expect(dry.out).toMatch(/create table/i);
    expect(await knex.schema.hasTable("outbox_migrations")).toBe(false);
    expect(await knex.schema.hasTable("outbox_messages")).toBe(false);
    await migrate(knex);
    const again = await runCli(["migrate", "--dry-run", "--json"], { database: url });
    expect(again.json()).toEqual([]);
  });

  it("of two prefixes live in one database without knowing of each other", async () => {
    const { knex, url } = await database.fresh();
    const prefix = "billing_";
    expect(await stateOf(knex, prefix)).toEqual(NAMES.map(() => "pending"));
    const cli = (...argv: string[]) => runCli([...argv, "--prefix", prefix], { database: url });
    expect((await cli("stats")).code).toBe(1);
    expect((await cli("migrate")).code).toBe(0);
    expect((await cli("send", "agent", "--type", "NOTE")).code).toBe(0);
    expect((await cli("stats", "agent", "--json")).json()).toMatchObject({ pending: 1 });
    const ours = await runCli(["stats", "agent", "--json"], { database: url });
    expect(ours.json()).toMatchObject({ pending: 0 });
    expect((await cli("migrate", "--down", "--steps", "3")).code).toBe(0);
    expect(await stateOf(knex)).toEqual(NAMES.map(() => "applied"));
    expect((await cli("migrate", "--prefix=b;drop")).code).toBe(2);
  });
});

/** All ways into the library that need the tables. */
function entries(knex: Knex, url: string): (() => Promise<unknown>)[] {
  return [
    () => openOutbox({ database: url }),
    () => new MessageQueueManager(knex).sendMessage(note),
    () => new MessageQueueManager(knex).getMessages("agent"),
    () => new MessageQueueManager(knex).getQueueStats(),
    () => new AgentRegistry(knex).registerAgent({ agentId: "agent" }),
    () => new AgentRegistry(knex).listAgents(),
    () => new AgentRegistry(knex).getRegistryStats(),
    () => new SupervisorCoordinator("boss", knex).assignTask({ taskType: "t" }),
  ];
}

async function knexCommand(url: string, ...argv: string[]): Promise<string> {
  const child = spawn("npx", ["--no-install", "knex", ...argv], {
    env: { ...process.env, DATABASE_URL: url },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
  }
  const [code] = await once(child, "close");
  expect(code, output).toBe(0);
  return output;
}
