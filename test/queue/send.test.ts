import { expect, it, onTestFinished } from "vitest";
import { AgentMessage, MessageQueueManager, migrate } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { elapse, failure, mailbox, note, watched } from "../support/queue.ts";

eachDatabase("sending", (database) => {
  it("returns every field as it was sent", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessage({
      toAgent: to,
      fromAgent: "sender",
      messageType: "INVOICE",
      kind: "command",
      content: {
        text: "ü 😀 \u2028 \\ ' \" %",
        deep: { list: [1, null, true, 1.5e-7] },
        empty: {},
      },
      priority: "urgent",
      headers: { tries: 1, on: true, name: "x" },
      correlationId: "corr",
      causationId: "cause",
      replyTo: "elsewhere",
      contextId: "ctx",
      taskId: "task",
      subject: "About it",
    });
    const [got] = await queue.getMessages(to);
    expect(got).toMatchObject({
      fromAgent: "sender",
      toAgent: to,
      messageType: "INVOICE",
      kind: "command",
      content: {
        text: "ü 😀 \u2028 \\ ' \" %",
        deep: { list: [1, null, true, 1.5e-7] },
        empty: {},
      },
      priority: 40,
      headers: { tries: 1, on: true, name: "x" },
      correlationId: "corr",
      causationId: "cause",
      replyTo: "elsewhere",
      contextId: "ctx",
      taskId: "task",
      subject: "About it",
      attempt: 1,
    });
  });

  it("takes an AgentMessage and an array as content", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const message = new AgentMessage({ toAgent: to, messageType: "task_request", content: [1, 2] });
    const sent = await queue.sendMessage(message);
    expect(sent).toEqual({ messageId: message.messageId, duplicate: false });
    const [got] = await queue.getMessages(to);
    expect(got).toMatchObject({
      content: [1, 2],
      messageType: "TASK_ASSIGNMENT",
      originalType: "task_request",
      kind: "task",
    });
  });

  it("keeps the order of a batch, and reports per message", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const sent = await queue.sendMessages(Array.from({ length: 250 }, (_, n) => note(to, { n })));
    expect(new Set(sent.map(({ messageId }) => messageId)).size).toBe(250);
    const got = await queue.getMessages(to, { limit: 250 });
    expect(got.map(({ content }) => (content as { n: number }).n)).toEqual(
      Array.from({ length: 250 }, (_, n) => n),
    );
    expect(await queue.sendMessages([])).toEqual([]);
  });

  it("stores a batch larger than one statement, or nothing of it", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const many = Array.from({ length: 2_300 }, (_, n) => note(to, { n }));
    await failure(() => queue.sendMessages([...many, { ...note(to), priority: 101 }]));
    expect((await queue.getQueueStats(to)).pending).toBe(0);
    await queue.sendMessages(many);
    expect((await queue.getQueueStats(to)).pending).toBe(2_300);
  });

  it("gives a message to each of several recipients, under one id", async () => {
    const { queue } = watched(database.knex());
    const [a, b] = [mailbox(), mailbox()];
    const { messageId } = await queue.sendMessage({ ...note(a), toAgent: [a, b, a] });
    const [atA] = await queue.getMessages(a);
    const [atB] = await queue.getMessages(b);
    expect([atA?.messageId, atB?.messageId]).toEqual([messageId, messageId]);
    expect(await atA?.ack()).toBe("acked");
    expect(await atB?.ack()).toBe("acked");
    expect(await queue.getMessages(a)).toEqual([]);
  });

  it("holds a delayed message back until it is due", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage({ ...note(to), delayMs: 60_000 });
    await queue.sendMessage({ ...note(to, { n: 2 }), availableAt: "2200-01-01" });
    expect(await queue.getMessages(to)).toEqual([]);
    expect(await queue.getQueueStats(to)).toMatchObject({ scheduled: 2, pending: 0 });
    await elapse(database.knex(), 60_001, messageId);
    expect((await queue.getMessages(to)).map((message) => message.messageId)).toEqual([messageId]);
  });

  it("G2: a message sent in a transaction exists if and only if it commits", async () => {
    const { queue, named } = watched(database.knex());
    const knex = database.knex();
    const to = mailbox();
    const dropped = await knex.transaction();
    const lost = await queue.sendMessage(note(to), { tx: dropped });
    await dropped.rollback();
    const kept = await knex.transaction(async (tx) => {
      const sent = await queue.sendMessage({ ...note(to), messageId: `kept-${to}` }, { tx });
      expect(await queue.getMessage(sent.messageId, { tx })).toMatchObject({ state: "ready" });
      return sent;
    });
    await failure(() =>
      knex.transaction(async (tx) => {
        await queue.sendMessages([note(to), note(to)], { tx });
        throw new Error("no");
      }),
    );
    expect((await queue.getMessages(to)).map(({ messageId }) => messageId)).toEqual([
      kept.messageId,
    ]);
    expect(await queue.getMessage(lost.messageId)).toBeNull();
    expect(named(lost.messageId)).toEqual([]);
    expect(named(kept.messageId)).toEqual(["sent", "received"]);
  });

  it("G2: a savepoint that is rolled back takes its messages with it", async () => {
    const { queue, named } = watched(database.knex());
    const to = mailbox();
    const sent = await database.knex().transaction(async (tx) => {
      const outer = await queue.sendMessage(note(to), { tx });
      const inner = await tx.transaction();
      const lost = await queue.sendMessage(note(to), { tx: inner });
      await inner.rollback();
      return { outer, lost };
    });
    await expect.poll(() => named(sent.outer.messageId)).toEqual(["sent"]);
    expect(named(sent.lost.messageId)).toEqual([]);
    expect(await queue.getQueueStats(to)).toMatchObject({ pending: 1 });
  });

  it("G2: what a savepoint sent stays when it is kept, and is told, also as the last thing done", async () => {
    const { queue, named } = watched(database.knex());
    const to = mailbox();
    const first = await database.knex().transaction(async (tx) => {
      const inner = await tx.transaction();
      const sent = await queue.sendMessage(note(to), { tx: inner });
      await inner.commit();
      await queue.sendMessage(note(to), { tx });
      return sent;
    });
    const last = await database
      .knex()
      .transaction((tx) => tx.transaction((inner) => queue.sendMessage(note(to), { tx: inner })));
    await expect.poll(() => named(first.messageId)).toEqual(["sent"]);
    await expect.poll(() => named(last.messageId)).toEqual(["sent"]);
    expect(await queue.getQueueStats(to)).toMatchObject({ pending: 3 });
  });

  it("G2: statements that run at once in two transactions stay in their own", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const send = async (fails: boolean) =>
      database.knex().transaction(async (tx) => {
        await Promise.all(
          Array.from({ length: 4 }, (_, n) => queue.sendMessage(note(to, { n, fails }), { tx })),
        );
        if (fails) throw new Error("rolled back");
      });
    const many = [true, false, true, false];
    await Promise.all(many.map((fails) => send(fails).catch(() => undefined)));
    const got = await queue.getMessages(to, { limit: 100 });
    expect(got.map(({ content }) => (content as { fails: boolean }).fails)).toEqual(
      Array.from({ length: 8 }, () => false),
    );
  });

  it("G5: the same messageId from the same sender is stored once, also under concurrency", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const message = { ...note(to), messageId: `once-${to}`, fromAgent: "s" };
    const sent = await Promise.all(Array.from({ length: 12 }, () => queue.sendMessage(message)));
    expect(sent.filter(({ duplicate }) => !duplicate)).toHaveLength(1);
    expect(new Set(sent.map(({ messageId }) => messageId))).toEqual(new Set([message.messageId]));
    const got = await queue.getMessages(to);
    expect(got).toHaveLength(1);
    await got[0]?.ack();
    expect((await queue.sendMessage(message)).duplicate).toBe(true);
    expect((await queue.sendMessage({ ...message, fromAgent: "other" })).duplicate).toBe(false);
    expect(await queue.getMessages(to)).toHaveLength(1);
  });

  it("G5: one dedupe key stores one message a window, and names the first", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const message = { ...note(to), dedupeKey: "nightly", dedupeWindowMs: 60_000 };
    const results = await Promise.all(Array.from({ length: 8 }, () => queue.sendMessage(message)));
    const first = results.find(({ duplicate }) => !duplicate);
    expect(results.filter(({ duplicate }) => !duplicate)).toHaveLength(1);
    expect(results.every(({ messageId }) => messageId === first?.messageId)).toBe(true);
    expect((await queue.sendMessage({ ...message, toAgent: mailbox() })).duplicate).toBe(false);
    await database
      .knex()("outbox_dedupe")
      .update({ expires_at: database.knex().raw("expires_at - 60001") });
    expect((await queue.sendMessage(message)).duplicate).toBe(false);
    expect(await queue.getMessages(to)).toHaveLength(2);
  });

  it("G5: duplicates inside one batch point to the first of them", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const key = { ...note(to), dedupeKey: "same" };
    const own = { ...note(to), messageId: `own-${to}` };
    const sent = await queue.sendMessages([key, own, key, own, note(to)]);
    expect(sent.map(({ duplicate }) => duplicate)).toEqual([false, false, true, true, false]);
    expect(sent[2]?.messageId).toBe(sent[0]?.messageId);
    expect(sent[3]?.messageId).toBe(own.messageId);
    expect(await queue.getMessages(to)).toHaveLength(3);
  });

  it("G5: a message that its key makes a duplicate does not hold its id", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessage({ ...note(to), dedupeKey: "k" });
    const second = { ...note(to), messageId: `second-${to}` };
    expect((await queue.sendMessage({ ...second, dedupeKey: "k" })).duplicate).toBe(true);
    expect((await queue.sendMessage(second)).duplicate).toBe(false);
  });

  it("G5: a repeated id takes no key, in a batch or later, and names that hold colons do not meet", async () => {
    const { queue } = watched(database.knex());
    const [a, b] = [mailbox(), mailbox()];
    const x = { ...note(a), messageId: `x-${a}` };
    const key = { dedupeKey: "k" };
    await queue.sendMessage(x);
    const batch = await queue.sendMessages([
      { ...x, toAgent: b, ...key },
      { ...note(b), messageId: `y-${a}`, ...key },
      { ...note(b), messageId: `z-${a}`, ...key },
      { ...note(b), messageId: `z-${a}` },
    ]);
    expect(batch).toEqual([
      { messageId: `x-${a}`, duplicate: true },
      { messageId: `y-${a}`, duplicate: false },
      { messageId: `y-${a}`, duplicate: true },
      { messageId: `y-${a}`, duplicate: true },
    ]);
    expect((await queue.getMessages(b)).map(({ messageId }) => messageId)).toEqual([`y-${a}`]);
    const colons = [
      { ...note(a), fromAgent: `${a}:1`, messageId: "job" },
      { ...note(a), fromAgent: a, messageId: "1:job" },
      { ...note(`${a}:x`), dedupeKey: "z" },
      { ...note(a), dedupeKey: "x:z" },
    ];
    for (const message of colons) expect((await queue.sendMessage(message)).duplicate).toBe(false);
  });

  it("G5: a key taken in a transaction that is rolled back is free again", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const message = { ...note(to), messageId: `undone-${to}` };
    const tx = await database.knex().transaction();
    expect((await queue.sendMessage(message, { tx })).duplicate).toBe(false);
    await tx.rollback();
    expect((await queue.sendMessage(message)).duplicate).toBe(false);
  });
});

it("G2: what is sent after SQLite gave the transaction up is refused, not committed by itself (SQLite)", async () => {
  const database = new MessageQueueManager("sqlite::memory:");
  onTestFinished(() => database.close());
  const { knex } = database;
  await migrate(knex);
  await knex.raw("CREATE TABLE mine (x TEXT)");
  const pages = (await knex.raw("PRAGMA page_count"))[0].page_count as number;
  await knex.raw(`PRAGMA max_page_count = ${pages}`);
  let refused: unknown;
  await knex
    .transaction(async (tx) => {
      // A full disk ends the whole transaction, and whoever catches the error does not learn of it.
      await tx("mine")
        .insert({ x: "y".repeat(900_000) })
        .catch(() => undefined);
      refused = await failure(() =>
        database.sendMessage({ ...note("a"), messageId: "after" }, { tx }),
      );
    })
    .catch(() => "there is nothing to commit");
  expect(refused).toMatchObject({ code: "FOREIGN_TRANSACTION" });
  await knex.raw("PRAGMA max_page_count = 100000");
  expect(await database.getMessage("after")).toBeNull();
});
