import { expect, it } from "vitest";
import { doctor, migrateDown } from "../../lib/index.ts";
import { migrations } from "../../migrations/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { elapse, watched } from "../support/queue.ts";
import { runCli } from "./support.ts";

const note = { toAgent: "lonely", messageType: "NOTE", content: {} };

eachDatabase("health and doctor", (database) => {
  it("health has the founding keys, and leaves nothing behind", async () => {
    const { code, json } = await runCli(["health", "--json"], { database: database.url() });
    expect(code).toBe(0);
    expect(json()).toEqual({
      database_connected: true,
      agents_registered: 0,
      queue_operational: true,
      probe_ms: expect.any(Number),
      problems: [],
    });
    expect(await database.knex()("outbox_messages").select("seq")).toEqual([]);
    const plain = await runCli(["health"], { database: database.url() });
    expect(plain.out).toMatch(/database connected +yes\nqueue operational +yes/);
  });

  it("health is 3 when the queue does not work", async () => {
    const { knex, url } = await database.fresh();
    await knex.schema.renameTable("outbox_dedupe", "elsewhere").catch(() => {
      // Where a table cannot be renamed it can be dropped.
      return knex.schema.dropTable("outbox_dedupe");
    });
    await knex.schema.dropView("outbox_messages_readable");
    await knex.schema.dropTable("outbox_messages");
    const { code, json } = await runCli(["health", "--json"], { database: url });
    expect(code).toBe(3);
    expect(json()).toMatchObject({ database_connected: true, queue_operational: false });
    const plain = await runCli(["health"], { database: url });
    expect(plain.out).toMatch(/problem: .+\n {2}fix: .+/);
  });

  const found = async (knex: ReturnType<typeof database.knex>, check: string) => {
    const { checks } = await doctor(knex);
    return checks.find((one) => one.check === check);
  };

  it("doctor looks at everything, and a fresh database has no problem of ours", async () => {
    const { knex, url } = await database.fresh();
    const { dialect, checks } = await doctor(knex);
    expect(dialect).toBe(database.dialect);
    const names = checks.map(({ check }) => check);
    expect(names).toEqual(
      expect.arrayContaining(
        ["server_version", "driver_version", "clock", "durability", "migrations", "indexes"].concat(
          ["dead_letters", "oldest_ready", "lapsed_leases", "paused_mailboxes", "lost_agents"],
        ),
      ),
    );
    for (const check of ["driver_version", "clock", "migrations", "indexes", "dead_letters"]) {
      expect(await found(knex, check)).toMatchObject({ level: "ok", remedy: null });
    }
    for (const { check, level, found: text, remedy } of checks) {
      expect(text, check).not.toMatch(/could not be asked|undefined|null|NaN/);
      expect(remedy === null, check).toBe(level === "ok" || level === "unknown");
    }
    // By URL it opens the database itself, and closes it.
    expect((await doctor(url)).checks.length).toBe(checks.length);
    expect((await doctor(knex, { prefix: "other_" })).level).toBe("problem");
  });

  it("doctor tells of indexes that are missing, and of those that are not ours", async () => {
    const { knex } = await database.fresh();
    await knex.raw("CREATE INDEX of_somebody ON outbox_messages (created_at, to_agent DESC)");
    expect(await found(knex, "indexes")).toMatchObject({
      level: "warning",
      found: expect.stringContaining("outbox_messages (created_at, to_agent desc)"),
    });
    await knex.schema.alterTable("outbox_messages", (table) =>
      table.dropIndex([], "outbox_messages_ready"),
    );
    expect(await found(knex, "indexes")).toMatchObject({
      level: "problem",
      found: "missing or invalid: outbox_messages_ready",
      remedy: expect.stringContaining("agent-outbox schema"),
    });
    // The same under another name serves as well.
    await knex.raw("CREATE INDEX renamed ON outbox_messages (to_agent, lane, rank, seq)");
    expect(await found(knex, "indexes")).toMatchObject({ level: "warning" });
  });

  it("doctor tells what is stuck", async () => {
    const { knex, url } = await database.fresh();
    const { queue } = watched(knex);
    await queue.sendMessage(note);
    await queue.getMessages("lonely", { leaseMs: 1_000, workerId: "the-dead-one" });
    await queue.sendMessage({ ...note, toAgent: "asleep" });
    await queue.pause("asleep", { reason: "at night" });
    const { messageId } = await queue.sendMessage({ ...note, toAgent: "broken", maxAttempts: 1 });
    const [claim] = await queue.getMessages("broken");
    await claim?.nack("no");
    await elapse(knex, 600_000);
    await knex("outbox_agents").insert({
      agent_id: "gone",
      role: "worker",
      status: "active",
      max_concurrent_tasks: 1,
      metadata: "{}",
      metrics: "{}",
      registered_at: 0,
      heartbeat_at: 0,
      stale_after_ms: 90_000,
      last_assigned_at: 0,
    });
    expect(messageId).toBeTruthy();
    expect(await found(knex, "oldest_ready")).toMatchObject({
      level: "warning",
      found: expect.stringMatching(/a message for lonely has been ready for 10 min/),
    });
    expect(await found(knex, "lapsed_leases")).toMatchObject({
      level: "warning",
      found: expect.stringContaining("the-dead-one"),
    });
    expect(await found(knex, "paused_mailboxes")).toMatchObject({
      level: "warning",
      found: "asleep (at night)",
    });
    expect(await found(knex, "dead_letters")).toMatchObject({ level: "warning" });
    expect(await found(knex, "lost_agents")).toMatchObject({ level: "warning", found: "gone" });
    const { out } = await runCli(["doctor"], { database: url });
    expect(out).toMatch(
      /^! paused mailboxes +asleep \(at night\)\n +fix: `agent-outbox resume asleep`/m,
    );
    expect(out).toMatch(/\d problems?, \d warnings?\.\n$/);
  });

  it("doctor ends with 3 when migrations are pending or newer, and goes on with the rest", async () => {
    const { knex, url } = await database.fresh();
    await migrateDown(knex);
    const pending = await runCli(["doctor", "--json"], { database: url });
    expect(pending.code).toBe(3);
    const { level, checks } = pending.json<{ level: string; checks: { check: string }[] }>();
    expect(level).toBe("problem");
    expect(checks).toContainEqual(
      expect.objectContaining({
        check: "migrations",
        found: `pending: ${migrations.at(-1)?.name}`,
      }),
    );
    expect(checks.map(({ check }) => check)).toContain("server_version");
    await knex("outbox_migrations").insert({ name: "999_later", batch: 2 });
    expect(await found(knex, "migrations")).toMatchObject({
      level: "problem",
      found: expect.stringContaining("999_later"),
    });
  });
});
