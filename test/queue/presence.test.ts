import type { Knex } from "knex";
import { expect, it } from "vitest";
import { MessageQueueManager } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { failure, note, watched } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";

/** Statements about consumers from now on. */
function counted(knex: Knex): string[] {
  const asked: string[] = [];
  knex.on("query", ({ sql }: { sql: string }) => {
    if (sql.includes("outbox_consumers") && !/^select/i.test(sql)) asked.push(sql);
  });
  return asked;
}

eachDatabase("consumers", (database) => {
  it("a worker is one while it runs, with the types that it takes", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const before = Date.now();
    const worker = queue.work("a", () => undefined, { messageTypes: ["T", "U"], workerId: "w1" });
    const other = queue.work("b", () => undefined, { workerId: "w2" });
    await until(async () => (await queue.consumers()).length === 2);
    const [one] = await queue.consumers("a");
    expect(one).toEqual({
      ...{ agentId: "a", workerId: "w1", messageTypes: ["T", "U"], live: true },
      seenAt: expect.any(Number),
    });
    expect(Math.abs((one?.seenAt ?? 0) - before)).toBeLessThan(60_000);
    expect(await queue.consumers("b")).toMatchObject([{ workerId: "w2", messageTypes: null }]);
    expect((await queue.getQueueStats("a")).consumers).toBe(1);
    expect((await queue.getQueueStats()).consumers).toBe(2);
    await worker.stop();
    expect(await queue.consumers("a")).toEqual([]);
    await other.stop();
  });

  it("a worker costs one statement to begin with, and notes itself a few times a minute", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const asked = counted(knex);
    const worker = queue.work("a", () => undefined, { pollMs: { min: 5, max: 10 } });
    await until(async () => (await queue.consumers()).length === 1);
    await queue.sendMessages(Array.from({ length: 200 }, (_, n) => note("a", { n })));
    await until(() => worker.stats.processed === 200);
    expect(asked).toHaveLength(1);
    await worker.stop();
    expect(asked).toHaveLength(2);
  });

  it(
    "one that was not seen for 45 seconds is not live any more, but known still",
    TIMED,
    async () => {
      const { knex } = await database.fresh();
      const { queue } = watched(knex);
      await queue.getMessages("a", { workerId: "w1" });
      await until(async () => (await queue.consumers()).length === 1);
      const later = (ms: number) =>
        knex("outbox_consumers").update({ seen_at: knex.raw("seen_at - ?", [ms]) });
      await later(40_000);
      expect(await queue.consumers()).toMatchObject([{ workerId: "w1", live: true }]);
      await later(6_000);
      expect(await queue.consumers()).toMatchObject([{ workerId: "w1", live: false }]);
      expect((await queue.getQueueStats("a")).consumers).toBe(0);
    },
  );

  it("callers of getMessages are noted once in a while, with all the types that they ask for", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const asked = counted(knex);
    for (let n = 0; n < 30; n++) await queue.getMessages("a", { messageTypes: ["T"] });
    await until(async () => (await queue.consumers()).length === 1);
    await queue.getMessages("b");
    await until(async () => (await queue.consumers()).length === 2);
    expect(asked).toHaveLength(2);
    await queue.getMessages("a", { messageTypes: ["U"] });
    await until(async () => (await queue.consumers("a"))[0]?.messageTypes?.length === 2);
    expect(asked).toHaveLength(3);
    await queue.getMessages("a");
    await until(async () => (await queue.consumers("a"))[0]?.messageTypes === null);
    await queue.getMessages("a", { messageTypes: ["V"] });
    expect(asked).toHaveLength(4);
  });

  it(
    "callers of many mailboxes are noted together, whoever noted some of them before",
    TIMED,
    async () => {
      const { knex } = await database.fresh();
      const { queue } = watched(knex);
      const { queue: other } = watched(knex);
      const asked = counted(knex);
      const mailboxes = Array.from({ length: 12 }, (_, n) => `box-${n}`);
      const calls = (by: MessageQueueManager, of: readonly string[], messageTypes?: string[]) =>
        Promise.all(of.map((to) => by.getMessages(to, { workerId: "w", messageTypes })));
      await calls(queue, mailboxes.slice(0, 10));
      await until(async () => (await queue.consumers()).length === 10);
      expect(asked.length).toBeLessThan(5);
      // It cannot know that some are there.
      await calls(other, mailboxes, ["T"]);
      await calls(other, mailboxes.slice(0, 1), ["U"]);
      const typed = async () =>
        (await queue.consumers()).filter(({ messageTypes }) => messageTypes !== null).length;
      await until(async () => (await typed()) === 12);
      expect((await queue.consumers("box-0"))[0]?.messageTypes).toEqual(["T", "U"]);
      expect(new Set((await queue.consumers()).map(({ agentId }) => agentId))).toEqual(
        new Set(mailboxes),
      );
    },
  );

  it("a caller with an id of its own for each call does not fill the list", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    for (let n = 0; n < 40; n++) await queue.getMessages("a", { workerId: `w${n}` });
    await until(async () => (await queue.consumers("a")).length >= 10);
    await queue.close();
    const rest = watched(knex).queue;
    expect(await rest.consumers("a")).toEqual([]);
  });

  it("closing the queue takes its callers off the list, and no others", async () => {
    const { knex } = await database.fresh();
    const queue = new MessageQueueManager(knex);
    const { queue: other } = watched(knex);
    await queue.getMessages("a", { workerId: "mine" });
    await other.getMessages("a", { workerId: "other" });
    await queue.close();
    await until(async () => (await other.consumers()).length === 1);
    expect(await other.consumers()).toMatchObject([{ workerId: "other" }]);
  });

  it("what cannot be noted costs no claim and no stop", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.sendMessages([note("a"), note("a")]);
    await knex.schema.dropTable("outbox_consumers");
    expect(await queue.getMessages("a", { limit: 1 })).toHaveLength(1);
    const worker = queue.work("a", () => undefined);
    await until(() => worker.stats.processed === 1);
    await worker.stop();
  });

  it("G13: refuses an id that is none", async () => {
    const { queue } = watched(database.knex());
    expect((await failure(() => queue.consumers(""))).code).toBe("VALIDATION_FAILED");
  });
});
