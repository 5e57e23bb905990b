import { expect, it } from "vitest";
import { admit, type Gate, gateOf } from "../../lib/queue/gates/admission.ts";
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
    const [frozen] = await queue.getMessages("a", { leaseMs: 60_000 });
    await queue.sendMessage({ ...note("a", { n: 2 }), priority: "HIGH" });
    expect(await queue.getMessages("a")).toEqual([]);
    await elapse(knex, 60_000, frozen?.messageId);
    expect(await queue.getMessages("a")).toMatchObject([{ content: { n: 2 } }]);
    expect(await frozen?.extend(60_000)).toBe("stale");
    expect(await frozen?.ack()).toBe("stale");
  });

  it("let through what a bucket holds, and the rest when it has filled up", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    await queue.limits.set("tokens", {
      agentId: "a",
      rate: { amount: 60, perMs: 60_000_000, burst: 10 },
    });
    await queue.sendMessages([4, 4, 4, 1].map((cost) => ({ ...note("a", { cost }), cost })));
    const first = await queue.getMessages("a");
    expect(first.map(({ cost }) => cost)).toEqual([4, 4]);
    // What costs less does not overtake what waits for the same bucket.
    expect(await queue.getMessages("a")).toEqual([]);
    await knex("outbox_limits").update({ refilled_at: knex.raw("refilled_at - 2500000") });
    expect((await queue.getMessages("a")).map(({ cost }) => cost)).toEqual([4]);
    await knex("outbox_limits").update({ refilled_at: knex.raw("refilled_at - 600000000") });
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

  it("are never exceeded by claimers at once", async () => {
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
