import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { elapse, mailbox, note, watched } from "../support/queue.ts";

eachDatabase("dead letters", (database) => {
  it("list, page, get and purge by filter", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages(Array.from({ length: 5 }, (_, n) => note(to, { n })));
    for (const claim of await queue.getMessages(to)) {
      const odd = (claim.content as { n: number }).n % 2 === 1;
      await claim.deadLetter(odd ? "schema" : "The row 17 is broken", {
        error: new Error(`row ${claim.sequence} is broken`),
      });
    }
    const all = await queue.deadLetters.list({ agentId: to });
    expect(all.map(({ reason }) => reason)).toEqual([
      "rejected",
      "schema",
      "rejected",
      "schema",
      "rejected",
    ]);
    expect(new Set(all.map(({ fingerprint }) => fingerprint)).size).toBe(1);
    const page = await queue.deadLetters.list({
      agentId: to,
      limit: 2,
      afterSeq: all[1]?.sequence ?? 0,
    });
    expect(page.map(({ messageId }) => messageId)).toEqual(
      all.slice(2, 4).map(({ messageId }) => messageId),
    );
    expect(await queue.deadLetters.get(String(all[0]?.messageId))).toMatchObject({
      content: { n: 0 },
      lastError: { message: expect.stringContaining("is broken") },
    });
    expect(await queue.deadLetters.purge({ agentId: to, reason: "schema" })).toEqual({ purged: 2 });
    expect(await queue.deadLetters.list({ agentId: to })).toHaveLength(3);
    expect(await queue.deadLetters.get("never-seen")).toBeNull();
  });

  it("keeps the words of a reason that is no name", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    await (await queue.getMessages(to))[0]?.deadLetter("The invoice has no lines");
    expect(await queue.deadLetters.get(messageId)).toMatchObject({
      reason: "rejected",
      lastError: { message: "The invoice has no lines" },
    });
  });

  it("redrives with all runs before it, in order, to another mailbox, and fences the old receipt", async () => {
    const { queue, named } = watched(database.knex());
    const [to, other] = [mailbox(), mailbox()];
    await queue.sendMessages([
      { ...note(to, { n: 1 }), headers: { h: 1 }, priority: "HIGH" },
      note(to, { n: 2 }),
    ]);
    const claims = await queue.getMessages(to);
    for (const claim of claims) await claim.deadLetter("rejected");
    const { redriven, messageIds } = await queue.deadLetters.redrive({
      agentId: to,
      toAgent: other,
    });
    expect(redriven).toBe(2);
    expect(messageIds).toEqual(claims.map(({ messageId }) => messageId));
    const again = await queue.getMessages(other);
    expect(again).toMatchObject([
      { content: { n: 1 }, attempt: 1, redriven: 1, priority: 30, headers: { h: 1 } },
      { content: { n: 2 } },
    ]);
    expect(await queue.markProcessed(String(claims[0]?.messageId), other, { receipt: 1 })).toBe(
      false,
    );
    expect(await claims[0]?.ack()).toBe("gone");
    expect(await again[0]?.ack()).toBe("acked");
    expect(named(String(claims[0]?.messageId))).toContain("replayed");
  });

  it("two operators who redrive at once send nothing twice", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages(Array.from({ length: 120 }, (_, n) => note(to, { n })));
    for (const claim of await queue.getMessages(to, { limit: 200 }))
      await claim.deadLetter("rejected");
    const done = await Promise.all(
      [1, 2, 3].map(() => queue.deadLetters.redrive({ agentId: to, limit: 500 })),
    );
    expect(await queue.getQueueStats(to)).toMatchObject({ pending: 120, dead: 0 });
    expect(done.reduce((sum, { redriven }) => sum + redriven, 0)).toBe(120);
  });
});

eachDatabase("redriving what bears keys", (database) => {
  it("G4: keeps the order of messages with keys and without", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const sent = await queue.sendMessages(
      [{ orderingKey: "k" }, {}, { concurrencyKey: "c" }, {}].map((key, n) => ({
        ...note("a", { n }),
        ttlMs: 60_000,
        ...key,
      })),
    );
    await elapse(knex, 60_000);
    await queue.maintain();
    await queue.deadLetters.redrive({ agentId: "a" });
    const order = (await queue.getMessages("a")).map(({ messageId }) => messageId);
    expect(order).toEqual(sent.map(({ messageId }) => messageId));
  });
});
