import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { planOf, type Statement, statementsOf } from "../support/plans.ts";
import { mailbox, note, watched } from "../support/queue.ts";

eachDatabase("contents of a batch", (database) => {
  /** Characters of one, two, three and four bytes. */
  const texts = ["plain", "", "é", "€uro", "👍", "x".repeat(5_000), "naïve 👍", "end é"];

  it.each([
    ["of one byte for each character", texts.filter((text) => /^[ -~]*$/.test(text))],
    ["of some that are longer", texts],
    ["of which the last is longer", ["a", "b", "aé"]],
    ["of which the last is much longer", ["a", "b", "👍"]],
    ["of which the first is longer", ["é", "b", "c"]],
  ])("arrive as they are, %s", async (_, contents) => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages(contents.map((text) => note(to, { text })));
    const claimed = await queue.getMessages(to, { limit: contents.length });
    expect(claimed.map(({ content }) => content)).toEqual(contents.map((text) => ({ text })));
  });
});

eachDatabase("a batch whose messages have little in common", (database) => {
  const each = 600;
  const kinds = {
    "but their mailbox": (n: number) => ({
      ...{ correlationId: `c-${n}`, taskId: `t-${n}`, subject: `s-${n}`, contextId: `x-${n}` },
      ...{ headers: { n: String(n) }, priority: n % 100, maxAttempts: 1 + (n % 7) },
    }),
    "and which fall due at times of their own": (n: number) => ({
      ...{ delayMs: 3_600_000 + n, ttlMs: 1_000 + n, dedupeKey: `d-${n}`, correlationId: `c-${n}` },
    }),
  };

  it.each(Object.entries(kinds))("is stored as it is, %s", async (_, fields) => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const own = (n: number) => fields(n) as Record<string, unknown>;
    const sent = await queue.sendMessages(
      Array.from({ length: each }, (_, n) => ({
        ...{ ...note(to, { n }), ...fields(n) },
        dedupeKey: own(n).dedupeKey === undefined ? undefined : `${to}-${n}`,
      })),
    );
    const rows = await database.knex()("outbox_messages").where({ to_agent: to }).orderBy("seq");
    expect(rows.map(({ message_id }) => message_id)).toEqual(
      sent.map(({ messageId }) => messageId),
    );
    for (const [n, row] of rows.entries()) {
      const { correlationId, subject, priority = 20, maxAttempts, delayMs, ttlMs } = own(n);
      expect(row.correlation_id).toBe(correlationId);
      expect(row.subject).toBe(subject ?? null);
      expect(Number(row.priority)).toBe(priority);
      if (maxAttempts !== undefined) expect(Number(row.max_attempts)).toBe(maxAttempts);
      if (delayMs === undefined) continue;
      expect(Number(row.visible_at)).toBe(Number(row.created_at) + Number(delayMs));
      expect(Number(row.expires_at)).toBe(Number(row.visible_at) + Number(ttlMs));
    }
  });

  it.runIf(database.dialect === "sqlite")("finds what each says by an index", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const to = mailbox();
    const batch = Array.from({ length: 9 }, (_, n) => ({
      ...note(to, { n }),
      correlationId: `c-${n}`,
    }));
    const statements = await statementsOf(knex, () => queue.sendMessages(batch));
    const insert = statements.find(({ sql }) => sql.includes("INSERT INTO"));
    // json_each would be read from its beginning for each message.
    expect(await planOf(knex, "sqlite", insert as Statement)).toMatch(
      /SEARCH h USING AUTOMATIC COVERING INDEX \(n=\?\)/,
    );
  });
});
