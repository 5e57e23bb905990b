import { expect, it, vi } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { elapse, mailbox, note, watched } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";

eachDatabase("claiming", (database) => {
  it("G3: a message never has two valid receipts", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessage(note(to));
    const [first] = await queue.getMessages(to);
    expect(await queue.getMessages(to)).toEqual([]);
    await elapse(database.knex(), 30_001, first?.messageId);
    const [second] = await queue.getMessages(to);
    expect(second?.receipt).toBeGreaterThan(first?.receipt ?? Infinity);
    expect(await first?.ack()).toBe("stale");
    expect(await first?.nack(new Error("late"))).toBe("stale");
    expect(await first?.defer(1)).toBe("stale");
    expect(await first?.extend(60_000)).toBe("stale");
    expect(await first?.deadLetter("late")).toBe("stale");
    expect(
      await queue.markProcessed(String(first?.messageId), to, { receipt: first?.receipt }),
    ).toBe(false);
    expect(await queue.getMessage(String(first?.messageId))).toMatchObject({
      state: "leased",
      attempt: 2,
      lastError: null,
    });
    expect(await second?.ack()).toBe("acked");
    expect(await second?.ack()).toBe("gone");
    expect(await first?.ack()).toBe("gone");
  });

  it("G3: the receipt grows where the attempt is given back, so an old one stays stale", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessage(note(to));
    const [first] = await queue.getMessages(to);
    await first?.defer(0);
    expect(await first?.ack()).toBe("stale");
    const [second] = await queue.getMessages(to);
    expect(second?.attempt).toBe(1);
    expect(second?.receipt).toBeGreaterThan(first?.receipt ?? Infinity);
    expect(await first?.ack()).toBe("stale");
  });

  it("G3: a receipt that nobody was given settles nothing", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    const [claim] = await queue.getMessages(to);
    await claim?.defer(0);
    for (const receipt of [1, 2, 3, 99]) {
      expect(await queue.markProcessed(messageId, to, { receipt })).toBe(false);
    }
    expect(await queue.markProcessed(messageId, to)).toBe(false);
    expect(await queue.getQueueStats(to)).toMatchObject({ pending: 1, leased: 0 });
  });

  it("G4: higher priority first, then order of arrival", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const priorities = [10, 40, 20, 33, 40, 10, 0, 100, 20];
    await queue.sendMessages(priorities.map((priority, n) => ({ ...note(to, { n }), priority })));
    const got = [
      ...(await queue.getMessages(to, { limit: 4 })),
      ...(await queue.getMessages(to, { limit: 100 })),
    ];
    const order = priorities
      .map((priority, n) => ({ priority, n }))
      .sort((a, b) => b.priority - a.priority || a.n - b.n);
    expect(got.map(({ content }) => (content as { n: number }).n)).toEqual(order.map(({ n }) => n));
  });

  it("G4: a message that fell due takes its place by priority among the ready ones", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages([
      { ...note(to, { n: "low" }), priority: "LOW" },
      { ...note(to, { n: "due" }), priority: "HIGH", delayMs: 5_000 },
      { ...note(to, { n: "due low" }), priority: 5, delayMs: 5_000 },
    ]);
    await database
      .knex()("outbox_messages")
      .where({ to_agent: to, state: 1 })
      .update({ visible_at: database.knex().raw("visible_at - 6000"), due_at: 1 });
    const names = [];
    for (let n = 0; n < 3; n++) {
      names.push((await queue.getMessages(to, { limit: 1 })).map(({ content }) => content)[0]);
    }
    expect(names).toEqual([{ n: "due" }, { n: "low" }, { n: "due low" }]);
  });

  it("G6: what a dead worker held is claimable when its lease has passed, without anyone's help", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessage(note(to));
    const [dead] = await queue.getMessages(to, { leaseMs: 3_000 });
    expect(await queue.getMessages(to)).toEqual([]);
    const [again] = await queue.getMessages(to, { waitMs: 4_000 });
    expect(again).toMatchObject({ messageId: dead?.messageId, attempt: 2 });
  });

  it("G8: attempts never pass maxAttempts, also where every run dies without a word", async () => {
    const { queue, named } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage({ ...note(to), maxAttempts: 2 });
    for (const attempt of [1, 2]) {
      expect((await queue.getMessages(to)).map((message) => message.attempt)).toEqual([attempt]);
      await elapse(database.knex(), 30_001, messageId);
    }
    expect(await queue.getMessages(to)).toEqual([]);
    expect(await queue.deadLetters.get(messageId)).toMatchObject({
      reason: "max_attempts",
      attempt: 2,
    });
    expect(named(messageId)).toEqual(["sent", "received", "received", "dead_lettered"]);
  });

  it("G9: an expired message is never handed out and ends in the dead letters", async () => {
    const { queue, named } = watched(database.knex());
    const to = mailbox();
    const claimed = await queue.sendMessage({ ...note(to), ttlMs: 60_000 });
    const swept = await queue.sendMessage({ ...note(mailbox()), ttlMs: 60_000 });
    const fine = await queue.sendMessage({ ...note(to), ttlMs: 600_000 });
    await elapse(database.knex(), 60_001);
    expect((await queue.getMessages(to)).map(({ messageId }) => messageId)).toEqual([
      fine.messageId,
    ]);
    expect((await queue.maintain()).expired).toBe(1);
    for (const { messageId } of [claimed, swept]) {
      expect(await queue.deadLetters.get(messageId)).toMatchObject({
        reason: "expired",
        attempt: 0,
      });
    }
    for (const { messageId } of [claimed, swept]) {
      expect(named(messageId)).toEqual(["sent", "expired", "dead_lettered"]);
    }
  });

  it("G9: time to live counts from when the message becomes available", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessage({ ...note(to), delayMs: 50_000, ttlMs: 10_000 });
    await elapse(database.knex(), 55_000);
    expect(await queue.getMessages(to)).toHaveLength(1);
  });

  it("G10: a client whose clock is wrong by hours changes nothing", async () => {
    const { queue } = watched(database.knex());
    const [past, future] = [mailbox(), mailbox()];
    for (const [to, hours] of [
      [past, -5],
      [future, 5],
    ] as const) {
      vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + hours * 3_600_000 });
      try {
        await queue.sendMessage({ ...note(to), delayMs: 60_000, messageId: `later-${to}` });
        await queue.sendMessage({ ...note(to), ttlMs: 60_000, messageId: `ttl-${to}` });
        const [got] = await queue.getMessages(to, { leaseMs: 60_000 });
        expect(got?.messageId).toBe(`ttl-${to}`);
        expect(await queue.getMessages(to)).toEqual([]);
        expect(await got?.extend(60_000)).toBe("extended");
        const clock = Number((await queue.getMessage(`ttl-${to}`))?.visibleAt);
        vi.useRealTimers();
        expect(Math.abs(clock - Date.now() - 60_000)).toBeLessThan(20_000);
        expect(await got?.ack()).toBe("acked");
      } finally {
        vi.useRealTimers();
      }
    }
  });

  it("claims only the types asked for, and leaves the others in their order", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages(
      ["A", "B", "A", "C"].map((messageType) => ({ ...note(to), messageType })),
    );
    const some = await queue.getMessages(to, { messageTypes: ["A", "C"] });
    expect(some.map(({ messageType }) => messageType)).toEqual(["A", "A", "C"]);
    expect((await queue.getMessages(to)).map(({ messageType }) => messageType)).toEqual(["B"]);
  });

  it("hands out nothing of a paused mailbox, in any form, until it is resumed", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.pause(to, { reason: "maintenance" });
    await queue.pause(to, { reason: "maintenance" });
    await queue.sendMessages([note(to), { ...note(to), delayMs: 5 }]);
    await elapse(database.knex(), 10);
    expect(await queue.getMessages(to)).toEqual([]);
    const { messageId } = await queue.sendMessage(note(to));
    expect(await queue.why(messageId)).toMatchObject([
      { state: "paused", reason: expect.stringContaining("maintenance") },
    ]);
    expect((await queue.getQueueStats(to)).paused).toBe(true);
    expect(await queue.resume(to)).toBe(true);
    expect(await queue.resume(to)).toBe(false);
    expect(await queue.getMessages(to)).toHaveLength(3);
  });

  it("waits for a message and returns as soon as one is sent", TIMED, async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const since = performance.now();
    const waiting = queue.getMessages(to, { waitMs: 20_000 });
    await queue.sendMessage(note(to));
    expect(await waiting).toHaveLength(1);
    expect(performance.now() - since).toBeLessThan(5_000);
    expect(await queue.getMessages(to, { waitMs: 10 })).toEqual([]);
  });

  it("two mailboxes whose names differ in case only are two", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("Case");
    await queue.sendMessage(note(to));
    expect(await queue.getMessages(to.toUpperCase())).toEqual([]);
    expect(await queue.getMessages(to)).toHaveLength(1);
  });

  it("concurrent claims hand out each message once", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages(Array.from({ length: 300 }, (_, n) => note(to, { n })));
    const seen: number[] = [];
    await Promise.all(
      Array.from({ length: 8 }, async () => {
        // A claim may come back short while others hold rows: only the archive tells that all are done.
        while ((await queue.getQueueStats(to)).pending > 0) {
          const got = await queue.getMessages(to, { limit: 13 });
          seen.push(...got.map(({ content }) => (content as { n: number }).n));
          await queue.ackMessages(got);
        }
      }),
    );
    expect(seen.sort((a, b) => a - b)).toEqual(Array.from({ length: 300 }, (_, n) => n));
  });
});
