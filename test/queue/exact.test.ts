import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { mailbox, note, watched } from "../support/queue.ts";

/** What a statement that puts texts together, cuts them apart or reads them twice might spoil. */
const CONTENTS = [
  {},
  { "": "" },
  {
    quotes: "\"'`",
    slashes: "\\ / \\\\n",
    breaks: "\r\n\t\b\f",
    marks: ":name ? ?? $1 $.x @p0 %s",
  },
  { control: "\u0001\u001f\u007f", separators: "\u2028\u2029", end: "]}],[{" },
  { unicode: "äß€ 漢字 🙂 e\u0301", 'kéy 🙂 "quoted" \\': [[], [[]], {}] },
  { numbers: [0, -1, 1.5, 1e21, 1e-7, 9_007_199_254_740_991, 5e-324, 1.7976931348623157e308] },
  { scalars: [true, false, null, "null", "0", ""] },
  JSON.parse('{"__proto__":1,"constructor":2,"toString":{"b":1,"a":2},"2":0,"1":0}'),
  { long: "ä".repeat(900), wide: Array.from({ length: 90 }, (_, n) => ({ n })) },
];

eachDatabase("what is stored is what was sent", (database) => {
  it.each([
    ["alone", 1],
    ["in a batch", CONTENTS.length],
    ["in a batch of many", 400],
  ])("sent %s", async (_, count) => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const messages = count === 1 ? CONTENTS.map((_, n) => n) : Array.from({ length: count }).keys();
    const notes = [...messages].map((n) => note(to, CONTENTS[n % CONTENTS.length]));
    if (count === 1) for (const one of notes) await queue.sendMessage(one);
    else await queue.sendMessages(notes);
    if (database.dialect === "sqlite") {
      const rows = await database
        .knex()("outbox_messages")
        .select("content", database.knex().raw("typeof(content) AS type"))
        .where({ to_agent: to })
        .orderBy("seq");
      expect(rows).toEqual(
        notes.map(({ content }) => ({ content: JSON.stringify(content), type: "text" })),
      );
    }
    const claimed = await queue.getMessages(to, { limit: 500 });
    expect(claimed.map(({ content }) => content)).toEqual(notes.map(({ content }) => content));
    expect(new Set(await queue.ackMessages(claimed))).toEqual(new Set(["acked"]));
    const kept = await queue.getMessage(claimed[2]?.messageId ?? "");
    expect(kept).toMatchObject({ state: "processed", content: notes[2]?.content });
  });

  it("a batch of different senders, types and subjects gives each message its own", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const sent = Array.from({ length: 60 }, (_, n) => ({
      ...note(to, { n }),
      fromAgent: `from-"${n % 3}"`,
      messageType: `TYPE_${n % 4}`,
      ...(n % 5 === 0 ? { subject: `:subject ${n} 'ä'` } : {}),
      ...(n % 7 === 0 ? { headers: { n, mark: '"' } } : {}),
    }));
    await queue.sendMessages(sent);
    const claimed = await queue.getMessages(to, { limit: 100 });
    expect(claimed.map(({ content }) => content)).toEqual(sent.map(({ content }) => content));
    for (const [n, message] of claimed.entries()) expect(message).toMatchObject({ ...sent[n] });
  });

  it("a claim gives back every field, and nothing where nothing was said", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const said = {
      ...note(to, { a: 1 }),
      fromAgent: "sender",
      correlationId: 'c"1',
      causationId: "c2",
      replyTo: "r\\1",
      contextId: "ctx",
      taskId: "t1",
      subject: 'a "subject" with ] and ä',
      orderingKey: "o'1",
      cost: 3,
      ttlMs: 3_600_000,
      headers: { h: '"', n: 1, yes: true },
      retry: { strategy: "fixed" as const, initialDelayMs: 5 },
    };
    await queue.sendMessage(said);
    await queue.sendMessage(note(to, { b: 2 }));
    const [full, bare] = await queue.getMessages(to, { limit: 2 });
    const { ttlMs, toAgent, retry, ...told } = said;
    expect(full).toMatchObject({ ...told, attempt: 1 });
    expect(full?.expiresAt).not.toBeNull();
    expect(bare).toMatchObject({ content: { b: 2 }, attempt: 1 });
    const unset = [bare?.correlationId, bare?.replyTo, bare?.subject, bare?.orderingKey];
    expect(unset.filter((value) => value !== null && value !== undefined)).toEqual([]);
  });
});
