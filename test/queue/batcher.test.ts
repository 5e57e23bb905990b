import { expect, it } from "vitest";
import { type AgentCommunicationError, MessageQueueManager } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { failure, mailbox, note, watched } from "../support/queue.ts";

const LONG = { maxWaitMs: 60_000 };

/** The code of the error that each ended with, or what it was told. */
const ends = async (calls: readonly Promise<object>[]) =>
  (await Promise.allSettled(calls)).map((call) =>
    call.status === "fulfilled" ? call.value : (call.reason as AgentCommunicationError).code,
  );

eachDatabase("the batcher", (database) => {
  const opened = () => watched(database.knex()).queue;
  const contents = async (to: string) =>
    (await opened().getMessages(to, { limit: 1_000 })).map(({ content }) => content);

  it("sends a full batch at once, in one statement and in the order of the calls", async () => {
    const queue = opened();
    const to = mailbox();
    const inserts: string[] = [];
    const knex = database.knex();
    const listen = ({ sql }: { sql: string }) => {
      if (/(INSERT INTO|COPY) outbox_messages/.test(sql)) inserts.push(sql);
    };
    knex.on("query", listen);
    const batcher = queue.batcher({ ...LONG, maxSize: 50 });
    const sent = await Promise.all(
      Array.from({ length: 100 }, (_, n) => batcher.send(note(to, { n }))),
    );
    knex.off("query", listen);
    expect(inserts).toHaveLength(2);
    expect(new Set(sent.map(({ messageId }) => messageId)).size).toBe(100);
    expect(await contents(to)).toEqual(Array.from({ length: 100 }, (_, n) => ({ n })));
  });

  it("lets a lone message wait no longer than it was told", async () => {
    const to = mailbox();
    const batcher = opened().batcher();
    expect(await batcher.send(note(to))).toMatchObject({ duplicate: false });
    expect(await contents(to)).toHaveLength(1);
  });

  it("sends what is there on flush, and what comes while a batch is under way right after it", async () => {
    const to = mailbox();
    const batcher = opened().batcher(LONG);
    await batcher.flush();
    const first = batcher.send(note(to, { n: 1 }));
    const flushed = batcher.flush();
    const second = batcher.send(note(to, { n: 2 }));
    await flushed;
    await first;
    await second;
    expect(await contents(to)).toEqual([{ n: 1 }, { n: 2 }]);
  });

  it("refuses a bad message by itself, and no other", async () => {
    const to = mailbox();
    const batcher = opened().batcher({ ...LONG, maxSize: 2 });
    const one = batcher.send(note(to, { n: 1 }));
    const bad = await failure(() => batcher.send({ ...note(to), priority: "NONE" } as never));
    expect(bad.code).toBe("VALIDATION_FAILED");
    const two = batcher.send(note(to, { n: 2 }));
    await Promise.all([one, two]);
    expect(await contents(to)).toEqual([{ n: 1 }, { n: 2 }]);
  });

  it("sends the rest apart where the statement fails for one, each with its own end", async () => {
    const queue = opened();
    const [to, full, broken] = [mailbox(), mailbox(), mailbox()];
    await queue.mailboxes.set(full, { maxDepth: 1 });
    await queue.mailboxes.set(broken, {
      breaker: { failureThreshold: 1, recoveryTimeoutMs: 60_000, whenOpen: "fail" },
    });
    await queue.sendMessage(note(broken));
    const [claim] = await queue.getMessages(broken);
    await claim?.nack(new Error("down"));
    const batcher = queue.batcher({ ...LONG, maxSize: 7 });
    const calls = [to, full, to, broken, full, to, to].map((toAgent, n) =>
      batcher.send(note(toAgent, { n })),
    );
    expect((await ends(calls)).map((end) => (typeof end === "string" ? end : "stored"))).toEqual([
      ...["stored", "stored", "stored", "CIRCUIT_OPEN", "QUEUE_FULL", "stored", "stored"],
    ]);
    expect(await contents(to)).toEqual([{ n: 0 }, { n: 2 }, { n: 5 }, { n: 6 }]);
  });

  it("tells each caller whether its message is a repetition", async () => {
    const to = mailbox();
    const batcher = opened().batcher({ ...LONG, maxSize: 4 });
    const ids = ["a", "b", "a", "c"].map((name) => `${to}-${name}`);
    const sent = await Promise.all(
      ids.map((messageId) => batcher.send({ ...note(to), messageId })),
    );
    expect(sent).toEqual(ids.map((messageId, n) => ({ messageId, duplicate: n === 2 })));
    expect(await contents(to)).toHaveLength(3);
  });

  it("writes the size of the batch into a header, if asked to, and its members settle one by one", async () => {
    const queue = opened();
    const to = mailbox();
    const batcher = queue.batcher({ ...LONG, maxSize: 3, headers: true });
    await Promise.all(
      [1, 2, 3].map((n) => batcher.send({ ...note(to, { n }), headers: { mine: n } })),
    );
    const claims = await queue.getMessages(to);
    expect(claims.map(({ headers }) => headers)).toEqual(
      [1, 2, 3].map((mine) => ({ mine, "batch-size": 3 })),
    );
    expect(await claims[1]?.ack()).toBe("acked");
    expect(await claims[0]?.nack(new Error("no"), { delayMs: 0 })).toBe("retried");
    expect((await queue.getMessages(to)).map(({ content }) => content)).toEqual([{ n: 1 }]);
  });

  it("makes senders wait while too many do already, and brings all of them through", async () => {
    const to = mailbox();
    const batcher = opened().batcher({ maxSize: 3, maxPending: 5 });
    const calls = Array.from({ length: 40 }, (_, n) => batcher.send(note(to, { n })));
    await Promise.all(calls);
    expect(await contents(to)).toEqual(Array.from({ length: 40 }, (_, n) => ({ n })));
  });

  it("sends what is left when it closes under load, and takes no more", async () => {
    const to = mailbox();
    const queue = opened();
    const batcher = queue.batcher({ maxSize: 10, maxPending: 20 });
    const calls = Array.from({ length: 200 }, (_, n) => batcher.send(note(to, { n })));
    const closed = batcher.close();
    expect((await failure(() => batcher.send(note(to)))).code).toBe("CLOSED");
    await closed;
    expect(await contents(to)).toHaveLength(200);
    await Promise.all(calls);
    await batcher.close();
  });

  it("is closed by its scope, and with its queue", async () => {
    const to = mailbox();
    let sent: Promise<unknown> | undefined;
    {
      await using batcher = opened().batcher(LONG);
      sent = batcher.send(note(to));
    }
    await sent;
    const queue = new MessageQueueManager(database.knex());
    const batcher = queue.batcher(LONG);
    const last = batcher.send(note(to));
    await queue.close();
    await last;
    expect((await failure(() => batcher.send(note(to)))).code).toBe("CLOSED");
    expect(await contents(to)).toHaveLength(2);
  });

  it("lets only those wait that have no room, in their order, and holds up nobody else", async () => {
    const queue = opened();
    const [to, slow] = [mailbox(), mailbox()];
    await queue.mailboxes.set(slow, { maxDepth: 1 });
    const waiting = queue.batcher({ ...LONG, maxSize: 8, flow: { window: false } });
    const calls = [to, slow, slow, slow, to, slow, slow, to].map((toAgent, n) =>
      waiting.send(note(toAgent, { n })),
    );
    await Promise.all([0, 1, 4, 7].map((n) => calls[n]));
    expect(await contents(to)).toEqual([{ n: 0 }, { n: 4 }, { n: 7 }]);
    // Also later ones go behind those that wait, and past them to other mailboxes.
    const late = [slow, to].map((toAgent) => waiting.send(note(toAgent, { n: "late" })));
    void waiting.flush();
    await late[1];
    const seen: unknown[] = [];
    while (seen.length < 6) {
      const [claim] = await queue.getMessages(slow, { waitMs: 10_000 });
      seen.push((claim?.content as { n: unknown } | undefined)?.n);
      await claim?.ack();
    }
    await Promise.all([...calls, ...late]);
    expect(seen).toEqual([1, 2, 3, 5, 6, "late"]);
  });

  it("passes on that the database failed, to each", async () => {
    const { knex } = await database.unmigrated();
    const queue = watched(knex).queue;
    const batcher = queue.batcher({ ...LONG, maxSize: 2 });
    const calls = [batcher.send(note("a")), batcher.send(note("b"))];
    expect(await ends(calls)).toEqual(["NOT_MIGRATED", "NOT_MIGRATED"]);
  });

  it("G13: refuses options that make no sense", async () => {
    const queue = opened();
    for (const wrong of [
      ...[{ maxSize: 0 }, { maxSize: 1_001 }, { maxWaitMs: -1 }, { maxPending: 0 }],
      ...[{ headers: "yes" }, { size: 3 }, { flow: { window: 0 } }, null],
    ]) {
      const error = await failure(() => queue.batcher(wrong as never));
      expect(error.code, JSON.stringify(wrong)).toBe("VALIDATION_FAILED");
    }
  });
});
