import knex from "knex";
import { expect, it, onTestFinished } from "vitest";
import { knexConfig } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { allStatementsOf } from "../support/plans.ts";
import { failure, mailbox, note, watched } from "../support/queue.ts";

/** What a bulk format might take for something of its own. */
const TEXTS = [
  "\\N",
  "\\.",
  "tab\tnewline\nreturn\r backslash\\ \\t quote\" '",
  "é 漢字 🦊 \u2028 \u0001 \u007f",
  "x".repeat(300_000),
  "",
];

eachDatabase("messages sent together", (database) => {
  it("arrive as they were, in their order", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const sent = TEXTS.map((text, n) => ({
      ...note(to, { n, [text.slice(0, 50)]: text }),
      subject: `subject ${text.slice(0, 50)}`,
      priority: (["LOW", "NORMAL", "HIGH"] as const)[n % 3] ?? "LOW",
    }));
    await queue.sendMessages(sent);
    const got = await queue.getMessages(to, { limit: 10 });
    const ranks = { HIGH: 0, NORMAL: 1, LOW: 2 };
    const inOrder = [...sent].sort((a, b) => ranks[a.priority] - ranks[b.priority]);
    expect(got.map(({ content, subject }) => ({ content, subject }))).toEqual(
      inOrder.map(({ content, subject }) => ({ content, subject })),
    );
  });

  it("join a caller's transaction, or end with it", async () => {
    const db = database.knex();
    const { queue } = watched(db);
    const [kept, dropped] = [mailbox(), mailbox()];
    const ten = (to: string) => Array.from({ length: 10 }, (_, n) => note(to, { n }));
    for (let times = 0; times < 2; times++) {
      await db.transaction((tx) => queue.sendMessages(ten(kept), { tx }));
      const given = db.transaction(async (tx) => {
        await queue.sendMessages(ten(dropped), { tx });
        throw new Error("the caller's");
      });
      await expect(given).rejects.toThrow("the caller's");
      // From now on it is known how this database takes many.
      await queue.sendMessages(ten(mailbox()));
    }
    expect(await queue.getMessages(kept, { limit: 100 })).toHaveLength(20);
    expect(await queue.getMessages(dropped, { limit: 100 })).toHaveLength(0);
  });
});

const isCopy = ({ sql }: { sql: string }) => sql.startsWith("COPY ");

eachDatabase("messages sent together, in bulk", (database) => {
  it.runIf(database.dialect === "postgres")(
    "are one COPY, and a refused one is told of",
    async () => {
      const db = database.knex();
      const { queue } = watched(db);
      const to = mailbox();
      const seen = await allStatementsOf(db, () => queue.sendMessages([note(to), note(to)]));
      expect(seen.filter(isCopy)).toHaveLength(1);
      const errors: unknown[] = [];
      const listen = (error: unknown) => errors.push(error);
      db.on("query-error", listen);
      // Nothing of the others is stored, and the connection is as good as before.
      await db.raw("ALTER TABLE outbox_messages ADD CONSTRAINT odd CHECK (subject <> 'odd')");
      const error = await failure(() =>
        queue.sendMessages([note(to), { ...note(to), subject: "odd" }]),
      );
      await db.raw("ALTER TABLE outbox_messages DROP CONSTRAINT odd");
      db.removeListener("query-error", listen);
      expect(String(error)).toContain("odd");
      expect(errors).toHaveLength(1);
      expect(await queue.getMessages(to, { limit: 10 })).toHaveLength(2);
    },
  );

  it.runIf(database.dialect === "postgres")(
    "are inserted where the server takes no COPY",
    async () => {
      const owner = database.knex();
      const role = `limited_${process.pid}`;
      await owner.raw(`CREATE ROLE ${role}`);
      await owner.raw(`GRANT ALL ON ALL TABLES IN SCHEMA public TO ${role}`);
      await owner.raw("ALTER TABLE outbox_messages ENABLE ROW LEVEL SECURITY");
      await owner.raw("CREATE POLICY anybody ON outbox_messages USING (true)");
      const config = knexConfig(database.url());
      const limited = knex({
        ...config,
        pool: {
          ...config.pool,
          afterCreate: (connection: { query(text: string, done: unknown): void }, done: unknown) =>
            connection.query(`SET ROLE ${role}`, done),
        },
      });
      onTestFinished(async () => {
        await limited.destroy();
        await owner.raw("DROP POLICY anybody ON outbox_messages");
        await owner.raw("ALTER TABLE outbox_messages DISABLE ROW LEVEL SECURITY");
        await owner.raw(`DROP OWNED BY ${role}`);
        await owner.raw(`DROP ROLE ${role}`);
      });
      const { queue } = watched(limited);
      const to = mailbox();
      const both = () => queue.sendMessages([note(to), note(to)]);
      expect((await allStatementsOf(limited, both)).filter(isCopy)).toHaveLength(1);
      expect((await allStatementsOf(limited, both)).filter(isCopy)).toHaveLength(0);
      expect(await queue.getMessages(to, { limit: 10 })).toHaveLength(4);
    },
  );
});
