import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { elapse, failure, note, watched } from "../support/queue.ts";

eachDatabase("concurrency keys", (database) => {
  const shared = (to: string, concurrencyKey: string, n: number, rest = {}) => ({
    ...note(to, { n }),
    concurrencyKey,
    ...rest,
  });

  it("let one message of a key through at a time, or as many as the mailbox says", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.sendMessages([1, 2, 3, 4, 5].map((n) => shared("a", "t1", n)));
    await queue.sendMessages([6, 7].map((n) => shared("a", "t2", n)));
    const first = await queue.getMessages("a");
    expect(first.map(({ content }) => content)).toEqual([{ n: 1 }, { n: 6 }]);
    expect(await queue.getMessages("a")).toEqual([]);
    await queue.mailboxes.set("a", { keyLimit: 3 });
    const more = await queue.getMessages("a");
    expect(more.map(({ content }) => content)).toEqual([{ n: 2 }, { n: 3 }, { n: 7 }]);
    await queue.mailboxes.set("a", { keyLimit: 1 });
    await queue.ackMessages([...first, ...more.slice(0, 1)]);
    expect(await queue.getMessages("a")).toEqual([]);
    await queue.ackMessages(more.slice(1));
    expect((await queue.getMessages("a")).map(({ content }) => content)).toEqual([{ n: 4 }]);
  });

  it("give their place away while they wait for their next run", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.sendMessages([1, 2].map((n) => shared("a", "k", n)));
    const [first] = await queue.getMessages("a");
    await first?.nack(new Error("no"), { delayMs: 60_000 });
    const [second] = await queue.getMessages("a");
    expect(second?.content).toEqual({ n: 2 });
    await elapse(knex, 60_000, first?.messageId);
    // Due, but its key is taken.
    expect(await queue.getMessages("a")).toEqual([]);
    await second?.ack();
    expect((await queue.getMessages("a")).map(({ content }) => content)).toEqual([{ n: 1 }]);
  });

  it("serve the more important first among those that wait", async () => {
    const { queue } = watched((await database.fresh()).knex);
    await queue.sendMessages([1, 2].map((n) => shared("a", "k", n)));
    await queue.sendMessage(shared("a", "k", 3, { priority: "HIGH" }));
    const [first] = await queue.getMessages("a");
    await first?.ack();
    expect((await queue.getMessages("a")).map(({ content }) => content)).toEqual([{ n: 3 }]);
  });
});

