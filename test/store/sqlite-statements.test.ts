import { access, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import knexFactory, { type Knex } from "knex";
import { afterAll, beforeAll, expect, it, onTestFinished } from "vitest";
import { connect, knexConfig } from "../../lib/store/connect.ts";
import { query, transaction } from "../../lib/store/sql.ts";
import { sqlite } from "../../lib/store/sqlite.ts";
import { allStatementsOf } from "../support/plans.ts";

interface Connection {
  prepare(sql: string, ...rest: unknown[]): unknown;
}

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "statements-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

let files = 0;

function opened(name = `${++files}.sqlite`) {
  const file = join(folder, name);
  const { knex } = connect(`sqlite:${file}`);
  onTestFinished(() => knex.destroy());
  return { file, name, knex };
}

/** The texts that the driver is told to prepare for keeping. */
async function preparedOf(knex: Knex): Promise<string[]> {
  const connection = (await knex.client.acquireConnection()) as Connection;
  const prepare = connection.prepare.bind(connection);
  const texts: string[] = [];
  connection.prepare = (sql, ...rest) => {
    texts.push(sql);
    return prepare(sql, ...rest);
  };
  await knex.client.releaseConnection(connection);
  return texts;
}

it("a statement that comes again is prepared once", async () => {
  const { knex } = opened();
  const prepared = await preparedOf(knex);
  for (let n = 0; n < 5; n++) {
    expect(await query(knex, "SELECT :n + 1 AS n", { n })).toEqual([{ n: n + 1 }]);
  }
  expect(await query(knex, "SELECT 1 AS once")).toEqual([{ once: 1 }]);
  expect(prepared).toEqual(["SELECT ? + 1 AS n"]);
});

it("statements of one text answer each its own question, also at once", async () => {
  const { knex } = opened();
  await knex.transaction(async (trx) => {
    const asked = Array.from({ length: 20 }, (_, n) => query(trx, "SELECT :n AS n", { n }));
    expect((await Promise.all(asked)).flat()).toEqual(
      Array.from({ length: 20 }, (_, n) => ({ n })),
    );
  });
});

it("only so many are kept", async () => {
  const { knex } = opened();
  const prepared = await preparedOf(knex);
  for (let round = 0; round < 3; round++) {
    for (let n = 0; n < 250; n++) {
      expect(await query(knex, `SELECT ${n} AS n`)).toEqual([{ n }]);
    }
  }
  // Each was forgotten before it came again.
  expect(prepared).toEqual([]);
});

it("one that was bound to a large text forgets it, and is kept", async () => {
  const { knex } = opened();
  const connection = (await knex.client.acquireConnection()) as Connection;
  const prepare = connection.prepare.bind(connection);
  const forgotten: unknown[] = [];
  connection.prepare = (sql, ...rest) => {
    const statement = prepare(sql, ...rest) as { bind(...args: unknown[]): unknown };
    const bind = statement.bind.bind(statement);
    statement.bind = (bindings, ...others) => {
      forgotten.push([sql, bindings]);
      return bind(bindings, ...others);
    };
    return statement;
  };
  await knex.client.releaseConnection(connection);
  for (const length of [100_000, 200_000, 10, 300_000, 20]) {
    const bound = { text: "x".repeat(length), bytes: Buffer.alloc(3) };
    const sql = "SELECT length(:text) AS n, length(:bytes) AS m";
    expect(await query(knex, sql, bound)).toEqual([{ n: length, m: 3 }]);
  }
  const once = ["SELECT length(?) AS n, length(?) AS m", [null]];
  expect(forgotten).toEqual([once, once]);
});

it("a kept statement sees the table as it has become, whoever changed it", async () => {
  const { knex, name } = opened();
  const other = opened(name).knex;
  await knex.raw("CREATE TABLE t (a)");
  await knex.raw("INSERT INTO t VALUES (1)");
  for (let n = 0; n < 3; n++) expect(await query(knex, "SELECT * FROM t")).toEqual([{ a: 1 }]);
  await other.raw("ALTER TABLE t ADD COLUMN b DEFAULT 2");
  expect(await query(knex, "SELECT * FROM t")).toEqual([{ a: 1, b: 2 }]);
  await other.raw("DROP TABLE t");
  for (let n = 0; n < 3; n++)
    await expect(query(knex, "SELECT * FROM t")).rejects.toThrow("no such");
  await other.raw("CREATE TABLE t (c)");
  expect(await query(knex, "SELECT * FROM t")).toEqual([]);
});

it("a kept statement that was refused the lock holds nothing, and works again", async () => {
  const { knex, name } = opened();
  const other = opened(name).knex;
  await knex.raw("PRAGMA busy_timeout = 1");
  await knex.raw("CREATE TABLE t (a)");
  const insert = () => query(knex, "INSERT INTO t VALUES (:a) RETURNING a", { a: 1 });
  for (let n = 0; n < 3; n++) await insert();
  await other.transaction(async () => {
    for (let n = 0; n < 3; n++) {
      await expect(insert()).rejects.toMatchObject({ code: "SQLITE_BUSY" });
    }
  });
  expect(await insert()).toEqual([{ a: 1 }]);
  await other.raw("INSERT INTO t VALUES (2)");
  expect(await query(knex, "SELECT count(*) AS n FROM t")).toEqual([{ n: 5 }]);
});

it("a constraint that fails leaves nothing open", async () => {
  const { knex } = opened();
  await knex.raw("CREATE TABLE t (a UNIQUE)");
  const insert = (a: number) => query(knex, "INSERT INTO t VALUES (:a)", { a });
  for (let a = 0; a < 3; a++) await insert(a);
  await expect(insert(2)).rejects.toMatchObject({ code: "SQLITE_CONSTRAINT" });
  await insert(3);
  await knex.raw("VACUUM");
  expect(await query(knex, "SELECT count(*) AS n FROM t")).toEqual([{ n: 4 }]);
});

it("the file is closed although statements were kept", async () => {
  const { knex, file } = opened();
  await knex.raw("CREATE TABLE t (a)");
  for (let a = 0; a < 3; a++) {
    await query(knex, "INSERT INTO t VALUES (:a)", { a: "x".repeat(100_000) });
  }
  await access(`${file}-wal`);
  await knex.destroy();
  // Whoever closes a file last takes the log away.
  await expect(access(`${file}-wal`)).rejects.toMatchObject({ code: "ENOENT" });
});

it("only a transaction that does not hold the write lock asks for it", async () => {
  const { knex, file } = opened();
  const theirs = knexFactory(knexConfig(`sqlite:${file}`));
  onTestFinished(() => theirs.destroy());
  const dialect = sqlite("outbox_");
  await knex.raw("CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT)");
  const texts = async (db: Knex) => {
    const run = () => transaction(dialect, db, (trx) => query(trx, "INSERT INTO t VALUES (NULL)"));
    return (await allStatementsOf(db, run)).map(({ sql }) => sql);
  };
  expect(await texts(knex)).toEqual(["BEGIN IMMEDIATE;", "INSERT INTO t VALUES (NULL)", "COMMIT;"]);
  expect(await texts(theirs)).toEqual([
    "BEGIN;",
    expect.stringContaining("DELETE FROM sqlite_sequence"),
    "INSERT INTO t VALUES (NULL)",
    "COMMIT;",
  ]);
});
