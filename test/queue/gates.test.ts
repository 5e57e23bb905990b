import { expect, it } from "vitest";
import { admit, type Gate, gateOf } from "../../lib/queue/admission.ts";
import { eachDatabase } from "../support/databases.ts";
import { elapse, failure, note, watched } from "../support/queue.ts";

const typed = (to: string, messageType: string, rest = {}) => ({
  ...{ toAgent: to, messageType, content: { messageType } },
  ...rest,
});
const types = (claimed: readonly { messageType: string }[]) =>
  claimed.map(({ messageType }) => messageType);

eachDatabase("limits", (database) => {
  it("never let more be in flight than the mailbox may have", async () => {
    const { queue } = watched((await database.fresh()).knex);
    await queue.limits.set("few", { agentId: "a", maxInFlight: 2 });
    await queue.sendMessages(Array.from({ length: 5 }, (_, n) => note("a", { n })));
    const first = await queue.getMessages("a");
    expect(first).toHaveLength(2);
    expect(await queue.getMessages("a")).toEqual([]);
    expect(await queue.limits.get("few")).toMatchObject({ inFlight: 2, maxInFlight: 2 });
    await first[0]?.ack();
    expect(await queue.getMessages("a")).toHaveLength(1);
    await first[1]?.nack(new Error("no"), { delayMs: 60_000 });
    expect(await queue.getMessages("a")).toHaveLength(1);
    expect(await queue.getMessages("a")).toEqual([]);
  });

  it("count what is in flight already, and change while everything runs", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.sendMessages(Array.from({ length: 9 }, (_, n) => note("a", { n })));
    const before = await queue.getMessages("a", { limit: 2 });
    await queue.limits.set("few", { agentId: "a", maxInFlight: 3 });
    expect(await queue.getMessages("a")).toHaveLength(1);
    await queue.limits.set("few", { agentId: "a", maxInFlight: 5 });
    expect(await queue.getMessages("a")).toHaveLength(2);
    await queue.limits.set("few", { agentId: "a", maxInFlight: 1 });
    await queue.ackMessages(before);
    expect(await queue.getMessages("a")).toEqual([]);
    expect(await queue.limits.remove("few")).toBe(true);
    expect(await queue.limits.remove("few")).toBe(false);
    expect(await queue.getMessages("a")).toHaveLength(4);
  });

  it("hold back a type without holding up the others, also behind a backlog of it", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    // Sent before there is a limit: they lie among the others.
    await queue.sendMessages(Array.from({ length: 30 }, () => typed("a", "slow")));
    await queue.limits.set("slow-ones", { agentId: "a", messageType: "slow", maxInFlight: 1 });
    await queue.sendMessages(Array.from({ length: 30 }, () => typed("a", "slow")));
    await queue.sendMessages([typed("a", "quick"), typed("a", "quick")]);
    const claimed = await queue.getMessages("a", { limit: 3 });
    const more = await queue.getMessages("a", { limit: 3 });
    expect([...types(claimed), ...types(more)].sort()).toEqual(["quick", "quick", "slow"]);
    expect(await queue.getMessages("a", { limit: 3 })).toEqual([]);
    await queue.ackMessages([...claimed, ...more]);
    expect(types(await queue.getMessages("a", { limit: 3 }))).toEqual(["slow"]);
  });

  it("go across mailboxes where they name none", async () => {
    const { queue } = watched((await database.fresh()).knex);
    await queue.limits.set("all", { maxInFlight: 3 });
    await queue.sendMessages(["a", "a", "b", "b"].map((to) => note(to)));
    expect(await queue.getMessages("a")).toHaveLength(2);
    expect(await queue.getMessages("b")).toHaveLength(1);
    expect(await queue.getMessages("b")).toEqual([]);
  });

  it("void a lease that has passed as soon as another takes its place", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.limits.set("one", { agentId: "a", maxInFlight: 1 });
    await queue.sendMessage({ ...note("a", { n: 1 }), priority: "LOW" });
    const [frozen] = await queue.getMessages("a", { leaseMs: 1_000 });
    await queue.sendMessage({ ...note("a", { n: 2 }), priority: "HIGH" });
    expect(await queue.getMessages("a")).toEqual([]);
    await elapse(knex, 1_000, frozen?.messageId);
    expect(await queue.getMessages("a")).toMatchObject([{ content: { n: 2 } }]);
    expect(await frozen?.extend(60_000)).toBe("stale");
    expect(await frozen?.ack()).toBe("stale");
  });

  it("let through what a bucket holds, and the rest when it has filled up", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.limits.set("tokens", {
      agentId: "a",
      rate: { amount: 60, perMs: 60_000, burst: 10 },
    });
    await queue.sendMessages([4, 4, 4, 1].map((cost) => ({ ...note("a", { cost }), cost })));
    const first = await queue.getMessages("a");
    expect(first.map(({ cost }) => cost)).toEqual([4, 4]);
    // What costs less does not overtake what waits for the same bucket.
    expect(await queue.getMessages("a")).toEqual([]);
    await knex("outbox_limits").update({ refilled_at: knex.raw("refilled_at - 2500") });
    expect((await queue.getMessages("a")).map(({ cost }) => cost)).toEqual([4]);
    await knex("outbox_limits").update({ refilled_at: knex.raw("refilled_at - 600000") });
    expect((await queue.limits.get("tokens"))?.tokens).toBe(10);
    expect((await queue.getMessages("a")).map(({ cost }) => cost)).toEqual([1]);
    expect(await queue.limits.charge("tokens", 12)).toBe(true);
    expect((await queue.limits.get("tokens"))?.tokens).toBeLessThan(-2.9);
    await queue.sendMessage(note("a"));
    expect(await queue.getMessages("a")).toEqual([]);
  });

  it("wait as long as the other side said", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.limits.set("api", { agentId: "a", rate: { amount: 10, perMs: 1_000 } });
    await queue.limits.park("api", 60_000);
    await queue.sendMessage(note("a"));
    expect(await queue.getMessages("a")).toEqual([]);
    expect((await queue.limits.get("api"))?.parkedUntil).toBeGreaterThan(0);
    await knex("outbox_limits").update({ parked_until: knex.raw("parked_until - 60000") });
    expect(await queue.getMessages("a")).toHaveLength(1);
  });

  it("G3: are never exceeded by claimers at once", async () => {
    const { url, knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.limits.set("five", { agentId: "a", maxInFlight: 5 });
    await queue.limits.set("ten", { rate: { amount: 1, perMs: 86_400_000, burst: 40 } });
    await queue.sendMessages(Array.from({ length: 60 }, (_, n) => note("a", { n })));
    expect(url).toBeTruthy();
    const queues = Array.from({ length: 4 }, () => watched(knex).queue);
    let inFlight = 0;
    let most = 0;
    let done = 0;
    await Promise.all(
      queues.map(async (one) => {
        for (let idle = 0; idle < 20; ) {
          const claimed = await one.getMessages("a", { limit: 4 });
          idle = claimed.length === 0 ? idle + 1 : 0;
          inFlight += claimed.length;
          most = Math.max(most, inFlight);
          for (const message of claimed) {
            inFlight -= 1;
            done += 1;
            await message.ack();
          }
        }
      }),
    );
    expect(most).toBeLessThanOrEqual(5);
    expect(done).toBe(40);
  });

  it("G13: refuse what makes no sense", async () => {
    const { queue } = watched(database.knex());
    for (const wrong of [
      {},
      { agentId: "a" },
      { maxInFlight: 0 },
      { rate: { amount: -1, perMs: 1 } },
      { maxInFlight: 1, unknown: true },
    ]) {
      const error = await failure(() => queue.limits.set("x", wrong));
      expect(error.code).toBe("VALIDATION_FAILED");
    }
  });
});

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

it("an oversized cost passes a full bucket once, and leaves a debt", () => {
  const limit = {
    ...{ name: "l", rate: { amount: 10, perMs: 1_000, burst: 10 } },
    ...{ tokens: null, refilledAt: null, parkedUntil: null, removedAt: null },
  };
  const gate: Gate = gateOf(limit, 0, 0);
  const big = { seq: 1, rank: 1, lane: "", message_type: "t", cost: 25, doomed: false };
  expect(admit([big, { ...big, seq: 2 }], [gate], 10, 0)).toMatchObject({
    taken: [{ seq: 1 }],
    refused: [{ seq: 2 }],
    retryAt: 2_500,
  });
});
