import { expect, it, onTestFinished } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { elapse, failure, note, watched } from "../support/queue.ts";

eachDatabase("what must hold between settings", (database) => {
  it("fair turns hold for each priority by itself", async () => {
    const { queue } = watched((await database.fresh()).knex);
    await queue.mailboxes.set("a", { fair: true });
    const of = (contextId: string, priority: "HIGH" | "LOW", count: number) =>
      queue.sendMessages(
        Array.from({ length: count }, (_, n) => ({ ...note("a", { n }), contextId, priority })),
      );
    await of("big", "HIGH", 40);
    await queue.ackMessages(await queue.getMessages("a", { limit: 40 }));
    await of("big", "LOW", 20);
    await of("new", "LOW", 2);
    const served = (await queue.getMessages("a", { limit: 22 })).map(({ contextId }) => contextId);
    expect(served.slice(0, 4)).toEqual(["big", "new", "big", "new"]);
  });

  it("what is redriven takes the place that its mailbox gives it", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.mailboxes.set("aged", { agingMs: 60_000 });
    await queue.mailboxes.set("fair", { fair: true });
    for (const to of ["aged", "fair"]) {
      await queue.sendMessage({ ...note(to, { n: "dead" }), priority: 10, contextId: "d" });
      const [claim] = await queue.getMessages(to);
      await claim?.deadLetter("broken");
      await queue.sendMessage({ ...note(to, { n: "important" }), priority: 90, contextId: "i" });
      await queue.deadLetters.redrive({ agentId: to });
      const order = (await queue.getMessages(to)).map(({ content }) => content);
      expect(order).toEqual([{ n: "important" }, { n: "dead" }]);
    }
  });

  it.skipIf(database.dialect === "sqlite")(
    "the first message under a concurrency key disturbs no transaction of another",
    async () => {
      const { knex } = await database.fresh();
      const { queue } = watched(knex);
      const one = await knex.transaction();
      const two = await knex.transaction();
      onTestFinished(async () => {
        for (const tx of [one, two]) if (!tx.isCompleted()) await tx.rollback();
      });
      await queue.sendMessage({ ...note("a", { n: 1 }), concurrencyKey: "x" }, { tx: one });
      const second = queue.sendMessage(
        { ...note("a", { n: 2 }), concurrencyKey: "y" },
        { tx: two },
      );
      await one.commit();
      await second;
      await two.commit();
      expect(await queue.getMessages("a")).toHaveLength(2);
    },
  );

  it("a claim is not lost over a doomed message whose key a sender holds", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.sendMessage({ ...note("a", { n: 1 }), orderingKey: "k", maxAttempts: 1 });
    await queue.sendMessages([note("a", { n: 2 }), note("a", { n: 3 })]);
    const [first] = await queue.getMessages("a", { limit: 1 });
    await elapse(knex, 60_000, first?.messageId);
    if (database.dialect === "sqlite") {
      // One writer at a time: nobody can hold a key while another claims.
      expect(await queue.getMessages("a")).toHaveLength(2);
      return;
    }
    const tx = await knex.transaction();
    onTestFinished(async () => {
      await tx.rollback();
    });
    await queue.sendMessage({ ...note("a", { n: 4 }), orderingKey: "k" }, { tx });
    const begun = performance.now();
    expect((await queue.getMessages("a")).map(({ content }) => content)).toEqual([
      { n: 2 },
      { n: 3 },
    ]);
    expect(performance.now() - begun).toBeLessThan(4_000);
  });
});

eachDatabase("limits that change", (database) => {
  it("a name can be used anew for another mailbox, and what waited under the old limit goes on", async () => {
    const { queue } = watched((await database.fresh()).knex);
    await queue.limits.set("x", { agentId: "a", messageType: "NOTE", maxInFlight: 1 });
    await queue.sendMessages([note("a"), note("a"), note("a")]);
    expect(await queue.getMessages("a")).toHaveLength(1);
    await queue.limits.remove("x");
    await queue.limits.set("x", { agentId: "b", messageType: "OTHER", maxInFlight: 1 });
    expect(await queue.getMessages("a")).toHaveLength(2);
    const error = await failure(() => queue.limits.set("x", { agentId: "c", maxInFlight: 1 }));
    expect(error.code).toBe("VALIDATION_FAILED");
  });

  it("count anew what was handed out again while they did not count", async () => {
    const { queue } = watched((await database.fresh()).knex);
    const rate = { amount: 1_000, perMs: 1_000 };
    await queue.limits.set("x", { agentId: "a", maxInFlight: 2 });
    await queue.sendMessages([note("a"), note("a"), note("a"), note("a")]);
    const first = await queue.getMessages("a");
    await queue.limits.set("x", { agentId: "a", rate });
    for (const claim of first) await claim.defer(0);
    expect(await queue.getMessages("a", { limit: 2 })).toHaveLength(2);
    await queue.limits.set("x", { agentId: "a", maxInFlight: 2 });
    expect(await queue.getMessages("a")).toEqual([]);
  });

  it("a sender of a concurrency key does not open the gate", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const other = watched(knex).queue;
    // It knows of no limit yet.
    await other.sendMessage(note("a"));
    await queue.limits.set("x", { agentId: "a", maxInFlight: 1 });
    await other.sendMessage({ ...note("a"), concurrencyKey: "k" });
    await other.sendMessage(note("a"));
    expect(await queue.getMessages("a")).toHaveLength(1);
    expect(await queue.getMessages("a")).toEqual([]);
  });
});
