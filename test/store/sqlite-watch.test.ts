import fs, { mkdtempSync, renameSync, rmSync } from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it, onTestFinished, vi } from "vitest";
import { connect } from "../../lib/store/connect.ts";
import { int, query } from "../../lib/store/sql.ts";
import { sqliteChannel } from "../../lib/store/sqlite-watch.ts";
import { until } from "../support/processes.ts";
import { TIMED } from "../support/timed.ts";

async function stage(heard: () => void) {
  const folder = mkdtempSync(join(tmpdir(), "outbox-watch-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const opened = () => {
    const { knex } = connect(`sqlite:${join(folder, "watched.db")}`);
    onTestFinished(() => knex.destroy());
    return knex;
  };
  const [writer, reader] = [opened(), opened()];
  await writer.raw("CREATE TABLE t (a)");
  const lost: string[] = [];
  const calls = { heard, lost: () => void lost.push("lost") };
  const listener = await sqliteChannel(reader)?.listen(calls);
  onTestFinished(() => listener?.close());
  const write = (a: number) => query(writer, "INSERT INTO t VALUES (:a)", { a });
  const last = async () => int((await query(reader, "SELECT max(a) AS a FROM t"))[0]?.a);
  return { folder, lost, listener, write, last };
}

it(
  "of many writes one after the other few are told of, the last one and what follows always",
  TIMED,
  async () => {
    const many = 2_000;
    let heard = 0;
    let seen = -1;
    const { write, last, lost } = await stage(() => {
      heard += 1;
      void last().then((a) => {
        seen = Math.max(seen, a);
      });
    });
    const since = performance.now();
    for (let a = 0; a < many; a++) await write(a);
    await until(() => seen === many - 1, { timeoutMs: 3_000 });
    const windows = (performance.now() - since) / 10;
    // The first windows are shorter.
    expect(heard).toBeLessThan(windows + 6);
    // It listens again whenever it has been quiet for a while.
    for (let a = many; a < many + 20; a++) {
      await until(async () => {
        const before = heard;
        await new Promise((done) => setTimeout(done, 15));
        return heard === before;
      });
      await write(a);
      await until(() => seen === a, { timeoutMs: 3_000 });
    }
    expect(lost).toEqual([]);
  },
);

it("nothing is told of any more once nobody listens", async () => {
  let heard = 0;
  const { write, last, listener } = await stage(() => void heard++);
  for (let a = 0; a < 50; a++) await write(a);
  await until(() => heard > 0);
  listener?.close();
  const before = heard;
  for (let a = 50; a < 100; a++) await write(a);
  await new Promise((done) => setTimeout(done, 40));
  expect(heard).toBe(before);
  expect(await last()).toBe(99);
});

it("who cannot listen again says so, once", async () => {
  const { write, lost, folder } = await stage(() => undefined);
  // The connections have their files open still.
  renameSync(folder, `${folder}-moved`);
  let a = 0;
  await until(async () => {
    for (let n = 0; n < 20; n++) await write(a++);
    return lost.length > 0;
  });
  for (let n = 0; n < 200; n++) await write(a++);
  renameSync(`${folder}-moved`, folder);
  expect(lost).toEqual(["lost"]);
});

it("where it takes long to begin to listen, nobody does so for long", TIMED, async () => {
  const slowMs = 20;
  const { watch } = fs;
  const opened = vi.spyOn(fs, "watch").mockImplementation(((...given: Parameters<typeof watch>) => {
    const until = performance.now() + slowMs;
    while (performance.now() < until);
    return watch(...given);
  }) as typeof watch);
  syncBuiltinESMExports();
  onTestFinished(() => {
    opened.mockRestore();
    syncBuiltinESMExports();
  });
  let heard = 0;
  const { write } = await stage(() => void heard++);
  const since = performance.now();
  for (let a = 0; performance.now() < since + 1_500; a++) await write(a);
  const before = opened.mock.calls.length;
  expect(before).toBeGreaterThan(1);
  // The windows grow to twenty times as long; by windows of 10 ms there would be fifty.
  expect(before).toBeLessThan(15);
  // And what is written while nobody listens is told of in the end.
  const told = heard;
  await write(-1);
  await until(() => heard > told, { timeoutMs: 3_000 });
});
