import { expect, it } from "vitest";
import type { ClaimedMessage, MessageQueueManager } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { failure, mailbox, note, watched } from "../support/queue.ts";
import { gate } from "./worker-support.ts";

const FAST = { pollMs: { min: 5, max: 50 }, onError: () => {} };
/** Dozens of round trips, one after the other. */

eachDatabase("a chain of messages", (database) => {
  const claimed = async (queue: MessageQueueManager, agentId: string) => {
    const [claim] = await queue.getMessages(agentId);
    return claim as ClaimedMessage;
  };

  it("is continued by what a handler sends, replies, and sends by a batcher", async () => {
    const { queue } = watched(database.knex());
    const [a, b, c] = [mailbox("a"), mailbox("b"), mailbox("c")];
    const first = await queue.sendMessage({ ...note(b), fromAgent: a, contextId: "talk" });
    const batcher = queue.batcher();
    const worker = queue.work(
      b,
      async (message) => {
        await message.reply({ kind: "reply" });
        await queue.sendMessage({ ...note(c, { kind: "sent" }), fromAgent: b });
        await database.knex().transaction(async (tx) => {
          const own = { ...note(c, { kind: "many" }), fromAgent: b, contextId: "own" };
          await queue.sendMessages([own], { tx });
        });
        await batcher.send({ ...note(c, { kind: "batched" }), fromAgent: b });
        await queue.sendMessage({ ...note(c, { kind: "new" }), fromAgent: b, hops: 0 });
      },
      FAST,
    );
    await until(() => worker.stats.processed === 1);
    const reply = await claimed(queue, a);
    const next = { hops: 1, trail: [a], causationId: first.messageId };
    expect(reply).toMatchObject({ ...next, contextId: "talk", correlationId: first.messageId });
    const [sent, many, batched, fresh] = await queue.getMessages(c);
    expect(sent).toMatchObject({ ...next, contextId: "talk", correlationId: null });
    expect(many).toMatchObject({ ...next, contextId: "own" });
    expect(batched).toMatchObject({ ...next, contextId: "talk" });
    expect(fresh).toMatchObject({ hops: 0, trail: [], causationId: null, contextId: null });
  });

  it("is continued from claims by reply and causedBy, and by nothing else", async () => {
    const { queue } = watched(database.knex());
    const [a, b, c] = [mailbox("a"), mailbox("b"), mailbox("c")];
    await queue.sendMessage({ ...note(b), fromAgent: a });
    const claim = await claimed(queue, b);
    await queue.sendMessage({ ...note(c), fromAgent: b }, { causedBy: claim });
    await queue.sendMessage({ ...note(c), fromAgent: b });
    const [caused, plain] = (await queue.getMessages(c)) as [ClaimedMessage, ClaimedMessage];
    expect(caused).toMatchObject({ hops: 1, trail: [a], causationId: claim.messageId });
    expect(plain).toMatchObject({ hops: 0, trail: [], causationId: null });
    await caused.reply({ ok: true });
    expect(await claimed(queue, b)).toMatchObject({ hops: 2, trail: [a, b] });
    const wrong = queue.sendMessage(note(c), { causedBy: { messageId: "x" } as never });
    expect(await failure(() => wrong)).toMatchObject({ code: "VALIDATION_FAILED" });
  });

  it("ends with the handler: what that has left running begins a new one", async () => {
    const { queue } = watched(database.knex());
    const [b, c] = [mailbox("b"), mailbox("c")];
    await queue.sendMessage(note(b));
    const open = gate();
    let later: Promise<unknown> = Promise.resolve();
    const worker = queue.work(
      b,
      () => {
        later = open.passed.then(() => queue.sendMessage(note(c)));
      },
      FAST,
    );
    await until(() => worker.stats.processed === 1);
    open.pass();
    await later;
    expect(await claimed(queue, c)).toMatchObject({ hops: 0, causationId: null });
  });

  it("of three agents in a ring stops after 32 hops, and the dead letter explains", async () => {
    const { queue, events } = watched(database.knex());
    const ring = [mailbox("ring"), mailbox("ring"), mailbox("ring")] as const;
    const stopped: unknown[] = [];
    for (const [n, agent] of ring.entries()) {
      const next = ring[(n + 1) % 3] as string;
      queue.work(
        agent,
        async () => {
          const sent = await queue.sendMessage({ ...note(next), fromAgent: agent });
          if (sent.deadLettered !== undefined) stopped.push(sent);
        },
        FAST,
      );
    }
    const first = await queue.sendMessage({ ...note(ring[1]), fromAgent: ring[0], contextId: "c" });
    await until(() => stopped.length > 0);
    const [dead, ...others] = await queue.deadLetters.list({ reason: "hop_limit" });
    expect(others).toEqual([]);
    expect(stopped).toEqual([
      { messageId: dead?.messageId, duplicate: false, deadLettered: "hop_limit" },
    ]);
    expect(dead).toMatchObject({ hops: 33, attempt: 0, workerId: null, contextId: "c" });
    expect(dead?.lastError).toMatchObject({ code: "hop_limit" });
    expect(dead?.lastError?.message).toContain(
      "33 messages led to this one, more than maxHops (32)",
    );
    expect(dead?.lastError?.message).toContain(`${ring[0]} → ${ring[1]} → ${ring[2]}`);
    const [why] = await queue.why(dead?.messageId as string);
    expect(JSON.stringify(why)).toContain("maxHops (32)");
    const told = events.flatMap((event) =>
      event.type === "message" && event.messageId === dead?.messageId
        ? [[event.event, event.reason]]
        : [],
    );
    expect(told).toEqual([
      ["sent", undefined],
      ["dead_lettered", "hop_limit"],
    ]);
    // All others were delivered, and nothing of it is left.
    await until(async () => (await queue.getMessage(first.messageId))?.state === "processed");
    await until(
      async () => (await database.knex()("outbox_messages").whereIn("to_agent", ring)).length === 0,
    );
  });

  it("of two agents who answer each other stops after ten round trips, and goes on if redriven", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const [a, b] = [mailbox("ping"), mailbox("pong")];
    let replies = 0;
    const stopped: string[] = [];
    for (const agent of [a, b]) {
      queue.work(
        agent,
        async (message) => {
          const sent = await message.reply({ n: replies++ });
          if (sent.deadLettered !== undefined) stopped.push(sent.deadLettered);
        },
        FAST,
      );
    }
    await queue.sendMessage({ ...note(b), fromAgent: a });
    await until(() => stopped.length === 1);
    expect(stopped).toEqual(["ping_pong"]);
    expect(replies).toBe(20);
    const [dead] = await queue.deadLetters.list({ reason: "ping_pong" });
    expect(dead).toMatchObject({ fromAgent: a, toAgent: b, hops: 20 });
    expect(dead?.lastError?.message).toContain(`${a} and ${b} have answered each other`);
    // An operator lets them talk on: the chain begins anew.
    await queue.deadLetters.redrive({ reason: "ping_pong" });
    await until(() => stopped.length === 2);
    expect(replies).toBe(40);
    expect(await queue.deadLetters.list({ reason: "ping_pong" })).toHaveLength(1);
  });

  it("that is stopped is stored in the sender's transaction, once for each id", async () => {
    const { queue } = watched(database.knex(), { maxHops: 3 });
    const to = mailbox();
    const deep = { ...note(to), fromAgent: "deep", messageId: `deep-${to}`, hops: 4 };
    const undone = database.knex().transaction(async (tx) => {
      expect(await queue.sendMessage(deep, { tx })).toMatchObject({ deadLettered: "hop_limit" });
      throw new Error("undone");
    });
    expect((await failure(() => undone)).message).toBe("undone");
    expect(await queue.deadLetters.get(deep.messageId)).toBeNull();
    const others = [note(to, { n: 1 }), deep, { ...note(to, { n: 2 }), hops: 3 }];
    const sent = await queue.sendMessages(others);
    expect(sent.map(({ deadLettered }) => deadLettered)).toEqual([
      undefined,
      "hop_limit",
      undefined,
    ]);
    expect(await queue.sendMessage(deep)).toEqual({ messageId: deep.messageId, duplicate: true });
    expect(await queue.deadLetters.list({ agentId: to })).toHaveLength(1);
    const live = await queue.getMessages(to);
    expect(live.map(({ content }) => content)).toEqual([{ n: 1 }, { n: 2 }]);
    // The rest of the envelope is there, for each recipient.
    const [x, y] = [mailbox(), mailbox()];
    await queue.sendMessage({
      ...{ toAgent: [x, y], fromAgent: "deep", messageType: "NOTE", content: { n: 3 }, hops: 9 },
      ...{ orderingKey: "k", ttlMs: 60_000, headers: { h: 1 }, subject: "s", delayMs: 1_000 },
    });
    for (const agentId of [x, y]) {
      const [dead] = await queue.deadLetters.list({ agentId });
      expect(dead).toMatchObject({
        ...{ toAgent: agentId, orderingKey: "k", headers: { h: 1 }, subject: "s", hops: 9 },
        ...{ content: { n: 3 }, redriven: 0, reason: "hop_limit", attempt: 0 },
      });
    }
    expect(await database.knex()("outbox_messages").whereIn("to_agent", [x, y])).toEqual([]);
    await queue.deadLetters.redrive({ agentId: x });
    const [back] = await queue.getMessages(x);
    expect(back).toMatchObject({ hops: 0, trail: [], orderingKey: "k" });
  });

  it("has no limits where they are switched off", async () => {
    const { queue } = watched(database.knex(), { maxHops: 0 });
    const to = mailbox();
    const sent = await queue.sendMessage({ ...note(to), hops: 100_000 });
    expect(sent).toEqual({ messageId: sent.messageId, duplicate: false });
    expect(await claimed(queue, to)).toMatchObject({ hops: 100_000 });
    for (const wrong of [{ maxHops: -1 }, { maxPingPong: 101 }, { maxConversationMessages: 1.5 }]) {
      expect(await failure(() => watched(database.knex(), wrong))).toMatchObject({
        code: "VALIDATION_FAILED",
      });
    }
  });
});

