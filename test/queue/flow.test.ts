import { expect, it } from "vitest";
import { QueueFull } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { elapse, failure, mailbox, note, watched } from "../support/queue.ts";

const notes = (to: string, count: number, rest: object = {}) =>
  Array.from({ length: count }, (_, n) => ({ ...note(to, { n }), fromAgent: "sender", ...rest }));

const fail = (window: number) => ({ flow: { window, whenFull: "fail" } }) as const;

eachDatabase("flow control", (database) => {
  const opened = () => watched(database.knex()).queue;
  const stored = async (to: string) =>
    (await database.knex()("outbox_messages").where({ to_agent: to })).length;

  it("lets no more be unfinished between two agents than the window has room for", async () => {
    const queue = opened();
    const [to, other] = [mailbox(), mailbox()];
    await queue.sendMessages(notes(to, 3), fail(4));
    await queue.sendMessage({ ...note(to), fromAgent: "sender" }, fail(4));
    const error = await failure(() => queue.sendMessages(notes(to, 2), fail(4)));
    expect(error).toBeInstanceOf(QueueFull);
    expect(error).toMatchObject({
      ...{ code: "QUEUE_FULL", retryable: true },
      details: { fromAgent: "sender", toAgent: to, window: 4, unfinished: 4 },
    });
    expect(await stored(to)).toBe(4);
    // Another sender, and another destination, have windows of their own.
    await queue.sendMessage({ ...note(to), fromAgent: "another" }, fail(4));
    await queue.sendMessage({ ...note(other), fromAgent: "sender" }, fail(4));
    // Claimed is not finished; given back is not, either.
    const [first, second, third] = await queue.getMessages(to, { limit: 3 });
    await first?.defer(60_000);
    await second?.nack(new Error("no"), { delayMs: 60_000 });
    await failure(() => queue.sendMessage(notes(to, 1)[0] as never, fail(4)));
    await third?.deadLetter("bad");
    await queue.cancelMessage(second?.messageId ?? "");
    await queue.sendMessages(notes(to, 2), fail(4));
    expect((await failure(() => queue.sendMessages(notes(to, 1), fail(4)))).code).toBe(
      "QUEUE_FULL",
    );
  });

  it("is off unless it is asked for, and can be switched off for one call", async () => {
    const to = mailbox();
    const plain = opened();
    await plain.sendMessages(notes(to, 150));
    const { queue } = watched(database.knex(), { flow: { window: 2, whenFull: "fail" } });
    await queue.sendMessages(notes(to, 2));
    await failure(() => queue.sendMessages(notes(to, 1)));
    await queue.sendMessages(notes(to, 1), { flow: { window: 3 } });
    await queue.sendMessages(notes(to, 5), { flow: false });
    await queue.sendMessages(notes(to, 5), { flow: { window: false } });
    expect(await stored(to)).toBe(163);
  });

  it("waits for room, and goes on as soon as one is finished", async () => {
    const queue = opened();
    const to = mailbox();
    const flow = { window: 1 };
    await queue.sendMessages(notes(to, 1), { flow });
    const [claim] = await queue.getMessages(to);
    let through = 0;
    const waiting = Promise.all(
      notes(to, 3).map((message) =>
        queue.sendMessage(message, { flow }).then(() => {
          through += 1;
        }),
      ),
    );
    await until(async () => (await failure(() => queue.sendMessages(notes(to, 1), fail(1)))).code);
    expect(through).toBe(0);
    await claim?.ack();
    for (let n = 1; n <= 3; n++) {
      const [next] = await queue.getMessages(to, { waitMs: 10_000 });
      expect(await queue.getMessages(to)).toEqual([]);
      if (n === 2) await queue.markProcessed(next?.messageId ?? "", to);
      else await next?.ack();
    }
    await waiting;
    expect(through).toBe(3);
  });

  it("lets those through first who have waited, and whoever comes last, last", async () => {
    const queue = opened();
    const to = mailbox();
    const flow = { window: 1 };
    await queue.sendMessages(notes(to, 1), { flow });
    let looks = 0;
    const look = ({ sql }: { sql: string }) => {
      if (/count\(.*outbox_slots/.test(sql)) looks += 1;
    };
    database.knex().on("query", look);
    const calls = notes(to, 4).map((message) => queue.sendMessage(message, { flow }));
    // Each has looked for itself, and the first of them several times since.
    await until(() => looks >= 10);
    database.knex().off("query", look);
    const [first] = await queue.getMessages(to);
    await first?.ack();
    calls.push(queue.sendMessage({ ...note(to, { n: "last" }), fromAgent: "sender" }, { flow }));
    const seen: unknown[] = [];
    while (seen.length < calls.length) {
      const [claim] = await queue.getMessages(to, { waitMs: 10_000 });
      seen.push(claim?.content);
      await claim?.ack();
    }
    await Promise.all(calls);
    expect(seen.at(-1)).toEqual({ n: "last" });
  });

  it("gives up after the time that was set, with nothing stored", async () => {
    const queue = opened();
    const to = mailbox();
    await queue.sendMessages(notes(to, 1), fail(1));
    const both = await Promise.all(
      [20, 40].map((waitMs) =>
        failure(() => queue.sendMessages(notes(to, 1), { flow: { window: 1, waitMs } })),
      ),
    );
    expect(both.map(({ code }) => code)).toEqual(["QUEUE_FULL", "QUEUE_FULL"]);
    expect(await stored(to)).toBe(1);
  });

  it("refuses at once what can never fit", async () => {
    const queue = opened();
    const to = mailbox();
    const error = await failure(() => queue.sendMessages(notes(to, 3), { flow: { window: 2 } }));
    expect(error).toMatchObject({ code: "QUEUE_FULL", retryable: false });
    await queue.mailboxes.set(to, { maxDepth: 2 });
    const deep = await failure(() =>
      queue.sendMessages(notes(to, 3), { flow: { window: false, whenFull: "wait" } }),
    );
    expect(deep).toMatchObject({ code: "QUEUE_FULL", retryable: false });
    expect(await stored(to)).toBe(0);
  });

  it("spills what has no room: it comes later, and says so", async () => {
    const { queue } = watched(database.knex(), {
      flow: { window: 2, whenFull: "spill", spillMs: 60_000 },
    });
    const to = mailbox();
    const sent = await queue.sendMessages(notes(to, 4));
    expect(sent.map(({ spilled = false }) => spilled)).toEqual([false, false, true, true]);
    const first = await queue.getMessages(to);
    expect(first.map(({ content }) => content)).toEqual([{ n: 0 }, { n: 1 }]);
    expect(await queue.getQueueStats(to)).toMatchObject({ scheduled: 2, leased: 2 });
    await queue.ackMessages(first);
    // What comes later lies beyond the window.
    await queue.sendMessages(notes(to, 2), { flow: { whenFull: "fail" } });
    const late = { ...note(to), fromAgent: "sender", delayMs: 3_600_000 };
    expect(await queue.sendMessage(late)).toMatchObject({ spilled: true });
    for (const { messageId, spilled } of sent) {
      if (spilled) await elapse(database.knex(), 60_000, messageId);
    }
    expect(await queue.getMessages(to)).toHaveLength(4);
    expect(await queue.getQueueStats(to)).toMatchObject({ scheduled: 1 });
  });

  it("keeps the order of an ordering key over what was spilled", async () => {
    const queue = opened();
    const to = mailbox();
    const flow = { window: 1, whenFull: "spill", spillMs: 60_000 } as const;
    const keyed = notes(to, 3, { orderingKey: "k" });
    const sent = await queue.sendMessages(keyed, { flow });
    const seen: unknown[] = [];
    for (const { messageId, spilled } of sent) {
      if (spilled) await elapse(database.knex(), 60_000, messageId);
      const [claim] = await queue.getMessages(to);
      seen.push(claim?.content);
      await claim?.ack();
    }
    expect(seen).toEqual([{ n: 0 }, { n: 1 }, { n: 2 }]);
  });

  it("tells a repetition as such, also where there is no room", async () => {
    const queue = opened();
    const to = mailbox();
    const message = { ...note(to), fromAgent: "sender", messageId: `own-${to}` };
    await queue.sendMessage(message, fail(1));
    expect(await queue.sendMessage(message, fail(1))).toEqual({
      ...{ messageId: `own-${to}`, duplicate: true },
    });
  });

  it("counts each recipient's window by itself, and stores nothing where one has no room", async () => {
    const queue = opened();
    const [one, two] = [mailbox(), mailbox()];
    await queue.sendMessages(notes(one, 1), fail(1));
    const both = { ...note(one), fromAgent: "sender", toAgent: [one, two] };
    const error = await failure(() => queue.sendMessage(both, fail(1)));
    expect(error.details).toMatchObject({ toAgent: one });
    expect(await stored(two)).toBe(0);
    const sent = await queue.sendMessage(both, { flow: { window: 1, whenFull: "spill" } });
    expect(sent.spilled).toBe(true);
    expect(await queue.getMessages(two)).toHaveLength(1);
  });

  it("G2: fails at once in a transaction, which may go on without it", async () => {
    const queue = opened();
    const to = mailbox();
    await queue.sendMessages(notes(to, 1), fail(2));
    const own = { ...note(to), fromAgent: "sender", messageId: `own-${to}` };
    await database.knex().transaction(async (tx) => {
      await queue.sendMessage({ ...note(to), fromAgent: "sender" }, { tx, flow: { window: 2 } });
      const error = await failure(() => queue.sendMessage(own, { tx, flow: { window: 2 } }));
      expect(error.code).toBe("QUEUE_FULL");
    });
    expect(await stored(to)).toBe(2);
    // The id of what was refused was not taken.
    expect(await queue.sendMessage(own)).toMatchObject({ duplicate: false });
    // What was rolled back takes no room.
    const rolled = mailbox();
    await failure(() =>
      database.knex().transaction(async (tx) => {
        await queue.sendMessages(notes(rolled, 2), { tx, ...fail(2) });
        throw new Error("back");
      }),
    );
    await queue.sendMessages(notes(rolled, 2), fail(2));
  });

  it("ends a wait when the queue closes", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages(notes(to, 1), fail(1));
    const waiting = failure(() => queue.sendMessages(notes(to, 1), { flow: { window: 1 } }));
    await until(async () => (await failure(() => queue.sendMessages(notes(to, 1), fail(1)))).code);
    await queue.close();
    expect((await waiting).code).toBe("CLOSED");
  });

  it("G13: refuses options that make no sense", async () => {
    const queue = opened();
    const to = mailbox();
    for (const flow of [
      ...[{ window: 0 }, { window: 10_001 }, { window: true }, { whenFull: "never" }],
      ...[{ waitMs: -1 }, { spillMs: 0 }, { spill: 1 }, true, "wait", null],
    ]) {
      const error = await failure(() => queue.sendMessage(note(to), { flow } as never));
      expect(error.code, JSON.stringify(flow)).toBe("VALIDATION_FAILED");
    }
    await failure(() => queue.sendMessage(note(to), { flows: {} } as never));
    expect(() => watched(database.knex(), { flow: { window: -1 } as never })).toThrow("window");
    expect(await stored(to)).toBe(0);
  });
});
