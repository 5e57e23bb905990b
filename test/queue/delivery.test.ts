import type { Knex } from "knex";
import { expect, it } from "vitest";
import type { ClaimedMessage, MessageInput } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { elapse, failure, mailbox, note, watched } from "../support/queue.ts";
import { aborted, gate } from "./worker-support.ts";

/** No acknowledgement gets through. */
const breakArchive = (knex: Knex) =>
  knex.schema.alterTable("outbox_archive", (table) => table.dropColumn("outcome"));
const mendArchive = (knex: Knex) =>
  knex.schema.alterTable("outbox_archive", (table) => void table.string("outcome", 16));

const FAST = { pollMs: { min: 5, max: 50 } };

eachDatabase("a message of AT_MOST_ONCE", (database) => {
  const once = (toAgent: string): MessageInput => ({ ...note(toAgent), delivery: "AT_MOST_ONCE" });

  it("is acknowledged when getMessages returns it, and never comes again", async () => {
    const { queue, events } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(once(to));
    const [claim] = (await queue.getMessages(to, { leaseMs: 1_000 })) as [ClaimedMessage];
    expect(claim.messageId).toBe(messageId);
    expect(await queue.getMessage(messageId)).toMatchObject({ state: "processed", attempt: 1 });
    await elapse(database.knex(), 60_000);
    expect(await queue.getMessages(to)).toEqual([]);
    expect(await claim.ack()).toBe("acked");
    expect(await queue.ackMessages([claim, claim])).toEqual(["acked", "acked"]);
    expect(await claim.nack(new Error("no"))).toBe("gone");
    expect(await claim.defer(1_000)).toBe("gone");
    expect(await claim.extend(1_000)).toBe("gone");
    expect(await claim.deadLetter("no_budget")).toBe("gone");
    expect(await queue.getMessage(messageId)).toMatchObject({ state: "processed" });
    const told = events.flatMap((event) => (event.type === "message" ? [event.event] : []));
    expect(told).toEqual(["sent", "received", "processed"]);
  });

  it("is not handed out when the acknowledgement gets no answer, and the others are", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const to = mailbox();
    await queue.sendMessage(once(to));
    const other = await queue.sendMessage(note(to));
    await breakArchive(knex);
    const claimed = await queue.getMessages(to);
    expect(claimed.map((claim) => claim.messageId)).toEqual([other.messageId]);
    await elapse(knex, 60_000);
    await knex("outbox_messages").where({ message_id: other.messageId }).del();
    expect((await failure(() => queue.getMessages(to))).code).toMatch(
      /DATABASE_ERROR|NOT_MIGRATED/,
    );
    await mendArchive(knex);
    await elapse(knex, 60_000);
    expect(await queue.getMessages(to)).toHaveLength(1);
    expect(await queue.getMessages(to)).toEqual([]);
  });

  it("is not run when the acknowledgement gets no answer, and once when it does", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const to = mailbox();
    const { messageId } = await queue.sendMessage(once(to));
    await breakArchive(knex);
    const errors: string[] = [];
    let runs = 0;
    const worker = queue.work(to, () => void runs++, {
      ...FAST,
      onError: (_, { during, message }) => errors.push(`${during} ${message?.messageId}`),
    });
    await until(() => worker.stats.released > 1);
    expect(runs).toBe(0);
    expect(errors).toContain(`settle ${messageId}`);
    await mendArchive(knex);
    await until(() => worker.stats.processed === 1);
    await worker.stop();
    expect(runs).toBe(1);
    expect(await queue.getMessage(messageId)).toMatchObject({ state: "processed", attempt: 1 });
  });

  it("whose runs fail opens the breaker of its mailbox, and one that does not closes it", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const to = mailbox();
    const breaker = { failureThreshold: 2, recoveryTimeoutMs: 60_000 };
    await queue.mailboxes.set(to, { breaker });
    await queue.sendMessages([once(to), once(to)]);
    let down = true;
    const worker = queue.work(
      to,
      () => {
        if (down) throw new Error("down");
      },
      { ...FAST, onError: () => {} },
    );
    const state = async () => (await queue.mailboxes.get(to)).breaker?.state;
    await until(async () => (await state()) === "open");
    expect(worker.stats).toMatchObject({ failed: 2, processed: 0 });
    down = false;
    await queue.sendMessages([once(to), once(to)]);
    await knex("outbox_mailboxes").update({ breaker_until: knex.raw("breaker_until - 60000") });
    await until(async () => (await state()) === "closed");
    await until(() => worker.stats.processed === 2);
  });

  it("that a handler throws at is told of and not run again", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(once(to));
    const errors: unknown[] = [];
    const states: unknown[] = [];
    const worker = queue.work(
      to,
      async (message, { signal, progress }) => {
        states.push((await queue.getMessage(message.messageId))?.state, await message.nack("no"));
        await progress({ half: true });
        expect(signal.aborted).toBe(false);
        throw new Error("no luck");
      },
      { ...FAST, onError: (error) => errors.push((error as Error).message) },
    );
    await until(() => worker.stats.failed === 1);
    await elapse(database.knex(), 60_000);
    const later = await queue.sendMessage({ ...once(to), messageId: "later" });
    await until(() => worker.stats.failed === 2);
    expect(states).toEqual(["processed", "gone", "processed", "gone"]);
    expect(errors).toEqual(["no luck", "no luck"]);
    for (const id of [messageId, later.messageId]) {
      expect(await queue.getMessage(id)).toMatchObject({ state: "processed", attempt: 1 });
    }
    expect(worker.stats).toMatchObject({ processed: 0, lost: 0, released: 0 });
  });

  it("may run far beyond its lease, and its transaction commits by itself", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessage({ ...once(to), replyTo: `${to}-asker` });
    let runs = 0;
    const worker = queue.work(
      to,
      async (message, { signal, tx }) => {
        runs++;
        await Promise.race([aborted(signal), new Promise((go) => setTimeout(go, 500))]);
        await tx((trx) => message.reply({ done: true }, { tx: trx }));
      },
      { ...FAST, leaseMs: 100 },
    );
    await until(() => worker.stats.processed === 1);
    expect(runs).toBe(1);
    expect(await queue.getMessages(`${to}-asker`)).toHaveLength(1);
  });

  it("that waits in a stopping worker is given back, not lost", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const open = gate();
    const quick = queue.work(to, async () => open.passed, { ...FAST, concurrency: 1 });
    await queue.sendMessage(once(to));
    await until(() => quick.stats.active === 1);
    open.pass();
    await until(() => quick.stats.processed === 1);
    await queue.pause(to);
    for (let n = 0; n < 10; n++) await queue.sendMessage(once(to));
    await quick.stop();
    const first = gate();
    let started = 0;
    const worker = queue.work(
      to,
      async () => {
        started++;
        // Fast at first, so that more is claimed ahead; then it hangs.
        if (started > 3) await first.passed;
      },
      { ...FAST, batchSize: 100 },
    );
    await queue.resume(to);
    await until(() => started === 4);
    const stopping = worker.stop({ deadlineMs: 5_000 });
    first.pass();
    await stopping;
    await elapse(database.knex(), 60_000);
    const left = await queue.getMessages(to, { limit: 100 });
    expect(left.length + started).toBe(10);
  });

  it("keeps its large content until it is handed out, also where nothing is archived", async () => {
    const { knex } = await database.fresh();
    const kept = new Map<string, Uint8Array>();
    const claimCheck = {
      aboveBytes: 20_000,
      store: {
        put: async (key: string, data: Uint8Array) => void kept.set(key, data),
        get: async (key: string) => kept.get(key) ?? null,
        delete: async (key: string) => void kept.delete(key),
      },
    };
    const { queue } = watched(knex, {
      archiveRetentionMs: 0,
      compress: false,
      claimCheck,
    } as never);
    const to = mailbox();
    await queue.sendMessage({ ...once(to), content: { text: "x".repeat(30_000) } });
    expect(kept.size).toBe(1);
    const [claim] = await queue.getMessages(to);
    expect(claim?.content).toMatchObject({ text: "x".repeat(30_000) });
    await until(() => kept.size === 0);
    await queue.sendMessage({ ...once(to), content: { text: "y".repeat(30_000) } });
    let length = 0;
    const worker = queue.work(
      to,
      (message) => {
        length = (message.content as { text: string }).text.length;
      },
      FAST,
    );
    await until(() => worker.stats.processed === 1);
    expect(length).toBe(30_000);
    await until(() => kept.size === 0);
  });

  it("under an ordering key lets the next one through when it is handed out", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    for (let n = 0; n < 3; n++)
      await queue.sendMessage({ ...once(to), orderingKey: "k", subject: `${n}` });
    const seen: unknown[] = [];
    for (let n = 0; n < 3; n++) {
      const [claim] = await queue.getMessages(to);
      seen.push(claim?.subject);
    }
    expect(seen).toEqual(["0", "1", "2"]);
  });
});
