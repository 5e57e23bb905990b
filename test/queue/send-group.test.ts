import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { failure, mailbox, note, watched } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";

/** Commits of sends, as the pool sees them. */
function inserts(knex: import("knex").Knex): () => number {
  let count = 0;
  knex.on("query", ({ sql }: { sql: string }) => {
    if (/insert\s+into\s+"?`?outbox_messages/i.test(sql)) count += 1;
  });
  return () => count;
}

eachDatabase("sends at the same time", (database) => {
  it("share statements, each with its own result, in the order of the calls", TIMED, async () => {
    const { knex } = await database.fresh();
    const { queue, events } = watched(knex);
    const to = mailbox();
    await queue.sendMessage(note(to, { n: -1 }));
    const count = inserts(knex);
    const sent = await Promise.all(
      Array.from({ length: 200 }, (_, n) =>
        queue.sendMessage({ ...note(to, { n }), messageId: `${to}-${Math.min(n, 150)}` }),
      ),
    );
    expect(count()).toBeLessThan(20);
    expect(sent.map(({ duplicate }) => duplicate)).toEqual(
      Array.from({ length: 200 }, (_, n) => n > 150),
    );
    const claimed = await queue.getMessages(to, { limit: 1_000 });
    expect(claimed.map(({ content }) => (content as { n: number }).n)).toEqual(
      Array.from({ length: 152 }, (_, n) => n - 1),
    );
    expect(events.filter((it) => it.type === "message" && it.event === "sent")).toHaveLength(152);
  });

  it("fail one by one: what cannot be stored costs the others nothing", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const [to, shut] = [mailbox(), mailbox()];
    await queue.mailboxes.set(shut, { maxDepth: 1 });
    const results = await Promise.allSettled(
      Array.from({ length: 40 }, (_, n) => queue.sendMessage(note(n % 4 === 0 ? shut : to))),
    );
    const failed = results.filter(({ status }) => status === "rejected");
    expect(failed).toHaveLength(9);
    for (const { reason } of failed as PromiseRejectedResult[]) {
      expect(reason).toMatchObject({ code: "QUEUE_FULL" });
    }
    expect(await queue.getMessages(to, { limit: 100 })).toHaveLength(30);
    expect(await queue.getMessages(shut, { limit: 100 })).toHaveLength(1);
  });

  it("share statements under dedupe keys, each with its own result", TIMED, async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const to = mailbox();
    await queue.sendMessage(note(mailbox()));
    const count = inserts(knex);
    // SQL Server cannot wait for a key for a moment only: they go alone there.
    const together = database.dialect !== "mssql";
    const many = together ? 200 : 40;
    const keys = (many * 3) / 4;
    const sent = await Promise.all(
      Array.from({ length: many }, (_, n) =>
        queue.sendMessage({ ...note(to, { n }), dedupeKey: `k-${n % keys}` }),
      ),
    );
    expect(count()).toBeGreaterThan(0);
    if (together) expect(count()).toBeLessThan(20);
    expect(sent.filter(({ duplicate }) => duplicate)).toHaveLength(many - keys);
    const first = new Set(sent.filter(({ duplicate }) => !duplicate).map((it) => it.messageId));
    expect(sent.every(({ messageId }) => first.has(messageId))).toBe(true);
    expect(await queue.getMessages(to, { limit: 1_000 })).toHaveLength(keys);
  });

  it.runIf(database.dialect !== "sqlite")(
    "wait for nobody whose key another transaction holds, but themselves",
    async () => {
      const { knex } = await database.fresh();
      const { queue } = watched(knex);
      const to = mailbox();
      const keyed = (key: string) => queue.sendMessage({ ...note(to, { key }), dedupeKey: key });
      await keyed("before");
      const tx = await knex.transaction();
      await queue.sendMessage({ ...note(to, { key: "held" }), dedupeKey: "held" }, { tx });
      const others = Array.from({ length: 40 }, (_, n) => keyed(`k-${n}`));
      const waiting = keyed("held");
      const later = Array.from({ length: 40 }, (_, n) => keyed(`l-${n}`));
      const sent = await Promise.all([...others, ...later]);
      expect(sent.every(({ duplicate }) => !duplicate)).toBe(true);
      // And those that come while it waits.
      expect(await keyed("meanwhile")).toMatchObject({ duplicate: false });
      await tx.commit();
      expect(await waiting).toMatchObject({ duplicate: true });
      expect(await queue.getMessages(to, { limit: 1_000 })).toHaveLength(83);
    },
  );

  it("never share a caller's transaction, and are refused after close", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const to = mailbox();
    await queue.sendMessage(note(mailbox()));
    const tx = await knex.transaction();
    const inside = await queue.sendMessage(note(to, { n: 1 }), { tx });
    // SQLite has one connection: sends outside wait for the transaction there.
    const outside = Promise.all([1, 2, 3].map((n) => queue.sendMessage(note(to, { n: n + 1 }))));
    await tx.rollback();
    expect(inside.duplicate).toBe(false);
    await outside;
    const claimed = await queue.getMessages(to);
    expect(claimed.map(({ content }) => (content as { n: number }).n)).toEqual([2, 3, 4]);
    await queue.close();
    expect(await failure(() => queue.sendMessage(note(to)))).toMatchObject({ code: "CLOSED" });
  });
});

eachDatabase("sends that wait for company when the queue closes", (database) => {
  it("are stored before it is closed", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const to = mailbox();
    // The first call of a queue looks at the schema before anything else.
    await queue.sendMessage(note(mailbox()));
    const sent = Array.from({ length: 300 }, () => queue.sendMessage(note(to)));
    // The calls have passed the door; closing waits for what they gave.
    await new Promise((resolve) => setImmediate(resolve));
    await queue.close();
    const ends = await Promise.allSettled(sent);
    const stored = ends.filter(({ status }) => status === "fulfilled").length;
    const [row] = (await knex("outbox_messages").count({ n: "*" })) as { n: number | string }[];
    expect(stored).toBe(300);
    expect(Number(row?.n)).toBe(301);
  });
});
