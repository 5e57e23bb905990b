import { expect, it } from "vitest";
import { ValidationFailed } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { failure, mailbox, note, watched } from "../support/queue.ts";

eachDatabase("a long array of messages", (database) => {
  /** Statements that store messages while this runs. */
  async function insertions(run: () => Promise<unknown>): Promise<number> {
    let count = 0;
    const knex = database.knex();
    const listen = ({ sql }: { sql: string }) => {
      if (/(COPY|INSERT INTO) outbox_messages\b/.test(sql)) count += 1;
    };
    knex.on("query", listen);
    try {
      await run();
    } finally {
      knex.removeListener("query", listen);
    }
    return count;
  }

  it("is stored a portion at a time, in order, all or none", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const messages = Array.from({ length: 2_300 }, (_, n) => note(to, { n }));
    expect(await insertions(() => queue.sendMessages(messages))).toBe(3);
    const seen: unknown[] = [];
    for (let n = 0; n < 3; n++) {
      const claimed = await queue.getMessages(to, { limit: 1_000 });
      seen.push(...claimed.map(({ content }) => (content as { n: number }).n));
    }
    expect(seen).toEqual(messages.map((_, n) => n));

    const elsewhere = mailbox();
    const wrong = messages.map((message, n) => ({
      ...{ ...message, toAgent: elsewhere },
      ...(n === 2_200 ? { messageType: "no type" } : {}),
    }));
    const error = await failure(() => queue.sendMessages(wrong));
    expect(error).toBeInstanceOf(ValidationFailed);
    expect(error.message).toContain("messages.2200");
    expect(await queue.getMessages(elsewhere)).toEqual([]);
  });

  it("is stored in smaller portions where its contents are large", async () => {
    const { queue } = watched(database.knex(), { compress: false });
    const text = "x".repeat(900_000);
    const send = (to: string, options: object = {}) =>
      queue.sendMessages(
        Array.from({ length: 40 }, (_, n) => note(to, { n, text })),
        options,
      );
    const [one, other] = [mailbox(), mailbox()];
    expect(await insertions(() => send(one))).toBeGreaterThanOrEqual(3);
    const inTransaction = () => database.knex().transaction((tx) => send(other, { tx }));
    expect(await insertions(inTransaction)).toBeGreaterThanOrEqual(3);
    const named = mailbox();
    const withIds = () =>
      queue.sendMessages(
        Array.from({ length: 40 }, (_, n) => ({
          ...note(named, { n, text }),
          messageId: `${named}-${n}`,
        })),
      );
    expect(await insertions(withIds)).toBeGreaterThanOrEqual(3);
    const many = Array.from({ length: 30 }, (_, n) => `${one}-${n}`);
    const toMany = () => queue.sendMessage({ ...note(one, { n: 0, text }), toAgent: many });
    expect(await insertions(toMany)).toBe(2);
    for (const to of many) expect(await queue.getMessages(to)).toHaveLength(1);
    for (const to of [one, other, named]) {
      const claimed = await queue.getMessages(to, { limit: 100 });
      expect(claimed.map(({ content }) => (content as { n: number }).n)).toEqual(
        Array.from({ length: 40 }, (_, n) => n),
      );
    }
  });
});
