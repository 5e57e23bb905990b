import knexOf, { type Knex } from "knex";
import { expect, it, onTestFinished } from "vitest";
import { knexConfig, MessageQueueManager } from "../../lib/index.ts";
import { connect } from "../../lib/store/connect.ts";
import { eachDatabase } from "../support/databases.ts";
import { TransactionPooler } from "../support/pooler.ts";
import { until } from "../support/processes.ts";
import { failure, mailbox, note } from "../support/queue.ts";

interface Statement {
  readonly name: string;
  readonly statement: string;
  readonly generic: number;
  readonly custom: number;
}

/** With one connection, so that all that is prepared is prepared on it. */
function lone(url: string): Knex {
  const knex = knexOf({ ...knexConfig(url), pool: { min: 1, max: 1 } });
  onTestFinished(() => knex.destroy());
  return knex;
}

async function prepared(knex: Knex): Promise<Statement[]> {
  const answer = await knex.raw<{ rows: Statement[] }>(
    `SELECT name, statement, CAST(generic_plans AS int) AS generic, CAST(custom_plans AS int) AS custom
     FROM pg_prepared_statements WHERE name LIKE 'outbox%'`,
  );
  return answer.rows;
}

function plans(statements: readonly Statement[], wanted: RegExp) {
  return statements
    .filter(({ statement }) => wanted.test(statement))
    .map(({ generic, custom }) => ({ generic, custom }));
}

/**
 * How the claims of a connection were planned: those whose plan is kept while the table is small, and all others. On a
 * busy machine some are others from the beginning: one that is held up is taken for a long walk.
 */
async function claims(knex: Knex) {
  const statements = await prepared(knex);
  const sum = (own: boolean) =>
    plans(statements, own ? /UPDATE.*generate_series/s : /UPDATE.*pg_relation_size/s).reduce(
      (all, { generic, custom }) => ({
        generic: all.generic + generic,
        custom: all.custom + custom,
      }),
      { generic: 0, custom: 0 },
    );
  return { kept: sum(false), own: sum(true) };
}

/** Sends a message and takes it. */
async function pass(queue: MessageQueueManager, to: string): Promise<void> {
  const { messageId } = await queue.sendMessage(note(to));
  const [message] = await queue.getMessages(to);
  expect(message?.messageId).toBe(messageId);
  await message?.ack();
}