eachDatabase("a conversation", (database) => {
  const OPTIONS = { maxConversationMessages: 5 };
  let talks = 0;

  it("has at most as many messages as maxConversationMessages, over all mailboxes", async () => {
    const { queue } = watched(database.knex(), OPTIONS);
    const [to, other] = [mailbox(), mailbox()];
    const contextId = `talk-${++talks}`;
    await queue.sendMessage({ ...note(to), contextId });
    await queue.sendMessage({ ...note(other), contextId });
    const sent = await queue.sendMessages(
      [1, 2, 3, 4, 5].map((n) => ({ ...note(to, { n }), contextId })),
    );
    const limited = [undefined, undefined, undefined, "conversation_limit", "conversation_limit"];
    expect(sent.map(({ deadLettered }) => deadLettered)).toEqual(limited);
    const dead = await queue.deadLetters.list({ agentId: to });
    expect(dead.map(({ content }) => content)).toEqual([{ n: 4 }, { n: 5 }]);
    expect(dead[0]?.lastError?.message).toContain(`conversation ${contextId} has 6 messages`);
    expect(dead[0]?.lastError?.message).toContain("maxConversationMessages (5)");
    // Others go on, and so do messages of none.
    for (const message of [note(to), { ...note(to), contextId: "another" }]) {
      expect((await queue.sendMessage(message)).deadLettered).toBeUndefined();
    }
    // An operator's redrive is not counted.
    expect(await queue.deadLetters.redrive({ agentId: to })).toMatchObject({ redriven: 2 });
    expect(await queue.deadLetters.list({ agentId: to })).toEqual([]);
  });

  it("does not count what is rolled back, or sent twice", async () => {
    const { queue } = watched(database.knex(), OPTIONS);
    const to = mailbox();
    const contextId = `talk-${++talks}`;
    const undone = database.knex().transaction(async (tx) => {
      await queue.sendMessages(
        [1, 2, 3, 4, 5].map((n) => ({ ...note(to, { n }), contextId })),
        { tx },
      );
      throw new Error("undone");
    });
    await failure(() => undone);
    const message = { ...note(to), fromAgent: "twice", messageId: `m-${contextId}`, contextId };
    for (let n = 0; n < 10; n++) await queue.sendMessage(message);
    const row = await database.knex()("outbox_conversations").where({ context_id: contextId });
    expect(row.map(({ messages }) => Number(messages))).toEqual([1]);
  });

  it("gives its last places to as many of those who send at once, and no more", async () => {
    const queues = [1, 2, 3].map(() => watched(database.knex(), OPTIONS).queue);
    const to = mailbox();
    const contexts = [`talk-${++talks}`, `talk-${++talks}`];
    const sends = Array.from({ length: 12 }, (_, n) => {
      const [first = "", second = ""] = n % 2 === 0 ? contexts : [...contexts].reverse();
      const batch = [first, second].map((contextId) => ({ ...note(to), contextId }));
      return (queues[n % 3] as MessageQueueManager).sendMessages(batch);
    });
    const sent = (await Promise.all(sends)).flat();
    expect(sent.filter(({ deadLettered }) => deadLettered === undefined)).toHaveLength(10);
    expect(sent.filter(({ deadLettered }) => deadLettered !== undefined)).toHaveLength(14);
  });

  it("is not counted where there is no limit", async () => {
    const { queue } = watched(database.knex());
    const contextId = `talk-${++talks}`;
    await queue.sendMessage({ ...note(mailbox()), contextId });
    const rows = await database.knex()("outbox_conversations").where({ context_id: contextId });
    expect(rows).toEqual([]);
  });
});
