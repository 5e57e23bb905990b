/** The files on disk, what the logger answers about them, and turning it on and off. */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { AgentCommunicationError } from "../../lib/errors.ts";
import {
  disableFileLogging,
  enableFileLogging,
  FileLogger,
  type FileLoggingOptions,
  getFileLogger,
} from "../../lib/observability/file-logger.ts";
import { NOON, parsedLines, tempDir } from "./support.ts";

describe("files", () => {
  test("only the owner writes and only the group reads; the mode of a file that is there stays", async () => {
    const baseDir = join(tempDir(), "deep", "er");
    await using logger = new FileLogger(baseDir, () => NOON);
    logger.logError("a", "x", "y");
    await logger.flush();
    const path = join(baseDir, "2024-01-15", "errors_2024-01-15.jsonl");
    expect(statSync(path).mode & 0o777 & ~0o640).toBe(0);
    expect(statSync(join(baseDir, "2024-01-15")).mode & 0o777 & ~0o750).toBe(0);
  });

  test("lines are on disk soon, without flush", async () => {
    const baseDir = tempDir();
    await using logger = new FileLogger({ baseDir, layout: "flat" }, () => NOON);
    logger.logError("a", "x", "y");
    await expect
      .poll(() => readdirSync(baseDir), { timeout: 10_000, interval: 5 })
      .toEqual(["errors_2024-01-15.jsonl"]);
  });

  test("a relative directory stays where it was when the logger was made", async () => {
    const before = process.cwd();
    const dir = tempDir();
    process.chdir(dir);
    try {
      await using logger = new FileLogger({ baseDir: "logs", layout: "flat" }, () => NOON);
      process.chdir(before);
      logger.logError("a", "x", "y");
      await logger.flush();
      expect(readdirSync(join(dir, "logs"))).toEqual(["errors_2024-01-15.jsonl"]);
    } finally {
      process.chdir(before);
    }
  });

  test("stats tell what was written, by this logger and by others", async () => {
    const baseDir = tempDir();
    await using other = new FileLogger({ baseDir, layout: "flat" }, () => NOON);
    other.logError("a", "x", "y");
    await other.flush();
    await using logger = new FileLogger({ baseDir, layout: "flat" }, () => NOON);
    logger.logError("a", "x", "y");
    await logger.flush();
    logger.logError("a", "x", "waits");
    const path = join(baseDir, "errors_2024-01-15.jsonl");
    const size = readFileSync(path).length;
    expect(await logger.getLogStats()).toEqual({
      base_dir: baseDir,
      layout: "flat",
      log_files: [{ file: "errors", day: "2024-01-15", path, bytes: size, lines_written: 1 }],
      total_bytes: size,
      lines_truncated: 0,
      lines_written: 1,
      bytes_written: size / 2,
      lines_dropped: 0,
      lines_waiting: 1,
      bytes_waiting: expect.any(Number),
      write_failures: 0,
      last_error: null,
    });
  });

  test("close writes what waits, can be called twice, and later lines are counted as dropped", async () => {
    const baseDir = tempDir();
    const logger = new FileLogger({ baseDir, layout: "flat", flushMs: 10_000 }, () => NOON);
    logger.logError("a", "x", "y");
    const closing = [logger.close(), logger.close()];
    logger.logError("a", "x", "too late");
    await Promise.all(closing);
    await logger.flush();
    expect(parsedLines(join(baseDir, "errors_2024-01-15.jsonl"))).toHaveLength(1);
    expect((await logger.getLogStats()).lines_dropped).toBe(1);
  });
});

describe("enableFileLogging", () => {
  test("is off by default, on when enabled, and off again", async () => {
    expect(getFileLogger()).toBeUndefined();
    const baseDir = tempDir();
    const logger = enableFileLogging(baseDir);
    expect(getFileLogger()).toBe(logger);
    expect(enableFileLogging({ baseDir }), "the same settings").toBe(logger);
    const flat = enableFileLogging({ baseDir, layout: "flat" });
    expect(flat).not.toBe(logger);
    flat.logError("a", "x", "y");
    await disableFileLogging();
    expect(getFileLogger()).toBeUndefined();
    expect(readdirSync(baseDir)).toHaveLength(1);
    await disableFileLogging();
  });

  test.each<[string, unknown]>([
    ["an empty directory", { baseDir: "" }],
    ["a NUL in the directory", { baseDir: "a\0b" }],
    ["no directory", {}],
    ["an unknown key", { baseDir: "x", folder: "y" }],
    ["an unknown layout", { baseDir: "x", layout: "weekly" }],
    ["a wait of 0", { baseDir: "x", flushMs: 0 }],
    ["a tiny buffer", { baseDir: "x", maxBufferBytes: 1 }],
    ["a hook that is none", { baseDir: "x", onWarning: "stderr" }],
    ["a number", 7],
    ["nothing", undefined],
  ])("refuses %s with a code and a remedy", (_, options) => {
    const attempt = () => enableFileLogging(options as FileLoggingOptions);
    expect(attempt).toThrow(AgentCommunicationError);
    expect(attempt).toThrow(expect.objectContaining({ code: "INVALID_CONFIGURATION" }));
    expect(getFileLogger()).toBeUndefined();
  });
});
