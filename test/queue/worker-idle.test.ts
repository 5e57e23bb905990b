import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { expect, it, onTestFinished } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { mailbox, note, watched } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";

eachDatabase("an idle worker", (database) => {
  it("finds what nobody told of behind many messages in flight", TIMED, async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex, { notify: false });
    const [to, elsewhere] = [mailbox(), mailbox()];
    await queue.sendMessages(Array.from({ length: 120 }, (_, n) => note(to, { n })));
    expect(await queue.getMessages(to, { limit: 120, leaseMs: 600_000 })).toHaveLength(120);
    const { messageId } = await queue.sendMessage(note(elsewhere));
    const worker = queue.work(to, () => undefined, { pollMs: { min: 5, max: 20 } });
    await sleep(500);
    // No wake-up: it comes into the mailbox beside the queue.
    await knex("outbox_messages").where({ message_id: messageId }).update({ to_agent: to });
    await until(() => worker.stats.processed === 1, { timeoutMs: 8_000 });
  });

  // On SQLite the look has the only connection.
  it.skipIf(database.dialect === "sqlite")(
    "does not wait for its look when it hears of a message meanwhile",
    async () => {
      const { knex } = await database.fresh();
      const { queue } = watched(knex);
      const to = mailbox();
      let answer: () => void = () => undefined;
      const held = new Promise<void>((resolve) => {
        answer = resolve;
      });
      const looked = new Promise<void>((resolve) => {
        const client = knex.client as { _query(connection: object, query: object): unknown };
        const run = client._query;
        client._query = async function slow(this: object, connection, query) {
          if (/\bmin\(x\.visible_at\)/.test((query as { sql: string }).sql)) {
            resolve();
            await held;
          }
          return run.call(this, connection, query);
        };
      });
      const worker = queue.work(to, () => undefined, { pollMs: { min: 1, max: 2 } });
      await looked;
      await queue.sendMessage(note(to));
      await until(() => worker.stats.processed === 1);
      answer();
    },
  );

  it.skipIf(database.dialect !== "postgres")(
    "does not read again and again what a transaction held open keeps of finished messages",
    async () => {
      const { url, knex } = await database.fresh();
      const { queue } = watched(knex);
      const to = mailbox();
      await queue.sendMessage(note(to));
      const columns = Object.keys((await knex("outbox_messages").first()) as object)
        .filter((column) => column !== "seq")
        .join(", ");
      await knex.raw(
        `INSERT INTO outbox_messages (${columns}) SELECT ${columns} FROM outbox_messages, generate_series(1, 60000)`,
      );
      const holder = new pg.Client({ connectionString: url });
      await holder.connect();
      onTestFinished(() => holder.end());
      await holder.query("BEGIN ISOLATION LEVEL REPEATABLE READ");
      await holder.query("SELECT 1");
      await knex("outbox_messages").del();

      let [looks, claims] = [0, 0];
      knex.on("query", ({ sql }: { sql: string }) => {
        if (/\bmin\(x\.visible_at\)/.test(sql)) looks += 1;
        else if (/jsonb_to_recordset/.test(sql)) claims += 1;
      });
      const worker = queue.work(to, () => undefined, { pollMs: { min: 1, max: 2 } });
      await queue.sendMessage(note(to));
      await until(() => worker.stats.processed === 1);
      // It may have looked before its first claim said how far it is.
      const before = looks;
      const claimsBefore = claims;
      await until(() => claims >= claimsBefore + 20);
      expect(looks).toBe(before);
    },
  );
});
