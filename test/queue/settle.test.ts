import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { elapse, mailbox, note, watched } from "../support/queue.ts";

eachDatabase("settling", (database) => {
  it("acks many in one call, with an outcome per message", async () => {
    const { queue, named } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages([note(to), note(to), note(to)]);
    const got = await queue.getMessages(to);
    await got[1]?.ack();
    await got[2]?.defer(0);
    expect(await queue.ackMessages(got)).toEqual(["acked", "gone", "stale"]);
    expect(await queue.ackMessages([])).toEqual([]);
    expect(await queue.getMessage(String(got[0]?.messageId))).toMatchObject({
      state: "processed",
      attempt: 1,
    });
    expect(named(String(got[0]?.messageId))).toEqual(["sent", "received", "processed"]);
  });

  it("G3: of two claims of one message in a batch, only the later one counts", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessage(note(to));
    const [old] = await queue.getMessages(to);
    await elapse(database.knex(), 30_001, old?.messageId);
    const [current] = await queue.getMessages(to);
    const both = [current, old].flatMap((claim) => claim ?? []);
    expect(await queue.ackMessages(both)).toEqual(["acked", "stale"]);
    expect(await queue.ackMessages([...both].reverse())).toEqual(["gone", "gone"]);
  });

  it("acks in the caller's transaction, and not if that is rolled back", async () => {
    const { queue, named } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessage(note(to));
    const [claim] = await queue.getMessages(to);
    const tx = await database.knex().transaction();
    expect(await claim?.ack({ tx })).toBe("acked");
    await tx.rollback();
    expect(await queue.getMessage(String(claim?.messageId))).toMatchObject({ state: "leased" });
    await database.knex().transaction(async (commit) => {
      expect(await claim?.ack({ tx: commit })).toBe("acked");
      await claim?.reply({ done: true }, { tx: commit });
    });
    await expect
      .poll(() => named(String(claim?.messageId)))
      .toEqual(["sent", "received", "processed"]);
  });

  it("markProcessed finishes what the agent holds, and nothing else", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    expect(await queue.markProcessed(messageId, to)).toBe(false);
    const [claim] = await queue.getMessages(to);
    expect(await queue.markProcessed(messageId, "someone-else")).toBe(false);
    expect(await queue.markProcessed(messageId, "someone-else", { receipt: claim?.receipt })).toBe(
      false,
    );
    expect(await queue.markProcessed(messageId, to)).toBe(true);
    expect(await queue.markProcessed(messageId, to)).toBe(false);
    expect(await queue.markProcessed("never-seen", to)).toBe(false);
  });

  it("tries a failed message again after the policy's pause, then dead-letters it", async () => {
    const { queue, named } = watched(database.knex(), {
      retryPolicy: {
        ...{ maxAttempts: 3, initialDelayMs: 60_000, maxDelayMs: 120_000 },
        ...{ factor: 2, jitter: 0 },
      },
    });
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    for (const [attempt, pause] of [
      [1, 60_000],
      [2, 120_000],
    ] as const) {
      const [claim] = await queue.getMessages(to);
      expect(claim?.attempt).toBe(attempt);
      expect(await claim?.nack(new Error(`failed ${attempt}`))).toBe("retried");
      const stored = await queue.getMessage(messageId);
      expect(stored).toMatchObject({
        state: "scheduled",
        attempt,
        lastError: { message: `failed ${attempt}` },
      });
      expect(Number(stored?.visibleAt) - Number(stored?.failures.at(-1)?.at)).toBe(pause);
      expect(await queue.getMessages(to)).toEqual([]);
      await elapse(database.knex(), pause + 1, messageId);
    }
    const [last] = await queue.getMessages(to);
    expect(await last?.nack(new TypeError("failed 3"))).toBe("dead_lettered");
    expect(await queue.deadLetters.get(messageId)).toMatchObject({
      reason: "max_attempts",
      attempt: 3,
      lastError: { code: "TypeError", message: "failed 3" },
    });
    expect((await queue.deadLetters.get(messageId))?.firstFailedAt).toBeGreaterThan(0);
    expect(named(messageId)).toEqual([
      "sent",
      "received",
      "retried",
      "received",
      "retried",
      "received",
      "dead_lettered",
    ]);
  });

  it("nack with a delay of its own, at once, or without any further run", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    const [first] = await queue.getMessages(to);
    expect(await first?.nack("at once", { delayMs: 0 })).toBe("retried");
    const [second] = await queue.getMessages(to);
    expect(second?.attempt).toBe(2);
    expect(await second?.nack({ weird: 1n }, { retry: false })).toBe("dead_lettered");
    expect(await queue.deadLetters.get(messageId)).toMatchObject({ reason: "rejected" });
  });

  it("defers without burning a run", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage({ ...note(to), maxAttempts: 1 });
    for (let n = 0; n < 4; n++) {
      const [claim] = await queue.getMessages(to);
      expect(claim?.attempt).toBe(1);
      expect(await claim?.defer(50_000)).toBe("deferred");
      expect(await queue.getMessages(to)).toEqual([]);
      await elapse(database.knex(), 50_001, messageId);
    }
    expect(await (await queue.getMessages(to))[0]?.ack()).toBe("acked");
  });

  it("extends a lease from now, and tells when it was lost", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessage(note(to));
    const [claim] = await queue.getMessages(to, { leaseMs: 1_000 });
    expect(await claim?.extend(600_000)).toBe("extended");
    await elapse(database.knex(), 500_000, claim?.messageId);
    expect(await queue.getMessages(to)).toEqual([]);
    await elapse(database.knex(), 200_000, claim?.messageId);
    // Passed, but nobody else has it yet: still ours to finish.
    expect(await claim?.ack()).toBe("acked");
    expect(await claim?.extend(1_000)).toBe("gone");
  });

  it("replies to the sender, once per run and once per message", async () => {
    const { queue } = watched(database.knex());
    const [to, from] = [mailbox(), mailbox()];
    const { messageId } = await queue.sendMessage({ ...note(to), fromAgent: from, contextId: "c" });
    const [claim] = await queue.getMessages(to);
    expect(await claim?.reply({ n: 1 })).toEqual({
      messageId: `response-${messageId}`,
      duplicate: false,
    });
    expect((await claim?.reply({ n: 2 }))?.messageId).toBe(`response-${messageId}-2`);
    await claim?.defer(0);
    const [again] = await queue.getMessages(to);
    expect(await again?.reply({ n: 1 })).toEqual({
      messageId: `response-${messageId}`,
      duplicate: true,
    });
    const answers = await queue.getMessages(from);
    expect(answers).toMatchObject([
      {
        content: { n: 1 },
        correlationId: messageId,
        causationId: messageId,
        fromAgent: to,
        contextId: "c",
      },
      { content: { n: 2 } },
    ]);
  });

  it("a reply to a long id has an id that fits", async () => {
    const { queue } = watched(database.knex());
    const [to, from] = [mailbox(), mailbox()];
    await queue.sendMessage({
      ...note(to),
      fromAgent: from,
      messageId: "x".repeat(128),
      replyTo: from,
    });
    const [claim] = await queue.getMessages(to);
    const { messageId } = (await claim?.reply({ ok: true })) ?? {};
    expect(messageId?.length).toBeLessThanOrEqual(128);
    expect((await queue.getMessages(from))[0]?.messageId).toBe(messageId);
  });

  it("a cancelled message is gone for the worker that holds it", async () => {
    const { queue, named } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    const [claim] = await queue.getMessages(to);
    expect(await queue.cancelMessage(messageId)).toBe(true);
    expect(await queue.cancelMessage(messageId)).toBe(false);
    expect(await claim?.ack()).toBe("gone");
    expect(await queue.getMessage(messageId)).toMatchObject({ state: "cancelled" });
    expect(named(messageId)).toEqual(["sent", "received", "cancelled"]);
  });

  it("keeps finished messages for their retention and purges them in bounded steps", async () => {
    const { queue } = watched(database.knex(), { archiveRetentionMs: 60_000 });
    const to = mailbox();
    await queue.sendMessages([note(to), note(to)]);
    const got = await queue.getMessages(to);
    await queue.ackMessages(got);
    expect((await queue.maintain()).archivePurged).toBe(0);
    await database
      .knex()("outbox_archive")
      .where({ message_id: got[0]?.messageId })
      .update({ finished_at: database.knex().raw("finished_at - 60001") });
    expect((await queue.maintain()).archivePurged).toBe(1);
    expect(await queue.getMessage(String(got[0]?.messageId))).toBeNull();
    expect(await queue.getMessage(String(got[1]?.messageId))).not.toBeNull();
  });

  it("keeps no archive where the retention is 0, and still knows a repeated id", async () => {
    const { queue } = watched(database.knex(), { archiveRetentionMs: 0 });
    const to = mailbox();
    const message = { ...note(to), messageId: `kept-not-${to}` };
    await queue.sendMessage(message);
    await (await queue.getMessages(to))[0]?.ack();
    expect(await queue.getMessage(message.messageId)).toBeNull();
    expect((await queue.sendMessage(message)).duplicate).toBe(true);
  });
});
