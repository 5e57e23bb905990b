import knexOf from "knex";
import { describe, expect, it, onTestFinished } from "vitest";
import { knexConfig, MessageQueueManager } from "../../lib/index.ts";
import { connect } from "../../lib/store/connect.ts";
import { eachDatabase } from "../support/databases.ts";
import { mailbox, note } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";

interface Tarn {
  on(event: string, call: () => void): void;
  numUsed(): number;
}

eachDatabase("the connections of statements that run past knex", (database) => {
  // SQL Server's statements all go through knex.
  const there = database.dialect !== "mssql";

  /** A pool of the test's own, and how often it was asked for a connection. */
  async function pooled(max: number) {
    const { url } = await database.fresh();
    const pool = { pool: { min: 0, max }, acquireConnectionTimeout: 5_000 };
    // On SQLite only connections of our own are used past knex; a pool has one.
    const knex =
      database.dialect === "sqlite" ? connect(url).knex : knexOf({ ...knexConfig(url), ...pool });
    const queue = new MessageQueueManager(knex, { notify: false });
    onTestFinished(async () => {
      await queue.close();
      await knex.destroy();
    });
    const tarn = (knex.client as { pool: Tarn }).pool;
    const asked = { times: 0 };
    tarn.on("acquireRequest", () => {
      asked.times += 1;
    });
    return { knex, queue, tarn, asked };
  }

  it.skipIf(!there)("stay from one statement to the next", TIMED, async () => {
    const { queue, asked } = await pooled(4);
    const to = mailbox();
    await queue.sendMessage(note(to));
    const before = asked.times;
    for (let n = 0; n < 20; n++) await queue.sendMessage(note(to));
    // Settings are looked for now and then, past which none is kept.
    expect(asked.times - before).toBeLessThan(5);
  });

  it("are there for whoever else asks the pool, also where it has but one", async () => {
    const { knex, queue } = await pooled(1);
    const to = mailbox();
    for (let n = 0; n < 5; n++) {
      await queue.sendMessage(note(to));
      await knex.raw("SELECT 1");
      await knex.transaction(async (trx) => {
        await queue.sendMessage(note(to), { tx: trx });
      });
    }
    const sends = Array.from({ length: 50 }, () => queue.sendMessage(note(to)));
    const others = Array.from({ length: 50 }, () => knex.raw("SELECT 1"));
    await Promise.all([...sends, ...others]);
    expect(await queue.getMessages(to, { limit: 100 })).toHaveLength(60);
  });

  it("go back to the pool when nothing comes", async () => {
    const { queue, tarn } = await pooled(2);
    await queue.sendMessage(note(mailbox()));
    await expect.poll(() => tarn.numUsed(), { timeout: 5_000 }).toBe(0);
  });

  it.skipIf(database.dialect !== "postgres")(
    "are replaced when they have been ended meanwhile",
    async () => {
      const { knex, queue } = await pooled(1);
      const to = mailbox();
      await queue.sendMessage(note(to));
      await database
        .knex()
        .raw(
          "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ? AND pid <> pg_backend_pid()",
          [(await knex.raw("SELECT current_database() AS name")).rows[0].name],
        );
      // One may be on its way before the news of the end is here.
      await queue.sendMessage(note(mailbox())).catch(() => undefined);
      for (let n = 0; n < 3; n++) await queue.sendMessage(note(to));
      expect(await queue.getMessages(to, { limit: 10 })).toHaveLength(4);
    },
  );

  describe("and a pool that is destroyed", () => {
    it("waits for none of them", TIMED, async () => {
      const { knex, queue } = await pooled(2);
      await queue.sendMessage(note(mailbox()));
      const since = performance.now();
      await knex.destroy();
      expect(performance.now() - since).toBeLessThan(500);
    });

    it("gets back what is in use as soon as it has ended", TIMED, async () => {
      const { knex, queue } = await pooled(2);
      const to = mailbox();
      await queue.sendMessage(note(to));
      const sent = queue.sendMessage(note(to));
      await new Promise(setImmediate);
      const since = performance.now();
      await Promise.all([sent, knex.destroy()]);
      expect(performance.now() - since).toBeLessThan(900);
    });
  });
});
