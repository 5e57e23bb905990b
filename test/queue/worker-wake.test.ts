import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { describe, expect, it, onTestFinished } from "vitest";
import { pushOf } from "../../lib/queue/wake/notify.ts";
import { databaseIdentity } from "../../lib/store/identity.ts";
import { eachDatabase, type TestDatabase } from "../support/databases.ts";
import { spawnScript, until } from "../support/processes.ts";
import { mailbox, note, watched } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";
import { content } from "./worker-support.ts";

/** So rarely that a message which is there within seconds was not found by looking. */
const RARELY = { pollMs: { min: 20_000, max: 20_000 } };

async function sender(database: TestDatabase, to: string) {
  const script = spawnScript("test/queue/programs/sends.ts", [database.url(), to]);
  await script.message();
  return async (count: number) => {
    script.send({ count });
    await script.message();
  };
}

/** Every NOTIFY of the database, while the test runs. */
async function overheard(database: TestDatabase): Promise<string[]> {
  const client = new pg.Client({ connectionString: database.url() });
  await client.connect();
  onTestFinished(() => client.end());
  const payloads: string[] = [];
  client.on("notification", ({ payload = "" }) => {
    // Tests of a listener by itself begin with a space.
    if (!payload.startsWith(" ")) payloads.push(payload.split(" ")[0] as string);
  });
  await client.query("LISTEN outbox_wake");
  return payloads;
}

const listeners = (database: TestDatabase) =>
  database
    .knex()("pg_stat_activity")
    .whereRaw("datname = current_database() AND query = ?", ['LISTEN "outbox_wake"']);

