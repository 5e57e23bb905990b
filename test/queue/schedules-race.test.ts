import { expect, it, onTestFinished } from "vitest";
import { MessageQueueManager } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { spawnScript, until } from "../support/processes.ts";
import { mailbox, watched } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";
import { elapseSchedules, scheduleName, sentDues } from "./schedules-support.ts";

const HOUR = 3_600_000;
const tick = (toAgent: string) => ({ toAgent, messageType: "TICK", content: { n: 1 } });

eachDatabase("schedules with several processes", (database) => {
  it("fire once per due time, whoever of many comes first", async () => {
    const { url, knex } = await database.fresh();
    const { queue } = watched(knex);
    const to = mailbox();
    const names = Array.from({ length: 40 }, () => scheduleName());
    for (const name of names) await queue.schedules.set(name, { everyMs: HOUR }, tick(to));
    // Four in one process: more writers of one SQLite file than it has threads would wait for one another.
    const others = Array.from({ length: 3 }, () => new MessageQueueManager(url));
    onTestFinished(async () => void (await Promise.all(others.map((other) => other.close()))));
    for (let round = 1; round <= 3; round++) {
      await elapseSchedules(knex, HOUR + round * 60_000);
      const reports = await Promise.all([queue, ...others].map((each) => each.maintain()));
      const late = await queue.maintain();
      const fired = [...reports, late].map(({ schedulesFired }) => schedulesFired);
      expect(fired.reduce((sum, n) => sum + n)).toBe(names.length);
      expect(await sentDues(knex, to)).toHaveLength(round * names.length);
    }
    for (const schedule of await queue.schedules.list()) {
      expect(schedule).toMatchObject({ runs: 3, skipped: 0, failures: 0 });
    }
    const claims = await queue.getMessages(to, { limit: 1_000 });
    expect(new Set(claims.map(({ messageId }) => messageId)).size).toBe(3 * names.length);
  });

  it("send every due time exactly once, though processes are killed while they fire", async () => {
    const { url, knex } = await database.fresh();
    const { queue } = watched(knex);
    const missed = 230;
    const boxes = Array.from({ length: 40 }, () => mailbox());
    for (const to of boxes) {
      const options = { catchUp: "all", maxCatchUp: 1_000 } as const;
      await queue.schedules.set(`s-${to}`, { everyMs: HOUR }, tick(to), options);
    }
    const start = () => spawnScript("test/queue/programs/fires.ts", [url]);
    const killed = [start(), start(), start()];
    const survivor = start();
    await Promise.all([...killed, survivor].map((each) => each.message()));
    await elapseSchedules(knex, missed * HOUR);
    for (const each of killed) each.send({ begin: true });
    const sent = async () =>
      Number((await knex("outbox_messages").count({ sent: "*" }))[0]?.sent ?? 0);
    for (const each of killed) {
      const before = await sent();
      await until(async () => (await sent()) > before, { everyMs: 5 });
      // Somewhere in a round: it does not know of it.
      each.kill("SIGKILL");
      await each.exited;
    }
    expect(await sent()).toBeLessThan(missed * boxes.length);
    survivor.send({ begin: true });
    await until(
      async () => {
        const all = await queue.schedules.list();
        return all.every(({ nextRunAt, createdAt }) => (nextRunAt ?? 0) > createdAt);
      },
      { timeoutMs: 60_000 },
    );
    survivor.kill();
    await survivor.exited;
    for (const to of boxes) {
      const schedule = await queue.schedules.get(`s-${to}`);
      const last = schedule?.lastRunAt ?? 0;
      expect(await sentDues(knex, to)).toEqual(
        Array.from({ length: missed }, (_, n) => last - (missed - 1 - n) * HOUR),
      );
      expect(schedule).toMatchObject({ runs: missed, skipped: 0, nextRunAt: last + HOUR });
    }
  });

  it.skipIf(database.dialect === "sqlite")(
    "are not waited for while another transaction holds one of them (SQLite has one writer)",
    async () => {
      const { url, knex } = await database.fresh();
      const { queue } = watched(knex);
      const to = mailbox();
      const [held, free] = [scheduleName("a-held"), scheduleName("b-free")];
      for (const name of [held, free]) await queue.schedules.set(name, { everyMs: HOUR }, tick(to));
      await elapseSchedules(knex, HOUR + 1_000, held);
      await elapseSchedules(knex, HOUR, free);
      const other = new MessageQueueManager(url);
      onTestFinished(() => other.close());
      await knex.transaction(async (trx) => {
        await trx("outbox_schedules").where({ name: held }).update({ pause_reason: "held" });
        expect((await other.maintain()).schedulesFired).toBe(1);
        expect(await other.schedules.get(free)).toMatchObject({ runs: 1 });
      });
      expect((await other.maintain()).schedulesFired).toBe(1);
    },
  );

  it(
    "fire within a second of their time where a worker runs, also one that is set after it began",
    TIMED,
    async () => {
      const { url, knex } = await database.fresh();
      const { queue } = watched(knex);
      const to = mailbox();
      const lateMs: number[] = [];
      const worker = queue.work(to, async ({ headers, timestamp }) => {
        lateMs.push(timestamp - Date.parse(String(headers.schedule_due_at)));
      });
      await until(() => worker.stats.active === 0);
      const other = new MessageQueueManager(url);
      onTestFinished(() => other.close());
      await other.schedules.set("each-second", { cron: "* * * * * *" }, tick(to));
      await until(() => lateMs.length >= 3);
      await worker.stop();
      expect(Math.min(...lateMs)).toBeGreaterThanOrEqual(0);
      expect(Math.max(...lateMs)).toBeLessThan(1_000);
      // After the stop nobody fires any more.
      const { runs } = (await queue.schedules.get("each-second")) ?? {};
      await new Promise((resolve) => setTimeout(resolve, 1_300));
      expect((await queue.schedules.get("each-second"))?.runs).toBe(runs);
    },
  );

  it(
    "cost a process that has none next to nothing, however many workers it has",
    TIMED,
    async () => {
      const { knex } = await database.fresh();
      const { queue } = watched(knex);
      const asked: string[] = [];
      knex.on("query", ({ sql }: { sql: string }) => {
        if (sql.includes("outbox_schedules")) asked.push(sql);
      });
      const workers = Array.from({ length: 4 }, () => queue.work(mailbox(), () => {}));
      await until(() => asked.length > 0);
      await new Promise((resolve) => setTimeout(resolve, 1_000));
      // Once more where it has just begun to listen: something may have been set before.
      expect(asked.length).toBeLessThanOrEqual(2);
      await Promise.all(workers.map((worker) => worker.stop()));
    },
  );
});
