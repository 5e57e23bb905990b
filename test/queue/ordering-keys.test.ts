import { expect, it, onTestFinished } from "vitest";
import type { ClaimedMessage } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { elapse, mailbox, watched } from "../support/queue.ts";

const step = (to: string, orderingKey: string | undefined, n: number, rest = {}) => ({
  ...{ toAgent: to, messageType: "STEP", content: { n, key: orderingKey ?? null } },
  ...(orderingKey === undefined ? {} : { orderingKey }),
  ...rest,
});

const numbers = (claimed: readonly ClaimedMessage[]) =>
  claimed.map(({ content }) => (content as { n: number }).n);

eachDatabase("ordering keys", (database) => {
  it("G4: hand out a key's messages one at a time, in the order of their sequence", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages([1, 2, 3].map((n) => step(to, "order-1", n)));
    const sequences: number[] = [];
    for (const n of [1, 2, 3]) {
      const claimed = await queue.getMessages(to);
      expect(numbers(claimed)).toEqual([n]);
      expect(claimed[0]?.orderingKey).toBe("order-1");
      sequences.push(claimed[0]?.sequence ?? 0);
      expect(await queue.getMessages(to)).toEqual([]);
      expect(await claimed[0]?.ack()).toBe("acked");
    }
    expect(sequences).toEqual([...sequences].sort((a, b) => a - b));
    expect(await database.knex()("outbox_keys").where({ to_agent: to })).toEqual([]);
  });

  it("leave room for everything else: a hot key takes one place of a claim", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages(Array.from({ length: 60 }, (_, n) => step(to, "hot", n)));
    await queue.sendMessages([100, 101].map((n) => step(to, undefined, n)));
    await queue.sendMessages(["a", "b", "c"].map((key, n) => step(to, key, 200 + n)));
    expect(numbers(await queue.getMessages(to, { limit: 6 }))).toEqual([
      0, 100, 101, 200, 201, 202,
    ]);
  });

  it("belong to a mailbox: the same key elsewhere is another one", async () => {
    const { queue } = watched(database.knex());
    const [one, two] = [mailbox(), mailbox()];
    await queue.sendMessage({ ...step(one, "k", 1), toAgent: [one, two] });
    await queue.sendMessage(step(two, "k", 2));
    expect(numbers(await queue.getMessages(one))).toEqual([1]);
    expect(numbers(await queue.getMessages(two))).toEqual([1]);
  });

  it("G4: keep the order over retries, deferrals, lapsed leases and several claimers", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages([1, 2].map((n) => step(to, "k", n)));
    const [first] = await queue.getMessages(to);
    expect(await first?.nack(new Error("not yet"), { delayMs: 60_000 })).toBe("retried");
    expect(await queue.getMessages(to)).toEqual([]);
    await elapse(database.knex(), 60_000, first?.messageId);
    const [second] = await queue.getMessages(to);
    expect(numbers(second === undefined ? [] : [second])).toEqual([1]);
    expect(await second?.defer(60_000)).toBe("deferred");
    expect(await queue.getMessages(to)).toEqual([]);
    await elapse(database.knex(), 60_000, first?.messageId);
    expect(numbers(await queue.getMessages(to, { leaseMs: 5_000 }))).toEqual([1]);
    await elapse(database.knex(), 5_000, first?.messageId);
    const [last] = await queue.getMessages(to);
    expect(numbers(last === undefined ? [] : [last])).toEqual([1]);
    expect(await last?.ack()).toBe("acked");
    expect(numbers(await queue.getMessages(to))).toEqual([2]);
  });

  it("a delayed head holds its key, and priority does not change the order within it", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(step(to, "k", 1, { delayMs: 60_000 }));
    await queue.sendMessage(step(to, "k", 2, { priority: "CRITICAL" }));
    expect(await queue.getMessages(to)).toEqual([]);
    await elapse(database.knex(), 60_000, messageId);
    const [first] = await queue.getMessages(to);
    expect(numbers(first === undefined ? [] : [first])).toEqual([1]);
    await first?.ack();
    expect(numbers(await queue.getMessages(to))).toEqual([2]);
  });

  it("go on after a dead letter, a cancellation, and an expired head", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const sent = await queue.sendMessages([
      step(to, "k", 1, { maxAttempts: 1 }),
      step(to, "k", 2),
      step(to, "k", 3, { ttlMs: 5_000 }),
      step(to, "k", 4, { ttlMs: 5_000 }),
      step(to, "k", 5),
    ]);
    const [first] = await queue.getMessages(to);
    expect(await first?.nack(new Error("no"))).toBe("dead_lettered");
    expect(await queue.cancelMessage(sent[1]?.messageId ?? "")).toBe(true);
    await elapse(database.knex(), 6_000, sent[2]?.messageId);
    await elapse(database.knex(), 6_000, sent[3]?.messageId);
    // The head is met by the claim, what waits behind it by the upkeep.
    await queue.maintain();
    expect(numbers(await queue.getMessages(to))).toEqual([5]);
    const dead = await queue.deadLetters.list({ agentId: to });
    expect(dead.map(({ reason }) => reason)).toEqual(["max_attempts", "expired", "expired"]);
  });

  it("a duplicate of a key's message is dropped", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessage(step(to, "k", 1, { messageId: `${to}-1` }));
    const again = await queue.sendMessage(step(to, "k", 1, { messageId: `${to}-1` }));
    expect(again.duplicate).toBe(true);
    const [first] = await queue.getMessages(to);
    await first?.ack();
    expect(await queue.getMessages(to)).toEqual([]);
  });

  it("cannot be given together with a concurrency key", async () => {
    const { queue } = watched(database.knex());
    await expect(
      queue.sendMessage(step(mailbox(), "k", 1, { concurrencyKey: "c" })),
    ).rejects.toMatchObject({ code: "VALIDATION_FAILED" });
  });

  it.skipIf(database.dialect === "sqlite")(
    "G4: the order of two senders is the order of their commits",
    async () => {
      const { knex } = await database.fresh();
      const { queue } = watched(knex);
      const slow = await knex.transaction();
      onTestFinished(async () => {
        if (!slow.isCompleted()) await slow.rollback();
      });
      await queue.sendMessage(step("a", "k", 1), { tx: slow });
      const other = queue.sendMessage(step("a", "k", 2));
      const elsewhere = await queue.sendMessage(step("a", "another", 3));
      expect(elsewhere.duplicate).toBe(false);
      await slow.commit();
      await other;
      const seen: number[] = [];
      for (;;) {
        const claimed = await queue.getMessages("a");
        if (claimed.length === 0) break;
        seen.push(...numbers(claimed));
        await queue.ackMessages(claimed);
      }
      expect(seen.filter((n) => n < 3)).toEqual([1, 2]);
    },
  );

  it.skipIf(database.dialect === "sqlite")(
    "an open transaction of a sender holds up its own key only, and loses nobody's turn",
    async () => {
      const { knex } = await database.fresh();
      const { queue } = watched(knex);
      await queue.sendMessages([step("a", "k", 1), step("a", "free", 2), step("a", undefined, 3)]);
      const slow = await knex.transaction();
      onTestFinished(async () => {
        if (!slow.isCompleted()) await slow.rollback();
      });
      await queue.sendMessage(step("a", "k", 4), { tx: slow });
      const done: number[] = [];
      await using worker = queue.work(
        "a",
        ({ content }) => done.push((content as { n: number }).n),
        { concurrency: 10 },
      );
      // The handler of the held key has run; only its acknowledgement waits, and no other's.
      await expect.poll(() => worker.stats.processed).toBe(2);
      expect([...done].sort()).toEqual([1, 2, 3]);
      expect((await queue.getQueueStats("a")).leased).toBe(1);
      await slow.commit();
      await expect.poll(() => done).toContain(4);
      await expect.poll(() => worker.stats.processed).toBe(4);
    },
  );
});
