import type { Knex } from "knex";
import { expect, it } from "vitest";
import type { ClaimedMessage, MessageInput } from "../../lib/index.ts";
import { effects, effectsTable } from "../stress/effects.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { elapse, failure, mailbox, note, watched } from "../support/queue.ts";
import { gate } from "./worker-support.ts";

const FAST = { pollMs: { min: 5, max: 50 } };

/** As if the windows and the archive's retention had passed: nothing but the inbox knows the message. */
async function forget(knex: Knex): Promise<void> {
  await knex("outbox_dedupe").del();
  await knex("outbox_archive").del();
}

let ids = 0;

eachDatabase("a message of EXACTLY_ONCE", (database) => {
  const effective = (toAgent: string, messageId = `once-${++ids}`): MessageInput => ({
    ...note(toAgent),
    fromAgent: "asker",
    messageId,
    delivery: "EXACTLY_ONCE",
  });
  /** Two rows of one message, as a sender makes them that repeats itself after its window. */
  const twins = async (queue: ReturnType<typeof watched>["queue"], to: string) => {
    const message = effective(to);
    await queue.sendMessage(message);
    await forget(database.knex());
    expect(await queue.sendMessage(message)).toMatchObject({ duplicate: false });
    return message.messageId as string;
  };

  it("that is sent again after all windows and the archive's end is dropped", async () => {
    const { queue, events } = watched(database.knex());
    const to = mailbox();
    const message = effective(to);
    for (const end of ["ack", "ackMessages", "tx", "markProcessed", "work"] as const) {
      const one = { ...message, messageId: `${end}-${message.messageId}` };
      await queue.sendMessage(one);
      if (end === "work") {
        const worker = queue.work(to, () => {}, FAST);
        await until(() => worker.stats.processed === 1);
        await worker.stop();
      } else {
        const [claim] = (await queue.getMessages(to)) as [ClaimedMessage];
        if (end === "ack") expect(await claim.ack()).toBe("acked");
        if (end === "ackMessages") expect(await queue.ackMessages([claim])).toEqual(["acked"]);
        if (end === "tx") await database.knex().transaction((tx) => claim.ack({ tx }));
        if (end === "markProcessed")
          expect(await queue.markProcessed(one.messageId, to)).toBe(true);
      }
      await forget(database.knex());
      events.length = 0;
      expect(await queue.sendMessage(one), end).toMatchObject({ duplicate: false });
      expect(await queue.getMessages(to), end).toEqual([]);
      expect(await queue.getMessage(one.messageId), end).toMatchObject({ state: "processed" });
      expect(events, end).toMatchObject([
        { event: "sent" },
        { event: "processed", reason: "duplicate", messageId: one.messageId },
      ]);
    }
    // Of another sender, or in another mailbox, it is another message; and so is one of another mode.
    const again = `ack-${message.messageId}`;
    await queue.sendMessage({ ...effective(to, again), fromAgent: "other" });
    expect(await queue.getMessages(to)).toHaveLength(1);
    await forget(database.knex());
    await queue.sendMessage(effective(`${to}-b`, again));
    expect(await queue.getMessages(`${to}-b`)).toHaveLength(1);
    await forget(database.knex());
    await queue.sendMessage({ ...effective(to, again), delivery: "AT_LEAST_ONCE" });
    expect(await queue.getMessages(to)).toHaveLength(1);
  });

  it("that waits before others does not keep them from a claim of one", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const id = await twins(queue, to);
    const [claim] = (await queue.getMessages(to, { limit: 1 })) as [ClaimedMessage];
    await claim.ack();
    const other = await queue.sendMessage(note(to));
    const next = await queue.getMessages(to, { limit: 1 });
    expect(next.map(({ messageId }) => messageId)).toEqual([other.messageId]);
    expect(await database.knex()("outbox_messages").where({ message_id: id })).toEqual([]);
  });

  it("that two runs work on at once has the effects of one, and one reply", async () => {
    const { queue, events } = watched(database.knex());
    await effectsTable(database.knex());
    const to = mailbox();
    const id = await twins(queue, to);
    const open = gate();
    const errors: unknown[] = [];
    const worker = queue.work(
      to,
      async (message, { tx }) => {
        await open.passed;
        await tx(async (trx) => {
          await trx("effects").insert({ message_id: message.messageId, process: 0 });
          await message.reply({ done: true }, { tx: trx, messageId: `reply-${message.sequence}` });
        }).catch((error: unknown) => {
          errors.push(error);
          throw error;
        });
      },
      { ...FAST, concurrency: 2, onError: () => {} },
    );
    await until(() => worker.stats.active === 2);
    open.pass();
    await until(() => worker.stats.active === 0 && worker.stats.lost === 1);
    expect(worker.stats).toMatchObject({ processed: 1, lost: 1, failed: 0 });
    expect(errors).toMatchObject([{ code: "LEASE_LOST", details: { processedBefore: true } }]);
    expect((await effects(database.knex())).get(id)).toBe(1);
    expect(await queue.getMessages("asker")).toHaveLength(1);
    const ends = events.filter((event) => event.type === "message" && event.event === "processed");
    expect(ends.map((event) => (event as { reason?: string }).reason).sort()).toEqual([
      "duplicate",
      undefined,
    ]);
    expect(await database.knex()("outbox_messages").where({ message_id: id })).toEqual([]);
    await (await queue.getMessages("asker", { limit: 1 }))[0]?.ack();
  });

  it("that a handler acknowledges in its own transaction is undone where it was processed before", async () => {
    const { queue } = watched(database.knex());
    await effectsTable(database.knex());
    const to = mailbox();
    const id = await twins(queue, to);
    const open = gate();
    const worker = queue.work(
      to,
      async (message) => {
        await open.passed;
        await database.knex().transaction(async (tx) => {
          await tx("effects").insert({ message_id: message.messageId, process: 0 });
          await message.ack({ tx });
        });
      },
      { ...FAST, concurrency: 2, onError: () => {} },
    );
    await until(() => worker.stats.active === 2);
    open.pass();
    await until(() => worker.stats.processed === 1 && worker.stats.lost === 1);
    expect((await effects(database.knex())).get(id)).toBe(1);
    expect(await database.knex()("outbox_messages").where({ message_id: id })).toEqual([]);
  });

  it("acknowledged a second time in a transaction rolls it back; without one it is gone", async () => {
    const { queue } = watched(database.knex());
    await effectsTable(database.knex());
    const to = mailbox();
    const id = await twins(queue, to);
    const [first, second] = (await queue.getMessages(to)) as [ClaimedMessage, ClaimedMessage];
    const work = (claim: ClaimedMessage) =>
      database.knex().transaction(async (tx) => {
        await tx("effects").insert({ message_id: id, process: 0 });
        await claim.ack({ tx });
      });
    await work(first);
    expect(await failure(() => work(second))).toMatchObject({ code: "LEASE_LOST" });
    expect((await effects(database.knex())).get(id)).toBe(1);
    expect(await second.ack()).toBe("gone");
    expect(await queue.getMessage(id)).toMatchObject({ state: "processed" });
    expect(await database.knex()("outbox_messages").where({ message_id: id })).toEqual([]);

    const other = await twins(queue, to);
    const both = await queue.getMessages(to);
    expect(await queue.ackMessages(both)).toEqual(["acked", "gone"]);
    const third = await twins(queue, to);
    const [one, two] = (await queue.getMessages(to)) as [ClaimedMessage, ClaimedMessage];
    expect(await queue.markProcessed(third, to, { receipt: one.receipt })).toBe(true);
    expect(await queue.markProcessed(third, to, { receipt: two.receipt })).toBe(false);
    for (const messageId of [other, third]) {
      expect(await database.knex()("outbox_messages").where({ message_id: messageId })).toEqual([]);
    }
  });

  it("that failed runs again, and is not remembered before it is acknowledged", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const message = effective(to);
    await queue.sendMessage(message);
    const keys: string[] = [];
    const worker = queue.work(
      to,
      (claim, { idempotencyKey }) => {
        keys.push(idempotencyKey);
        expect(claim.idempotencyKey).toBe(idempotencyKey);
        if (keys.length < 3) throw new Error("not yet");
      },
      { ...FAST, retryPolicy: { initialDelayMs: 1, maxDelayMs: 1 }, onError: () => {} },
    );
    await until(() => worker.stats.processed === 1);
    expect(keys).toHaveLength(3);
    expect(new Set(keys).size).toBe(1);
    expect(keys[0]).toMatch(/^[0-9a-f]{64}$/);
    await worker.stop();
    await queue.sendMessage({ ...message, fromAgent: "other" });
    const [other] = (await queue.getMessages(to)) as [ClaimedMessage];
    expect(other.idempotencyKey).not.toBe(keys[0]);
  });

  it("that comes back from the dead letters after it was processed is dropped", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const id = await twins(queue, to);
    const [first, second] = (await queue.getMessages(to)) as [ClaimedMessage, ClaimedMessage];
    await second.deadLetter("no_budget");
    await first.ack();
    expect(await queue.deadLetters.redrive({ messageIds: [id] })).toMatchObject({ redriven: 1 });
    expect(await queue.getMessages(to)).toEqual([]);
    expect(await queue.getMessage(id)).toMatchObject({ state: "processed" });
    // One that was not processed comes back and is.
    const other = effective(to);
    await queue.sendMessage(other);
    await (await queue.getMessages(to))[0]?.deadLetter("no_budget");
    await queue.deadLetters.redrive({ messageIds: [other.messageId as string] });
    const [again] = (await queue.getMessages(to)) as [ClaimedMessage];
    expect(await again.ack()).toBe("acked");
  });

  it("that lost its lease is acknowledged by the later run only", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const message = effective(to);
    await queue.sendMessage(message);
    const [first] = (await queue.getMessages(to)) as [ClaimedMessage];
    await elapse(database.knex(), 60_000, message.messageId);
    const [second] = (await queue.getMessages(to)) as [ClaimedMessage];
    expect(await first.ack()).toBe("stale");
    expect(await second.ack()).toBe("acked");
    const rows = await database.knex()("outbox_inbox").where({ message_id: message.messageId });
    expect(rows).toMatchObject([{ consumer: to, from_agent: "asker" }]);
  });

  it("under ordering keys is remembered in order, and its key goes on", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const message = { ...effective(to), orderingKey: "k" };
    await queue.sendMessage(message);
    await forget(database.knex());
    await queue.sendMessage(message);
    const last = await queue.sendMessage({ ...note(to), orderingKey: "k" });
    await (await queue.getMessages(to))[0]?.ack();
    const next = await queue.getMessages(to);
    expect(next.map(({ messageId }) => messageId)).toEqual([last.messageId]);
  });

  it("is remembered for inboxRetentionMs", async () => {
    const { queue } = watched(database.knex(), { inboxRetentionMs: 86_400_000 });
    const to = mailbox();
    const message = effective(to);
    await queue.sendMessage(message);
    await (await queue.getMessages(to))[0]?.ack();
    await queue.maintain();
    await forget(database.knex());
    await queue.sendMessage(message);
    expect(await queue.getMessages(to)).toEqual([]);
    const knex = database.knex();
    await knex("outbox_inbox").update({ processed_at: knex.raw("processed_at - 86400001") });
    await queue.maintain();
    await forget(database.knex());
    await queue.sendMessage(message);
    expect(await queue.getMessages(to)).toHaveLength(1);
  });
});
