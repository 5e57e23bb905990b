import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { elapse, note, watched } from "../support/queue.ts";
import { runCli } from "./support.ts";

eachDatabase("the maintain command", (database) => {
  const opened = async () => {
    const { url, knex } = await database.fresh();
    const cli = (...argv: string[]) => runCli(argv, { database: url });
    const dedupe = async (count: number) => {
      const rows = Array.from({ length: count }, (_, n) => ({
        ...{ dedupe_key: `k${n}`, message_id: "m", expires_at: 1 },
      }));
      for (let n = 0; n < count; n += 100) {
        await knex("outbox_dedupe").insert(rows.slice(n, n + 100));
      }
    };
    return { knex, url, cli, dedupe, queue: watched(knex).queue };
  };

  it("does a round, and shows what it did and what is overdue", async () => {
    const { knex, cli, queue, dedupe } = await opened();
    await queue.sendMessages([1, 2, 3].map((n) => ({ ...note("a", { n }), ttlMs: 1_000 })));
    await elapse(knex, 5_000);
    await dedupe(600);
    const { code, out } = await cli("maintain");
    expect(code).toBe(0);
    expect(out).toMatch(/^STEP +DONE +OVERDUE\nexpired messages buried +3 +no\n/);
    expect(out).toMatch(/\ndedupe keys purged +500 +\d+ d\n/);
    expect(out).toMatch(/There is more to do or to look at: agent-outbox maintain --until-done\n$/);
    expect((await cli("maintain", "--json")).json()).toMatchObject({
      ...{ rounds: 1, dedupe_purged: 100, expired: 0, more: false, failed: [] },
      lag: { expired_ms: 0, dedupe_ms: 0, lease_ms: 0 },
    });
  });

  it("goes on until nothing is left", async () => {
    const { knex, cli, dedupe } = await opened();
    await dedupe(1_200);
    const done = (await cli("maintain", "--until-done", "--json")).json();
    expect(done).toMatchObject({ dedupe_purged: 1_200, more: false });
    expect(done.rounds).toBeGreaterThanOrEqual(3);
    expect(await knex("outbox_dedupe").first()).toBeUndefined();
  });

  it("goes on until Ctrl-C, a line each round", async () => {
    const { url, dedupe } = await opened();
    await dedupe(600);
    const end = new AbortController();
    const { code, lines } = await runCli(["maintain", "--watch", "--json"], {
      database: url,
      signal: end.signal,
      onOutput: (out) => {
        if (out.split("\n").length > 2) end.abort("SIGINT");
      },
    });
    expect(code).toBe(130);
    const [first, second] = lines();
    expect(first).toMatchObject({ dedupe_purged: 500, timestamp: expect.stringMatching(/Z$/) });
    // What is more than a round may do does not wait for the next one.
    expect(second).toMatchObject({ dedupe_purged: 100 });
  });

  it("says which step failed, and ends with an error", async () => {
    const { knex, cli } = await opened();
    await knex.schema.dropTable("outbox_inbox");
    const { code, out } = await cli("maintain");
    expect(code).toBe(1);
    expect(out).toMatch(/failed: inbox: NOT_MIGRATED: /);
    expect(out).toMatch(/expired messages buried +0 +unknown\n/);
  });

  it("stats show how far upkeep is behind, and who consumes", async () => {
    const { knex, cli, queue, dedupe } = await opened();
    await queue.sendMessage({ ...note("a"), delayMs: 1_000 });
    await dedupe(1);
    await elapse(knex, 65_000);
    const { out } = await cli("stats");
    expect(out).toMatch(/consumers +none is live\n/);
    expect(out).toMatch(/overdue +due messages for 1 min, the dedupe keys' purge for \d+ d\n/);
    expect((await cli("stats", "a", "--json")).json()).toMatchObject({
      ...{ consumers: 0, lag: { schedules_ms: null, due_ms: expect.any(Number) } },
    });
    await cli("maintain");
    expect((await cli("stats")).out).not.toContain("overdue");
  });

  it("why names what else keeps a message back", async () => {
    const { cli, queue } = await opened();
    await queue.pause("a", { reason: "audit" });
    const { messageId } = await queue.sendMessage({ ...note("a"), delayMs: 60_000 });
    const { out } = await cli("why", messageId);
    expect(out).toMatch(/state +paused\nwhy +the mailbox a is paused since .* \(audit\)\n/);
    expect(out).toMatch(/\nalso +not due before 20/);
    expect(out).toMatch(/\nalso +no consumer of a is live/);
  });
});
