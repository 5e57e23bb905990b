import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { elapse, mailbox, note, watched } from "../support/queue.ts";

eachDatabase("stats and why", (database) => {
  it("tells the depth of one mailbox and of all", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const [a, b] = [mailbox(), mailbox()];
    await queue.sendMessages([note(a), note(a), note(a), { ...note(a), delayMs: 60_000 }, note(b)]);
    const claims = await queue.getMessages(a, { limit: 2 });
    await claims[0]?.deadLetter("rejected");
    expect(await queue.getQueueStats(a)).toMatchObject({
      pending: 1,
      leased: 1,
      scheduled: 1,
      blocked: 0,
      dead: 1,
      capped: false,
      paused: false,
    });
    await claims[1]?.ack();
    const all = await queue.getQueueStats();
    expect(all).toMatchObject({
      pending: 2,
      leased: 0,
      scheduled: 1,
      dead: 1,
      messagesPerMinute: 1,
    });
    expect(all.oldestAgeMs).toBeGreaterThanOrEqual(0);
    expect((await queue.getQueueStats(mailbox())).oldestAgeMs).toBeNull();
  });

  it("stops counting at its bound", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const to = mailbox();
    await queue.sendMessages(Array.from({ length: 10_050 }, () => note(to)));
    expect(await queue.getQueueStats(to)).toMatchObject({ pending: 10_000, capped: true });
  });

  it("says why a message is where it is", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const why = async (messageId: string) => (await queue.why(messageId))[0];
    expect(await why("never-seen")).toMatchObject({ state: "unknown", toAgent: null });
    const { messageId } = await queue.sendMessage({ ...note(to), delayMs: 60_000 });
    expect(await why(messageId)).toMatchObject({ state: "scheduled", until: expect.any(Number) });
    await elapse(database.knex(), 60_001, messageId);
    expect(await why(messageId)).toMatchObject({ state: "ready", toAgent: to });
    const [claim] = await queue.getMessages(to, { workerId: "worker-7" });
    expect(await why(messageId)).toMatchObject({
      state: "leased",
      reason: expect.stringContaining("worker-7"),
    });
    await claim?.nack(new Error("no paper"), { delayMs: 60_000 });
    expect(await why(messageId)).toMatchObject({
      state: "scheduled",
      reason: expect.stringContaining("no paper"),
    });
    await elapse(database.knex(), 60_001, messageId);
    const [second] = await queue.getMessages(to);
    await elapse(database.knex(), 30_001, messageId);
    expect(await why(messageId)).toMatchObject({
      state: "ready",
      reason: expect.stringContaining("passed"),
    });
    await second?.ack();
    expect(await why(messageId)).toMatchObject({ state: "processed", remedy: expect.any(String) });
    const expiring = await queue.sendMessage({ ...note(to), ttlMs: 1_000 });
    await elapse(database.knex(), 1_001, expiring.messageId);
    expect(await why(expiring.messageId)).toMatchObject({ state: "expired" });
    await queue.getMessages(to);
    expect(await why(expiring.messageId)).toMatchObject({
      state: "dead",
      reason: expect.stringContaining("expired"),
    });
  });

  it("says it for each recipient", async () => {
    const { queue } = watched(database.knex());
    const [a, b] = [mailbox(), mailbox()];
    const { messageId } = await queue.sendMessage({ ...note(a), toAgent: [a, b] });
    await (await queue.getMessages(a))[0]?.ack();
    const states = (await queue.why(messageId)).map(({ toAgent, state }) => [toAgent, state]);
    expect(states).toEqual([
      [b, "ready"],
      [a, "processed"],
    ]);
  });

  it("knows whether the database answers", async () => {
    const { queue } = watched(database.knex());
    expect(await queue.isConnected()).toBe(true);
    await queue.close();
    expect(await queue.isConnected()).toBe(false);
  });
});