eachDatabase("waking a worker", (database) => {
  it("finds what another process sent by looking, where nothing tells it", TIMED, async () => {
    const { queue } = watched(database.knex(), { notify: false });
    const to = mailbox();
    const send = await sender(database, to);
    const worker = queue.work(to, () => undefined, { pollMs: { min: 5, max: 100 } });
    await send(3);
    await until(() => worker.stats.processed === 3, { timeoutMs: 3_000 });
  });

  describe.runIf(database.dialect !== "mssql")("by the database (all but SQL Server)", () => {
    it("hears of another process's send at once, however rarely it looks", TIMED, async () => {
      const { queue } = watched(database.knex());
      const to = mailbox();
      const send = await sender(database, to);
      const tookMs: number[] = [];
      queue.work(
        to,
        (message) => void tookMs.push(Date.now() - Number(content(message).sentAt)),
        RARELY,
      );
      if (database.dialect === "postgres") {
        await until(async () => (await listeners(database)).length === 1);
      }
      for (let n = 1; n <= 20; n++) {
        // Sends to one mailbox that follow closer than this share a wake-up.
        await sleep(55);
        await send(1);
        await until(() => tookMs.length === n, { timeoutMs: 5_000 });
      }
      tookMs.sort((a, b) => a - b);
      expect(tookMs[10]).toBeLessThan(100);
    });

    it("wakes a waiting getMessages of another process", async () => {
      const { queue } = watched(database.knex());
      const to = mailbox();
      const send = await sender(database, to);
      const waiting = queue.getMessages(to, { waitMs: 10_000 });
      await send(1);
      expect(await waiting).toHaveLength(1);
    });

    it(
      "lets an idle worker ask little, and be there when something falls due or a lease passes",
      TIMED,
      async () => {
        const { knex } = await database.fresh();
        const { queue } = watched(knex);
        const [to, late] = [mailbox(), mailbox()];
        const handled: number[] = [];
        const sentAt = performance.now();
        await queue.sendMessage({ ...note(late), delayMs: 6_500 });
        await queue.sendMessage(note(late));
        // Claimed by one that dies: the lease passes while the worker below is idle.
        await queue.getMessages(late, { leaseMs: 5_500 });
        queue.work(late, () => void handled.push(performance.now() - sentAt));
        queue.work(to, () => undefined);
        await sleep(2_500);
        let asked = 0;
        knex.on("query", () => {
          asked += 1;
        });
        await sleep(2_500);
        // Two workers, each at most once a second: before, each asked five times that.
        expect(asked).toBeLessThan(10);
        await until(() => handled.length === 2, { timeoutMs: 6_000 });
        expect(handled[0]).toBeGreaterThan(5_400);
        expect(handled[0]).toBeLessThan(6_400);
        expect(handled[1]).toBeGreaterThan(6_400);
        expect(handled[1]).toBeLessThan(7_400);
      },
    );
  });

  describe.runIf(database.dialect === "postgres")("by NOTIFY (PostgreSQL only)", () => {
    it(
      "tells once per mailbox and 50 ms, after the commit, and only of what is due",
      TIMED,
      async () => {
        const { queue } = watched(database.knex());
        const payloads = await overheard(database);
        const [many, rolledBack, scheduled, last] = [mailbox(), mailbox(), mailbox(), mailbox()];
        const since = performance.now();
        // On a slow machine some come apart, and are told of by themselves.
        let apart = 0;
        for (let n = 0, last = since; n < 100; n++) {
          const now = performance.now();
          if (now - last >= 5) apart += 1;
          last = now;
          await queue.sendMessage(note(many));
        }
        const windows = Math.ceil((performance.now() - since) / 50);
        const tx = await database.knex().transaction();
        await queue.sendMessage(note(rolledBack), { tx });
        await tx.rollback();
        await queue.sendMessage({ ...note(scheduled), delayMs: 60_000 });
        await queue.sendMessage(note(last));
        await until(() => payloads.includes(last));
        const told = payloads.filter((payload) => payload === many).length;
        expect(told).toBeGreaterThan(0);
        // At once, once more after 5 ms, and then every 50 ms.
        expect(told).toBeLessThanOrEqual(windows + 2 + apart);
        expect(payloads).not.toContain(rolledBack);
        expect(payloads).not.toContain(scheduled);
      },
    );

    it("tells of each message by itself where they come apart", TIMED, async () => {
      const { queue } = watched(database.knex());
      const payloads = await overheard(database);
      const to = mailbox();
      const tookMs: number[] = [];
      for (let n = 1; n <= 8; n++) {
        // More than the window that messages share.
        await sleep(8);
        await queue.sendMessage(note(to));
        const sentAt = performance.now();
        await until(() => payloads.filter((payload) => payload === to).length === n);
        tookMs.push(performance.now() - sentAt);
      }
      // In the window of a busy mailbox all but two would wait for more than 40 ms.
      tookMs.sort((a, b) => a - b);
      expect(tookMs[2]).toBeLessThan(30);
    });

    it(
      "looks once, and not again and again, after a message that it was told of",
      TIMED,
      async () => {
        const { knex, url } = await database.fresh();
        const { queue } = watched(knex);
        const to = mailbox();
        const send = await sender({ ...database, url: () => url }, to);
        const worker = queue.work(to, () => undefined);
        await until(() => pushOf(`${databaseIdentity(knex)}:outbox_`).hears);
        const looks: string[] = [];
        knex.on("query", ({ sql }: { sql: string }) => {
          if (/outbox_messages/.test(sql) && /state = [01]/.test(sql)) looks.push(sql);
        });
        for (let n = 1; n <= 8; n++) {
          await send(1);
          await until(() => worker.stats.processed === n);
          await sleep(100);
        }
        // The claim and a look behind it, and one in four seconds.
        expect(looks.length).toBeLessThanOrEqual(8 * 3);
      },
    );

    it("says nothing with notify: false, and works", async () => {
      const { queue } = watched(database.knex(), { notify: false });
      const payloads = await overheard(database);
      const to = mailbox();
      const worker = queue.work(to, () => undefined);
      await queue.sendMessage(note(to));
      await until(() => worker.stats.processed === 1);
      const loud = watched(database.knex()).queue;
      await loud.sendMessage(note("loud"));
      await until(() => payloads.includes("loud"));
      expect(payloads).not.toContain(to);
    });

    it(
      "listens again after its connection was killed, and looks for what it missed",
      TIMED,
      async () => {
        const { queue } = watched(database.knex());
        const to = mailbox();
        const send = await sender(database, to);
        const worker = queue.work(to, () => undefined, RARELY);
        await until(async () => (await listeners(database)).length === 1);
        for (let round = 1; round <= 2; round++) {
          await listeners(database).select(database.knex().raw("pg_terminate_backend(pid)"));
          await send(1);
          await until(() => worker.stats.processed === round, { timeoutMs: 8_000 });
        }
      },
    );

    it("listens on one connection per process, and on none when nobody waits any more", async () => {
      const first = watched(database.knex()).queue;
      const second = watched(database.knex()).queue;
      const workers = [first, first, second].map((queue) =>
        queue.work(mailbox(), () => undefined, RARELY),
      );
      await until(async () => (await listeners(database)).length === 1);
      await Promise.all(workers.map((worker) => worker.stop()));
      await Promise.all([first.close(), second.close()]);
      await until(async () => (await listeners(database)).length === 0);
    });
  });
});
