import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Knex } from "knex";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { connect } from "../../lib/store/connect.ts";
import type { Pool } from "../../lib/store/connection.ts";
import { query } from "../../lib/store/sql.ts";
import { direct } from "../../lib/store/sqlite-direct.ts";
import { type Opener, WriteAheadLog } from "../../lib/store/sqlite-log.ts";
import type { SqliteConnection } from "../../lib/store/sqlite-statements.ts";
import { until } from "../support/processes.ts";

const PAGE = 4_096;
const INSERT = "INSERT INTO filled (content) VALUES (:content)";

function folderOfOwn(): string {
  const folder = mkdtempSync(join(tmpdir(), "outbox-log-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

interface State {
  readonly log: number;
  readonly checkpointed: number;
}

async function opened() {
  const file = join(folderOfOwn(), "q.sqlite");
  const { knex } = connect(`sqlite:${file}`);
  onTestFinished(async () => knex.destroy());
  await query(knex, "CREATE TABLE filled (content TEXT)");
  const { knex: other } = connect(`sqlite:${file}`);
  onTestFinished(() => other.destroy());
  const state = async () => (await query<State>(other, "PRAGMA wal_checkpoint(NOOP)"))[0] as State;
  /** Writes so many pages, and a few more. */
  const fill = async (pages: number) => {
    for (let n = 0; n < pages / 100; n++) {
      await direct(knex, INSERT, { content: "x".repeat(100 * PAGE) });
    }
  };
  return { file, knex, other, state, fill };
}

const limitOf = async (knex: Knex) =>
  (await query<{ wal_autocheckpoint: number }>(knex, "PRAGMA wal_autocheckpoint"))[0]
    ?.wal_autocheckpoint;

describe("the log of a SQLite file", () => {
  it("is written back beside the statements, before SQLite would do it in one of them", async () => {
    const { knex, fill, state } = await opened();
    expect(await limitOf(knex)).toBe(2_000);
    await until(async () => {
      await fill(100);
      return (await limitOf(knex)) === 16_000;
    });
    const { log } = await state();
    await fill(3_000);
    await until(async () => (await state()).checkpointed > 0);
    expect((await state()).log).toBeGreaterThan(log + 3_000);
  });

  it("begins anew while pages are added all the time", async () => {
    const { file, fill } = await opened();
    await fill(60_000);
    expect(statSync(`${file}-wal`).size).toBeLessThan(20_000 * PAGE);
    expect(statSync(file).size).toBeGreaterThan(40_000 * PAGE);
  });

  it("waits for nobody who reads, and nobody waits for it", async () => {
    const { knex, other, fill, state } = await opened();
    await query(knex, INSERT, { content: "first" });
    const reader = await other.transaction({ readOnly: true });
    await query(reader, "SELECT count(*) AS n FROM filled");
    await fill(20_000);
    const [seen] = await query<{ n: number }>(reader, "SELECT count(*) AS n FROM filled");
    expect(seen?.n).toBe(1);
    await reader.rollback();
    await fill(3_000);
    await until(async () => (await state()).checkpointed > 0);
  });

  it("is gone, and nobody has its file open, when the connection is closed", async () => {
    const { file, knex, other, fill } = await opened();
    await fill(3_000);
    await other.destroy();
    await knex.destroy();
    expect(existsSync(`${file}-wal`)).toBe(false);
    await expect(direct(knex, INSERT, { content: "" })).rejects.toThrow();
  });
});

describe("who looks at the log", () => {
  type Answers = Record<string, object | Error>;

  /** A connection that answers by what a statement contains. */
  function answering(answers: Answers) {
    const asked: string[] = [];
    const all = (sql: string, _: unknown, done: (error: Error | null, rows: unknown[]) => void) => {
      asked.push(sql);
      const [, answer] = Object.entries(answers).find(([part]) => sql.includes(part)) ?? [];
      if (answer instanceof Error) done(answer, []);
      else done(null, [answer]);
    };
    return { asked, connection: { all } as unknown as SqliteConnection };
  }

  function logOver(answers: Answers) {
    const own = answering(answers);
    const writer = answering(answers);
    const opener = {
      acquireRawConnection: vi.fn(async () => own.connection),
      destroyRawConnection: vi.fn(async () => undefined),
    };
    const log = new WriteAheadLog(opener as unknown as Pool & Opener);
    /** Writes enough for a look. */
    const write = async () => {
      await log.wrote(writer.connection, 100_000_000, 0);
      await new Promise(setImmediate);
    };
    return { log, write, opener, own, writer };
  }

  const READY = { version: { version: "3.52.0" }, NOOP: { log: 10, checkpointed: 0 } };

  it("leaves it to SQLite where there is none, as in memory", async () => {
    const { write, opener, writer } = logOver({ ...READY, NOOP: { log: -1, checkpointed: -1 } });
    await write();
    await write();
    expect(opener.acquireRawConnection).toHaveBeenCalledOnce();
    expect(opener.destroyRawConnection).toHaveBeenCalledOnce();
    expect(writer.asked).toEqual([]);
  });

  it("leaves it to a SQLite before 3.51, which would write it back at each look", async () => {
    const { write, opener, own, writer } = logOver({ ...READY, version: { version: "3.50.4" } });
    await write();
    await write();
    expect(own.asked.join()).not.toContain("checkpoint");
    expect(opener.destroyRawConnection).toHaveBeenCalledOnce();
    expect(writer.asked).toEqual([]);
  });

  it("does not open a second connection before much is written", async () => {
    const { log, opener, writer } = logOver(READY);
    for (let n = 0; n < 100; n++) await log.wrote(writer.connection, 500, 1);
    expect(opener.acquireRawConnection).not.toHaveBeenCalled();
  });

  it("only looks while little is to be written back", async () => {
    const { write, own } = logOver(READY);
    await write();
    expect(own.asked.filter((sql) => sql.includes("PASSIVE"))).toEqual([]);
    expect(own.asked.at(-1)).toContain("NOOP");
  });

  it("pauses after an error, and tells nobody", async () => {
    const { log, write, own } = logOver({ ...READY, NOOP: new Error("disk I/O error") });
    await write();
    const { length } = own.asked;
    await write();
    expect(own.asked.length).toBe(length);
    await expect(log.close()).resolves.toBeUndefined();
  });

  it("does nothing more when it is closed", async () => {
    const { log, write, opener } = logOver(READY);
    await write();
    await log.close();
    await write();
    expect(opener.acquireRawConnection).toHaveBeenCalledOnce();
    expect(opener.destroyRawConnection).toHaveBeenCalledOnce();
  });
});
