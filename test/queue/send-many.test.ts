import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { allStatementsOf } from "../support/plans.ts";
import { failure, mailbox, note, watched } from "../support/queue.ts";

eachDatabase("many messages at once", (database) => {
  it("keep what is their own and what they share, in their order", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const sent = Array.from({ length: 300 }, (_, n) => ({
      toAgent: to,
      fromAgent: `sender-${n % 3}`,
      messageType: n % 2 === 0 ? "EVEN" : "ODD",
      content: { n, text: `"quoted" \\ é \u2028 ${"x".repeat(n % 7)}` },
      ...(n % 5 === 0 ? { headers: { n: String(n), empty: "" } } : {}),
      ...(n % 4 === 0 ? { correlationId: `c-${n}`, taskId: `t-${n}`, subject: "a\nb" } : {}),
      ...(n % 50 === 0 ? { maxAttempts: 7 } : {}),
    }));
    const results = await queue.sendMessages(sent);
    expect(new Set(results.map(({ messageId }) => messageId)).size).toBe(300);
    const got = await queue.getMessages(to, { limit: 500 });
    expect(got.map(({ messageId }) => messageId)).toEqual(results.map((one) => one.messageId));
    for (const [n, message] of got.entries()) {
      const { headers = {}, correlationId = null, taskId = null, subject = null } = sent[n] ?? {};
      expect(message).toMatchObject({ ...sent[n], headers, correlationId, taskId, subject });
      expect(message.maxAttempts).toBe(n % 50 === 0 ? 7 : 3);
    }
  });

  it("hold contents as deep as a lone message may", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    let deep: object = {};
    for (let n = 0; n < 99; n++) deep = { a: deep };
    await queue.sendMessage({ ...note(to), content: deep });
    await queue.sendMessages([note(to), { ...note(to), content: deep }]);
    const got = await queue.getMessages(to);
    expect(got.map(({ content }) => content)).toEqual([deep, note(to).content, deep]);
  });

  it("go in statements of a bounded size, all or none, in their order", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const other = mailbox();
    const many = Array.from({ length: 1_700 }, (_, n) => ({
      ...note(to),
      toAgent: n % 2 === 0 ? [to, other] : to,
      content: { n },
    }));
    const seen = await allStatementsOf(database.knex(), () => queue.sendMessages(many));
    const inserts = seen.filter(({ sql }) => /(INSERT INTO|COPY) outbox_messages/.test(sql));
    // 1,000 messages of 1.5 rows, and 700: two statements each.
    expect(inserts).toHaveLength(4);
    const took: unknown[] = [];
    for (;;) {
      const got = await queue.getMessages(to, { limit: 500 });
      if (got.length === 0) break;
      took.push(...got.map(({ content }) => (content as { n: number }).n));
    }
    expect(took).toEqual(many.map(({ content }) => content.n));

    await expect(
      database.knex().transaction(async (tx) => {
        await queue.sendMessages(many, { tx });
        throw new Error("none");
      }),
    ).rejects.toThrow("none");
    expect(await queue.getMessages(to)).toEqual([]);
  });

  it("are none where one is refused, however late, and tell of each again where a key was used", async () => {
    const { queue, events } = watched(database.knex());
    const to = mailbox();
    const many = Array.from({ length: 2_100 }, () => note(to));
    const error = await failure(() => queue.sendMessages([...many, { ...note(to), priority: -5 }]));
    expect(error.message).toContain("messages.2100.priority");
    expect(await queue.getMessages(to)).toEqual([]);
    expect(events).toEqual([]);

    const dedupeKey = mailbox("key");
    const twice = [{ ...note(to), dedupeKey }, ...many, { ...note(to), dedupeKey }];
    const sent = await queue.sendMessages(twice);
    expect(sent.at(-1)).toEqual({ messageId: sent[0]?.messageId, duplicate: true });
    expect(sent.filter(({ duplicate }) => duplicate)).toHaveLength(1);
    expect(events).toHaveLength(2_101);
  });
});