eachDatabase("what runs most often", (database) => {
  if (database.dialect !== "postgres") {
    it("is left to the driver where no connection keeps statements by name", async () => {
      const queue = new MessageQueueManager(database.knex());
      for (let n = 0; n < 3; n++) await pass(queue, mailbox());
    });
    return;
  }

  it("is prepared once for a connection, and planned each time where the plan could be wrong later", async () => {
    const knex = lone(database.url());
    const queue = new MessageQueueManager(knex, { notify: false });
    const to = mailbox();
    let passed = 0;
    await until(async () => {
      await pass(queue, to);
      passed += 1;
      return (await claims(knex)).kept.generic === 15;
    });
    expect(await queue.getMessages(to)).toEqual([]);
    const statements = await prepared(knex);
    // A plan that is kept: of an insertion, which needs none, and of claims while the table is small.
    expect(plans(statements, /^\s*INSERT/)).toEqual([{ generic: passed - 5, custom: 5 }]);
    const { kept, own } = await claims(knex);
    expect(kept.custom).toBe(5);
    expect(own.generic).toBe(0);
    expect(kept.generic + kept.custom + own.custom).toBe(passed + 1);
    expect(plans(statements, /DELETE/)).toEqual([{ generic: 0, custom: passed }]);
    expect(plans(statements, /AS large/)).toEqual([{ generic: 0, custom: 1 }]);
  });

  it("has a plan of its own once the table is large, whatever was planned while it was small", async () => {
    const { url } = await database.fresh();
    const knex = lone(url);
    const queue = new MessageQueueManager(knex, { notify: false });
    const to = mailbox();
    await until(async () => {
      await pass(queue, to);
      return (await claims(knex)).kept.generic === 15;
    });
    const before = await claims(knex);
    const other = mailbox();
    const many = Array.from({ length: 1_000 }, (_, n) => note(other, { n, text: "x".repeat(300) }));
    for (let n = 0; n < 6; n++) await queue.sendMessages(many);
    for (let n = 0; n < 20; n++) await pass(queue, to);
    const { kept, own } = await claims(knex);
    expect(own.generic).toBe(0);
    expect(own.custom - before.own.custom).toBeGreaterThanOrEqual(20);
    // One claim found the table large.
    expect(kept.generic - before.kept.generic).toBeLessThan(2);
    expect(kept.custom).toBe(before.kept.custom);
  });

  it("is not prepared where that is not wanted", async () => {
    const knex = lone(database.url());
    const queue = new MessageQueueManager(knex, { notify: false, prepare: false });
    const to = mailbox();
    await pass(queue, to);
    await knex.transaction(async (tx) => void (await queue.sendMessage(note(to), { tx })));
    expect(await prepared(knex)).toEqual([]);
  });

  it("is prepared in transactions, too: once for a connection", async () => {
    const knex = lone(database.url());
    const queue = new MessageQueueManager(knex, { notify: false });
    const to = mailbox();
    const statements: string[] = [];
    knex.on("query", ({ sql }: { sql: string }) => statements.push(sql));
    for (let n = 0; n < 3; n++) {
      await queue.sendMessage(note(to));
      const [message] = await queue.getMessages(to);
      await knex.transaction(async (tx) => {
        await message?.ack({ tx });
        await queue.sendMessage(note(to), { tx });
      });
    }
    const found = await prepared(knex);
    expect(plans(found, /^\s*INSERT/)).toEqual([{ generic: 1, custom: 5 }]);
    expect(plans(found, /DELETE/)).toEqual([{ generic: 0, custom: 3 }]);
    expect(statements.filter((sql) => sql.includes("pg_backend_pid"))).toHaveLength(1);
  });

  it("costs one transaction where somebody threw away what was prepared, and then no other", async () => {
    const knex = lone(database.url());
    const queue = new MessageQueueManager(knex, { notify: false });
    const to = mailbox();
    const inside = () =>
      knex.transaction(async (tx) => void (await queue.sendMessage(note(to), { tx })));
    await inside();
    await knex.raw("DEALLOCATE ALL");
    const lost = await failure(inside);
    expect(lost).toMatchObject({ code: "SERVICE_UNAVAILABLE", retryable: true });
    await inside();
    await knex.raw("DEALLOCATE ALL");
    await inside();
    expect(await queue.getMessages(to)).toHaveLength(3);
  });

  it("runs on after somebody threw away what was prepared", async () => {
    const knex = lone(database.url());
    const queue = new MessageQueueManager(knex, { notify: false });
    const to = mailbox();
    await pass(queue, to);
    await knex.raw("DEALLOCATE ALL");
    await pass(queue, to);
    await pass(queue, to);
    expect(await prepared(knex)).not.toEqual([]);
  });

  it("runs on after a migration changed the type of what it answers", async () => {
    const { url } = await database.fresh();
    const knex = lone(url);
    const queue = new MessageQueueManager(knex, { notify: false });
    const to = mailbox();
    for (let n = 0; n < 7; n++) await pass(queue, to);
    await knex.raw("ALTER TABLE outbox_messages ALTER kind TYPE varchar(77)");
    for (let n = 0; n < 7; n++) await pass(queue, to);
  });

  it("is right behind a pooler that gives each transaction another connection, and soon no longer prepared", async () => {
    const { url, knex: direct } = await database.fresh();
    const pooler = await TransactionPooler.start(url);
    onTestFinished(() => pooler.dispose());
    // Two processes of one application: same texts, same names, other connections each time.
    const pools = [connect(pooler.url).knex, connect(pooler.url).knex];
    onTestFinished(() => Promise.all(pools.map((knex) => knex.destroy())).then(() => undefined));
    const refusals: string[] = [];
    for (const knex of pools) {
      knex.on("query-error", ({ code }: { code: string }) => refusals.push(code));
    }
    const queues = pools.map((knex) => new MessageQueueManager(knex, { notify: false }));
    const to = mailbox();
    const count = 40;
    const work = queues.map(async (queue, n) => {
      for (let sent = 0; sent < count; sent++) await queue.sendMessage(note(to));
      const mine = mailbox();
      for (let passed = 0; passed < count; passed++) await pass(queue, `${mine}-${n}`);
      for (let sent = 0; sent < count; sent++) {
        // Nothing is prepared in these: none of them may be refused.
        await (pools[n] as Knex).transaction(async (tx) => {
          await queue.sendMessage(note(to), { tx });
          await queue.sendMessage(note(to), { tx });
        });
      }
    });
    await Promise.all(work);
    const handled = await Promise.all(
      queues.map(async (queue) => {
        const ids: string[] = [];
        for (;;) {
          const messages = await queue.getMessages(to, { limit: 7 });
          if (messages.length === 0) return ids;
          for (const message of messages) {
            await message.ack();
            ids.push(message.messageId);
          }
        }
      }),
    );
    expect(new Set(handled.flat()).size).toBe(queues.length * count * 3);
    expect(handled.flat()).toHaveLength(queues.length * count * 3);
    expect(Number((await direct("outbox_messages").count({ n: "*" }))[0]?.n)).toBe(0);
    expect(pooler.switched).toBeGreaterThan(50);
    expect(refusals.length).toBeGreaterThan(0);
    expect(refusals.every((code) => ["26000", "42P05"].includes(code))).toBe(true);
    // Each pool tries three times; a few were under way by then.
    expect(refusals.length).toBeLessThan(30);
  });
});
