/** Listing, cleaning up and following the files, in both layouts. */
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import { ValidationFailed } from "../../lib/errors.ts";
import { FileLogger } from "../../lib/observability/file-logger.ts";
import { cleanupLogs, listLogFiles } from "../../lib/observability/log-files.ts";
import { type LogLine, tailLogs } from "../../lib/observability/tail-logs.ts";
import { DAY_MS, messageEvent, NOON, tempDir } from "./support.ts";

function touch(...parts: string[]): string {
  const path = join(...parts);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, "{}\n");
  return path;
}

describe("listing and cleaning up", () => {
  test("finds our files in both layouts, by day, and nothing else", async () => {
    const dir = tempDir();
    const ours = [
      touch(dir, "errors_2024-01-13.jsonl"),
      touch(dir, "2024-01-14", "task_history_2024-01-14.jsonl"),
      touch(dir, "2024-01-15", "agent_activity_2024-01-15.jsonl"),
      touch(dir, "message_audit_2024-01-15.jsonl"),
    ];
    touch(dir, "errors_2024-01-13.jsonl.gz");
    touch(dir, "errors_2024-13-13.jsonl");
    touch(dir, "other_2024-01-13.jsonl");
    touch(dir, "2024-01-14", "errors_2024-01-15.jsonl");
    touch(dir, "2024-02-30", "errors_2024-02-30.jsonl");
    touch(dir, "old", "errors_2024-01-13.jsonl");
    mkdirSync(join(dir, "errors_2024-01-16.jsonl"));
    expect((await listLogFiles(dir)).map((file) => file.path)).toEqual(ours);
    expect((await listLogFiles(dir, { since: "2024-01-15" })).map(({ path }) => path)).toEqual(
      ours.slice(2),
    );
    expect(await listLogFiles(join(dir, "nowhere"))).toEqual([]);
    await expect(listLogFiles(ours[0] ?? "")).rejects.toMatchObject({
      code: "INVALID_CONFIGURATION",
    });
  });

  test("removes files older than the days to keep, and days that are then empty", async () => {
    const dir = tempDir();
    const day = (ago: number) => new Date(NOON - ago * DAY_MS).toISOString().slice(0, 10);
    const flat = (ago: number) => touch(dir, `errors_${day(ago)}.jsonl`);
    const dated = (ago: number) => touch(dir, day(ago), `message_audit_${day(ago)}.jsonl`);
    const kept = [flat(0), dated(0), flat(30), dated(30), flat(-1)];
    const old = [dated(32), dated(31), flat(31)];
    const foreign = touch(dir, day(32), "notes.txt");
    await using logger = new FileLogger(dir, () => NOON);
    const { removed, failed } = await logger.cleanupOldLogs();
    expect(removed.map((file) => file.path).sort()).toEqual([...old].sort());
    expect(failed).toEqual([]);
    expect([...kept, foreign].every((path) => existsSync(path))).toBe(true);
    expect(existsSync(join(dir, day(31)))).toBe(false);
    expect((await logger.cleanupOldLogs()).removed).toEqual([]);

    await cleanupLogs(dir, 0, NOON);
    expect((await listLogFiles(dir)).map((file) => file.day)).toEqual([day(0), day(0), day(-1)]);
  });

  test("never reaches through a link", async () => {
    const outside = tempDir();
    const precious = touch(outside, "errors_2020-01-01.jsonl");
    const dir = tempDir();
    symlinkSync(outside, join(dir, "2020-01-01"));
    symlinkSync(precious, join(dir, "errors_2020-01-01.jsonl"));
    expect(await cleanupLogs(dir, 0, NOON)).toEqual({ removed: [], failed: [] });
    expect(existsSync(precious)).toBe(true);
  });

  test.each([-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, "30" as unknown as number])(
    "refuses to keep %s days",
    async (days) => {
      const dir = tempDir();
      touch(dir, "errors_2020-01-01.jsonl");
      await expect(cleanupLogs(dir, days)).rejects.toThrow(ValidationFailed);
      expect(readdirSync(dir)).toHaveLength(1);
    },
  );
});

async function collect(lines: AsyncIterable<LogLine>): Promise<unknown[]> {
  const seen: unknown[] = [];
  for await (const { entry } of lines) seen.push(entry.error_message ?? entry.message_id ?? entry);
  return seen;
}

