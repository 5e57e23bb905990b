import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import knexFactory, { type Knex } from "knex";
import { expect, it, onTestFinished } from "vitest";
import { migrate } from "../../lib/index.ts";
import { connect, knexConfig } from "../../lib/store/connect.ts";
import { query } from "../../lib/store/sql.ts";
import { beginImmediate, isOwn } from "../../lib/store/sqlite-begin.ts";
import { ownTransaction, type RunWithin } from "../../lib/store/sqlite-direct.ts";
import { allStatementsOf } from "../support/plans.ts";
import { failure, note, watched } from "../support/queue.ts";

function stage() {
  const folder = mkdtempSync(join(tmpdir(), "outbox-begin-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const url = `sqlite:${join(folder, "q.sqlite")}`;
  const close = (knex: Knex) => {
    onTestFinished(() => knex.destroy());
    return knex;
  };
  const ours = () => close(connect(url).knex);
  return { ours, theirs: () => close(knexFactory(knexConfig(url))) };
}

const INSERT = "INSERT INTO t VALUES (:a) RETURNING a";
const insert = (db: Knex, a: number) => query(db, INSERT, { a });
const within = (run: RunWithin, a: number) => run(INSERT, { a });
const all = async (db: Knex) =>
  (await query(db, "SELECT a FROM t ORDER BY a")).map((row) => row.a as number);

it("a transaction of our own holds the write lock, and is all or nothing", async () => {
  const { ours } = stage();
  const [knex, other] = [ours(), ours()];
  await knex.raw("CREATE TABLE t (a UNIQUE)");
  await other.raw("PRAGMA busy_timeout = 1");
  const answer = await ownTransaction(knex, async (run) => {
    await within(run, 1);
    expect(await all(other)).toEqual([]);
    await expect(insert(other, 2)).rejects.toMatchObject({ code: "SQLITE_BUSY" });
    await within(run, 3);
    return "done";
  });
  expect(answer).toBe("done");
  expect(await all(other)).toEqual([1, 3]);
  for (let n = 0; n < 5; n++) {
    const transaction = ownTransaction(knex, async (run) => {
      await within(run, 4);
      await within(run, 3);
    });
    await expect(transaction).rejects.toMatchObject({ code: "SQLITE_CONSTRAINT" });
  }
  expect(await all(other)).toEqual([1, 3]);
  await insert(other, 5);
});

it("where SQLite rolled back by itself, the next transaction begins as ever", async () => {
  const { ours } = stage();
  const knex = ours();
  await knex.raw("CREATE TABLE t (a)");
  const transaction = ownTransaction(knex, async (run) => {
    await within(run, 1);
    await run("ROLLBACK");
    throw new Error("the disk is full");
  });
  await expect(transaction).rejects.toThrow("the disk is full");
  await ownTransaction(knex, (run) => within(run, 2));
  expect(await all(knex)).toEqual([2]);
});

it("a lock that is not to be had is told, and leaves the connection free", async () => {
  const { ours } = stage();
  const [knex, other] = [ours(), ours()];
  await knex.raw("CREATE TABLE t (a)");
  await other.raw("PRAGMA busy_timeout = 1");
  await ownTransaction(knex, async (run) => {
    await within(run, 1);
    const refused = ownTransaction(other, (inner) => within(inner, 2));
    await expect(refused).rejects.toMatchObject({ code: "SQLITE_BUSY" });
  });
  await ownTransaction(other, (run) => within(run, 3));
  expect(await all(other)).toEqual([1, 3]);
});

it("an acknowledgement that fails half way has archived nothing, on whatever connection", async () => {
  const { ours, theirs } = stage();
  for (const knex of [ours(), theirs()]) {
    await migrate(knex);
    const { queue } = watched(knex);
    await queue.sendMessages([1, 2, 3].map((n) => note("agent", { n })));
    const claimed = await queue.getMessages("agent", { limit: 3 });
    await knex.raw(`CREATE TRIGGER refuse BEFORE DELETE ON outbox_messages WHEN OLD.message_id = '${claimed[1]?.messageId}'
      BEGIN SELECT RAISE(ABORT, 'refused'); END`);
    expect(await failure(() => queue.ackMessages(claimed))).toMatchObject({
      code: "DATABASE_ERROR",
      message: expect.stringContaining("refused"),
    });
    expect(await knex("outbox_archive").count({ n: "*" })).toEqual([{ n: 0 }]);
    expect(await knex("outbox_messages").count({ n: "*" })).toEqual([{ n: 3 }]);
    await knex.raw("DROP TRIGGER refuse");
    let outcomes: string[] = [];
    const texts = await allStatementsOf(knex, async () => {
      outcomes = await queue.ackMessages([...claimed, ...claimed.slice(0, 1)]);
    });
    expect(outcomes).toEqual(["acked", "acked", "acked", "acked"]);
    expect(texts.at(0)?.sql).toBe(isOwn(knex) ? "BEGIN IMMEDIATE;" : "BEGIN;");
    expect(await knex("outbox_archive").count({ n: "*" })).toEqual([{ n: 3 }]);
    await knex("outbox_archive").delete();
  }
});

it("leaves connections of another driver to knex, whose calls are other ones", () => {
  const knex = knexFactory({ client: "sqlite3", connection: ":memory:", useNullAsDefault: true });
  const named = (driverName: string) => {
    const copy = Object.create(knex) as Knex;
    copy.client = Object.assign(Object.create(knex.client), { driverName });
    beginImmediate(copy);
    return copy;
  };
  expect(isOwn(named("sqlite3"))).toBe(true);
  expect(isOwn(named("better-sqlite3"))).toBe(false);
});
