import { setTimeout as sleep } from "node:timers/promises";
import { expect, it } from "vitest";
import { int } from "../../lib/store/sql.ts";
import { eachDatabase } from "../support/databases.ts";
import { spawnScript, until } from "../support/processes.ts";
import { stage } from "./stage.ts";

const SUPERVISORS = 8;
const TASKS = 16;
const LIMITS: Record<string, number> = { a: 1, b: 2, c: 3, d: 1, e: 4 };
const SPECIAL = ["a", "c", "e"];

eachDatabase("eight supervisors in processes of their own", (database) => {
  it("never give an agent more than its limit, and lose no task", async () => {
    const on = stage(database);
    for (const [agentId, limit] of Object.entries(LIMITS)) {
      const capabilities = SPECIAL.includes(agentId) ? ["common", "special"] : ["common"];
      await on.agent(agentId, capabilities, limit);
    }
    const scripts = Array.from({ length: SUPERVISORS }, (_, n) =>
      spawnScript("test/coordination/programs/supervisor.ts", [
        database.url(),
        `boss-${n}`,
        String(TASKS),
      ]),
    );
    await Promise.all(scripts.map((script) => script.message()));

    // A watcher that looks as often as it can: the count must never be seen above the limit.
    const watching = new AbortController();
    const seen: Record<string, number> = {};
    const watcher = (async () => {
      while (!watching.signal.aborted) {
        const rows = (await on
          .knex("outbox_tasks")
          .whereNull("finished_at")
          .whereNotNull("agent_id")
          .groupBy("agent_id")
          .select("agent_id")
          .count({ live: "*" })) as { agent_id: string; live: unknown }[];
        for (const { agent_id, live } of rows) {
          seen[agent_id] = Math.max(seen[agent_id] ?? 0, int(live));
        }
        await sleep(2);
      }
    })();

    // The agents answer slowly enough for all of them to be full most of the time.
    const agents = Object.entries(LIMITS).map(([agentId, concurrency]) =>
      on.queue.work(
        agentId,
        async (message, { tx }) => {
          await sleep(10);
          const { task_id, assignment } = message.content as Record<string, unknown>;
          await tx((tx) => message.reply({ task_id, assignment, status: "completed" }, { tx }));
        },
        { concurrency, pollMs: { min: 5, max: 50 } },
      ),
    );
    for (const script of scripts) script.send("go");
    const told = await Promise.all(
      scripts.map((script) => script.message<{ taskIds: string[] }>()),
    );
    const taskIds = told.flatMap((one) => one.taskIds);
    const shared = TASKS / 4;
    expect(taskIds).toHaveLength(SUPERVISORS * (TASKS - shared) + shared);
    expect(new Set(taskIds).size).toBe(taskIds.length);

    await until(async () => (await on.boss.getCoordinationStats()).completed === taskIds.length, {
      timeoutMs: 200_000,
    });
    watching.abort();
    await watcher;
    await Promise.all(agents.map((agent) => agent.stop()));

    for (const [agentId, limit] of Object.entries(LIMITS)) {
      expect(seen[agentId], agentId).toBeLessThanOrEqual(limit);
    }
    // The limits were what held them back.
    const full = Object.entries(LIMITS).filter(([agentId, limit]) => seen[agentId] === limit);
    expect(full.length).toBeGreaterThanOrEqual(3);
    const tasks = await on
      .knex("outbox_tasks")
      .select("task_id", "assignment", "state", "agent_id");
    expect(tasks).toHaveLength(taskIds.length);
    expect(tasks.every(({ state, assignment }) => state === "completed" && assignment === 1)).toBe(
      true,
    );
    expect(await on.queue.deadLetters.list()).toEqual([]);
    const { pending, leased, scheduled } = await on.queue.getQueueStats();
    expect({ pending, leased, scheduled }).toEqual({ pending: 0, leased: 0, scheduled: 0 });
  });
});
