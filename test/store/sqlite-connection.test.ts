import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
import { connect } from "../../lib/store/connect.ts";
import { query } from "../../lib/store/sql.ts";

it.each([
  ["", 1],
  ["?synchronous=full", 2],
  ["?synchronous=extra", 3],
])("a file with%s is opened durable, with room for a claim", async (asked, synchronous) => {
  const folder = mkdtempSync(join(tmpdir(), "outbox-pragmas-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const { knex } = connect(`sqlite:${join(folder, "q.sqlite")}${asked}`);
  onTestFinished(() => knex.destroy());
  const pragma = async (name: string) =>
    Object.values((await query(knex, `PRAGMA ${name}`))[0] ?? {})[0];
  expect({
    synchronous: await pragma("synchronous"),
    journal: await pragma("journal_mode"),
    wait: await pragma("busy_timeout"),
    cache: await pragma("cache_size"),
    log: await pragma("wal_autocheckpoint"),
    // Sorts of a large table go to the disk, as SQLite means it.
    temporary: await pragma("temp_store"),
  }).toEqual({
    ...{ synchronous, journal: "wal", wait: 10_000 },
    ...{ cache: -8_000, log: 2_000, temporary: 0 },
  });
});