describe("tailLogs", () => {
  /** Three days in both layouts; the messages and errors of a day alternate in time. */
  async function threeDays(): Promise<string> {
    const baseDir = tempDir();
    for (const layout of ["flat", "by-date"] as const) {
      const shift = layout === "flat" ? 0 : 1;
      await using logger = new FileLogger({ baseDir, layout });
      for (let day = 0; day < 3; day++) {
        for (let i = shift; i < 10; i += 2) {
          const at = NOON + day * DAY_MS + i * 1_000;
          logger.observer([
            messageEvent({ messageId: `m${day}.${i}`, at }),
            {
              type: "error",
              agentId: "a",
              errorType: "x",
              errorMessage: `e${day}.${i}`,
              at: at + 1,
            },
          ]);
        }
      }
    }
    return baseDir;
  }

  test("the last lines of all files, in the order of time", async () => {
    const dir = await threeDays();
    expect(await collect(tailLogs(dir, { lines: 5 }))).toEqual([
      "e2.7",
      "m2.8",
      "e2.8",
      "m2.9",
      "e2.9",
    ]);
    expect(await collect(tailLogs(dir))).toHaveLength(10);
    expect(await collect(tailLogs(dir, { lines: 0 }))).toEqual([]);
    expect(await collect(tailLogs(join(dir, "nowhere")))).toEqual([]);
    const all = await collect(tailLogs(dir, { lines: Number.POSITIVE_INFINITY }));
    expect(all).toHaveLength(60);
    expect(all.slice(0, 3)).toEqual(["m0.0", "e0.0", "m0.1"]);
    expect(await collect(tailLogs(dir, { lines: 60 }))).toEqual(all);
  });

  test("one file, and only what the filter keeps, back over the days", async () => {
    const dir = await threeDays();
    expect(await collect(tailLogs(dir, { file: "errors", lines: 2 }))).toEqual(["e2.8", "e2.9"]);
    const filter = ({ entry }: LogLine) => String(entry.message_id).endsWith(".3");
    expect(await collect(tailLogs(dir, { filter, lines: 2 }))).toEqual(["m1.3", "m2.3"]);
    await expect(collect(tailLogs(dir, { lines: -1 }))).rejects.toThrow(ValidationFailed);
    await expect(collect(tailLogs(dir, { file: "secrets" as never }))).rejects.toThrow(
      ValidationFailed,
    );
  });

  test("only the end of a large file is read, and no line of it is lost at the seam", async () => {
    const dir = tempDir();
    const line = `{"error_message":"${"x".repeat(100)}"}\n`;
    writeFileSync(join(dir, "errors_2024-01-15.jsonl"), line.repeat(3_000));
    const first = `{"error_message":"${"y".repeat(65_536 - 21)}"}\n`;
    expect(first).toHaveLength(65_536);
    appendFileSync(join(dir, "errors_2024-01-15.jsonl"), first);
    expect(await collect(tailLogs(dir, { lines: 1 }))).toEqual(["y".repeat(65_536 - 21)]);
    expect(await collect(tailLogs(dir, { lines: 2_000 }))).toHaveLength(2_000);
  });

  test("passes over what is no line of ours", async () => {
    const dir = tempDir();
    const path = join(dir, "errors_2024-01-15.jsonl");
    writeFileSync(
      path,
      `{"torn\n\n7\nnull\n[1]\n${"x".repeat(2_000_000)}\n{"ok":1}\n{"unfinished":`,
    );
    expect(await collect(tailLogs(dir))).toEqual([{ ok: 1 }]);
  });

  test("follows new lines, new files, the change of day and a file made anew, until aborted", async () => {
    const baseDir = tempDir();
    let now = Date.parse("2024-01-15T23:59:59.000Z");
    await using logger = new FileLogger({ baseDir }, () => now);
    const abort = new AbortController();
    const lines = tailLogs(baseDir, { follow: true, lines: 1, pollMs: 1, signal: abort.signal });
    const next = async () => {
      const { value } = await lines.next();
      return value && [value.file, value.day, value.entry.error_message ?? value.entry.event];
    };
    const log = async (message: string) => {
      logger.logError("a", "x", message);
      await logger.flush();
    };
    await log("one");
    await log("two");
    expect(await next()).toEqual(["errors", "2024-01-15", "two"]);
    await log("three");
    expect(await next()).toEqual(["errors", "2024-01-15", "three"]);
    now += 1_000;
    await log("four");
    expect(await next()).toEqual(["errors", "2024-01-16", "four"]);
    logger.observer([messageEvent({ at: now - 1 })]);
    await logger.flush();
    expect(await next()).toEqual(["message_audit", "2024-01-15", "sent"]);

    const path = join(baseDir, "2024-01-16", "errors_2024-01-16.jsonl");
    appendFileSync(path, '{"error_message":"in two ');
    const halves = next();
    appendFileSync(path, 'halves"}\n');
    expect(await halves).toEqual(["errors", "2024-01-16", "in two halves"]);
    truncateSync(path, 0);
    await log("5");
    expect(await next()).toEqual(["errors", "2024-01-16", "5"]);
    rmSync(join(baseDir, "2024-01-16"), { recursive: true });
    await log("six, in another directory");
    expect(await next()).toEqual(["errors", "2024-01-16", "six, in another directory"]);

    const last = next();
    abort.abort();
    expect(await last).toBeUndefined();
  });

  test("follows a directory that is not there yet, and can be left at any time", async () => {
    const baseDir = join(tempDir(), "logs");
    const lines = tailLogs(baseDir, { follow: true, pollMs: 1 });
    const first = lines.next();
    await using logger = new FileLogger({ baseDir, layout: "flat" }, () => NOON);
    logger.logError("a", "x", "first");
    await logger.flush();
    expect((await first).value?.entry.error_message).toBe("first");
    expect(await lines.return()).toEqual({ done: true, value: undefined });
  });
});