eachDatabase("mailbox settings", (database) => {
  it("age: what waited long enough goes before what is more important", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const { messageId } = await queue.sendMessage({ ...note("a", { n: "old" }), priority: "LOW" });
    await elapse(knex, 130_000, messageId);
    await queue.mailboxes.set("a", { agingMs: 60_000 });
    // Two levels above, so two minutes ahead: the old one has waited longer.
    await queue.sendMessage({ ...note("a", { n: "new" }), priority: "HIGH" });
    await queue.sendMessage({ ...note("a", { n: "urgent" }), priority: "CRITICAL" });
    const order = (await queue.getMessages("a")).map(({ content }) => (content as { n: string }).n);
    expect(order).toEqual(["urgent", "old", "new"]);
    await queue.mailboxes.set("a", { agingMs: null });
    expect(await queue.mailboxes.get("a")).toMatchObject({ agingMs: null, fair: false });
  });

  it("fair turns: a context with many messages does not hold up the others", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.sendMessages(
      Array.from({ length: 6 }, (_, n) => ({ ...note("a", { n }), contextId: "big" })),
    );
    await queue.mailboxes.set("a", { fair: true });
    const served: string[] = [];
    const take = async (limit: number) => {
      const claimed = await queue.getMessages("a", { limit });
      served.push(...claimed.map(({ contextId }) => contextId ?? "none"));
      await queue.ackMessages(claimed);
    };
    await take(2);
    await queue.sendMessages(
      Array.from({ length: 2 }, () => ({ ...note("a"), contextId: "small" })),
    );
    await queue.sendMessage(note("a"));
    await take(10);
    expect(served.slice(0, 2)).toEqual(["big", "big"]);
    // From there on each that waits has its turn.
    expect(new Set(served.slice(2, 5))).toEqual(new Set(["big", "small", "none"]));
    expect(served.filter((context) => context === "big")).toHaveLength(6);
    expect(served.slice(5, 7).sort()).toEqual(["big", "small"]);
  });

  it("fair turns, measured: small contexts are done when each has had its turns", async () => {
    const { queue } = watched((await database.fresh()).knex);
    const send = (to: string, contextId: string, count: number) =>
      queue.sendMessages(
        Array.from({ length: count }, (_, n) => ({ ...note(to, { n }), contextId })),
      );
    const doneAt = async (to: string): Promise<number> => {
      await send(to, "big", 300);
      for (let context = 0; context < 9; context++) await send(to, `small-${context}`, 5);
      const last = new Map<string | null, number>();
      for (let place = 0; ; ) {
        const claimed = await queue.getMessages(to, { limit: 20 });
        if (claimed.length === 0) break;
        for (const { contextId } of claimed) last.set(contextId, ++place);
        await queue.ackMessages(claimed);
      }
      last.delete("big");
      return Math.max(...last.values());
    };
    await queue.mailboxes.set("fair", { fair: true });
    // Ten contexts, five turns each; without turns the small ones come after all of the big one.
    expect(await doneAt("fair")).toBe(50);
    expect(await doneAt("plain")).toBe(345);
  });

  it("aging, measured: under a steady load of HIGH, a LOW message waits two levels' worth and no longer", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.mailboxes.set("a", { agingMs: 1_000_000 });
    const { messageId } = await queue.sendMessage({ ...note("a", { n: "low" }), priority: "LOW" });
    const high = { ...note("a"), priority: "HIGH" as const };
    await queue.sendMessages([high, high, high]);
    let rounds = 0;
    for (let served = false; !served && rounds < 50; rounds++) {
      await queue.sendMessage(high);
      const claimed = await queue.getMessages("a", { limit: 1 });
      served = claimed.some((message) => message.messageId === messageId);
      await queue.ackMessages(claimed);
      // A hundred seconds go by: everything that waits here is older than what will be sent.
      await knex("outbox_messages").update({
        rank: knex.raw("rank - 100000"),
        visible_at: knex.raw("visible_at - 100000"),
      });
    }
    // One comes and one goes per round: after the three, and the twenty of the first two thousand seconds, it is its turn.
    expect(rounds).toBeGreaterThan(20);
    expect(rounds).toBeLessThan(27);
  });

  it("breaker: opens after failures, holds, lets one through, and closes again", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.mailboxes.set("a", { breaker: { failureThreshold: 2, recoveryTimeoutMs: 60_000 } });
    await queue.sendMessages(Array.from({ length: 5 }, (_, n) => note("a", { n })));
    const [one, two] = await queue.getMessages("a", { limit: 2 });
    await one?.nack(new Error("down"), { delayMs: 0 });
    expect((await queue.mailboxes.get("a")).breaker).toMatchObject({
      state: "closed",
      failures: 1,
    });
    await two?.nack(new Error("down"), { delayMs: 0 });
    expect((await queue.mailboxes.get("a")).breaker).toMatchObject({ state: "open" });
    expect(await queue.getMessages("a")).toEqual([]);
    const later = () =>
      knex("outbox_mailboxes").update({ breaker_until: knex.raw("breaker_until - 60000") });
    await later();
    const [probe, ...others] = await queue.getMessages("a");
    expect(others).toEqual([]);
    expect(await queue.getMessages("a")).toEqual([]);
    await probe?.nack(new Error("still down"), { delayMs: 0 });
    expect((await queue.mailboxes.get("a")).breaker).toMatchObject({ state: "open" });
    await later();
    const [again] = await queue.getMessages("a");
    await again?.ack();
    expect((await queue.mailboxes.get("a")).breaker).toMatchObject({ state: "closed" });
    expect(await queue.getMessages("a")).toHaveLength(4);
  });

  it("breaker: refuses sends where it is told to, and says for how long", async () => {
    const { queue } = watched((await database.fresh()).knex);
    await queue.mailboxes.set("a", { breaker: { failureThreshold: 1, whenOpen: "fail" } });
    await queue.sendMessage(note("a"));
    const [claim] = await queue.getMessages("a");
    await claim?.nack(new Error("down"), { delayMs: 60_000 });
    const error = await failure(() => queue.sendMessage(note("a")));
    expect(error).toMatchObject({ code: "CIRCUIT_OPEN", retryable: true });
    expect(error.details.retryAfterMs).toBeGreaterThan(20_000);
    await queue.sendMessage(note("b"));
  });

  it("a dead head halts its key where the mailbox says so, until it is redriven, skipped or discarded", async () => {
    const { queue } = watched((await database.fresh()).knex);
    await queue.mailboxes.set("a", { onDeadLetter: "halt" });
    const ordered = (n: number) => ({ ...note("a", { n }), orderingKey: "k", maxAttempts: 1 });
    await queue.sendMessages([1, 2, 3].map(ordered));
    const next = async () => (await queue.getMessages("a"))[0];
    const first = await next();
    expect(await first?.nack(new Error("no"))).toBe("dead_lettered");
    expect(await next()).toBeUndefined();
    const [halted] = await queue.orderingKeys.halted("a");
    expect(halted).toMatchObject({ orderingKey: "k", sequence: first?.sequence });
    await queue.deadLetters.redrive({ agentId: "a" });
    const again = await next();
    expect(again).toMatchObject({ content: { n: 1 }, sequence: first?.sequence, redriven: 1 });
    await again?.nack(new Error("no"));
    expect(await next()).toBeUndefined();
    expect(await queue.orderingKeys.resume("a", "k")).toBe(true);
    const second = await next();
    expect(second?.content).toEqual({ n: 2 });
    await second?.nack(new Error("no"));
    expect(await next()).toBeUndefined();
    await queue.deadLetters.discard({ messageIds: [second?.messageId ?? ""] });
    expect((await next())?.content).toEqual({ n: 3 });
  });
});
