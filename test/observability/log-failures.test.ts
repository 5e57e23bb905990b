/** What goes wrong with the disk costs lines and one warning, and logging resumes by itself. */
import { mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { FileLogger } from "../../lib/observability/file-logger.ts";
import { Observers } from "../../lib/protocol/events.ts";
import { messageEvent, NOON, parsedLines, rawLines, tempDir } from "./support.ts";

/** A logger that does nothing by itself within the test, and what it warned of. */
function quietLogger(baseDir: string, over: { maxBufferBytes?: number } = {}) {
  const warnings: string[] = [];
  const logger = new FileLogger(
    {
      baseDir,
      layout: "flat",
      flushMs: 10_000,
      onWarning: (message) => warnings.push(message),
      ...over,
    },
    () => NOON,
  );
  return { logger, warnings };
}

// A file in the place of the directory stands for every directory that cannot be written: root, whom no mode
// stops, is stopped by it too.
test("a directory that cannot be written: one warning, nothing thrown, all lines when it is back", async () => {
  const baseDir = join(tempDir(), "logs");
  writeFileSync(baseDir, "in the way");
  const { logger, warnings } = quietLogger(baseDir);
  for (let round = 0; round < 3; round++) {
    logger.logError("a", "x", `${round}`);
    logger.observer([messageEvent()]);
    await logger.flush();
  }
  expect(warnings).toHaveLength(1);
  expect(warnings[0]).toMatch(/cannot be written: E(NOTDIR|EXIST)/);
  expect(await logger.getLogStats()).toMatchObject({
    lines_written: 0,
    lines_waiting: 6,
    log_files: [],
    last_error: expect.stringMatching(/E(NOTDIR|EXIST)/),
  });

  rmSync(baseDir);
  await logger.flush();
  const path = join(baseDir, "errors_2024-01-15.jsonl");
  expect(parsedLines(path).map((line) => line.error_message)).toEqual(["0", "1", "2"]);
  expect(await logger.getLogStats()).toMatchObject({ lines_written: 6, last_error: null });

  rmSync(baseDir, { recursive: true });
  writeFileSync(baseDir, "again");
  logger.logError("a", "x", "later");
  await logger.flush();
  expect(warnings, "it had recovered, so it warns again").toHaveLength(2);

  await logger.close();
  expect((await logger.getLogStats()).lines_dropped).toBe(1);
  expect(warnings).toHaveLength(2);
});

test("it resumes without being told to", async () => {
  const baseDir = join(tempDir(), "logs");
  writeFileSync(baseDir, "in the way");
  await using logger = new FileLogger({ baseDir, flushMs: 1, onWarning: () => {} }, () => NOON);
  logger.logError("a", "x", "y");
  await logger.flush();
  rmSync(baseDir);
  await expect
    .poll(async () => (await logger.getLogStats()).lines_written, { timeout: 10_000, interval: 10 })
    .toBe(1);
});

test("a directory or file that is deleted while logging is made anew", async () => {
  const baseDir = join(tempDir(), "logs");
  const { logger, warnings } = quietLogger(baseDir);
  const path = join(baseDir, "errors_2024-01-15.jsonl");
  for (const target of [path, baseDir]) {
    logger.logError("a", "x", "lost with the file");
    await logger.flush();
    rmSync(target, { recursive: true });
    logger.logError("a", "x", "kept");
    await logger.flush();
    expect(parsedLines(path).map((line) => line.error_message)).toEqual(["kept"]);
    rmSync(path);
  }
  expect(warnings).toEqual([]);
  await logger.close();
});

test("one file that cannot be written holds up none of the others", async () => {
  const baseDir = tempDir();
  mkdirSync(join(baseDir, "errors_2024-01-15.jsonl"));
  const { logger, warnings } = quietLogger(baseDir, { maxBufferBytes: 65_536 });
  // More errors than the whole buffer holds, before and after it is known that they cannot be written.
  for (let round = 0; round < 2; round++) {
    for (let i = 0; i < 200; i++) logger.logError("a", "x", "e".repeat(400));
    await logger.flush();
  }
  for (let i = 0; i < 50; i++) logger.logAgentActivity("a", "fine", { filler: "f".repeat(300) });
  await logger.flush();
  expect(parsedLines(join(baseDir, "agent_activity_2024-01-15.jsonl"))).toHaveLength(50);
  expect(warnings).toHaveLength(1);
  const { lines_waiting, lines_dropped, bytes_waiting } = await logger.getLogStats();
  expect(lines_waiting + lines_dropped).toBe(400);
  expect(bytes_waiting).toBeLessThanOrEqual(65_536 / 4);
  await logger.close();
  expect((await logger.getLogStats()).lines_dropped).toBe(400);
});

test("a link under the name of a log file is not followed", async () => {
  const baseDir = tempDir();
  const target = join(tempDir(), "precious");
  writeFileSync(target, "untouched\n");
  symlinkSync(target, join(baseDir, "errors_2024-01-15.jsonl"));
  const { logger, warnings } = quietLogger(baseDir);
  logger.logError("a", "x", "y");
  await logger.close();
  expect(rawLines(target)).toEqual(["untouched"]);
  expect(warnings).toHaveLength(1);
});

test("beyond the bound the newest lines are dropped and counted, with one warning", async () => {
  const baseDir = tempDir();
  const { logger, warnings } = quietLogger(baseDir, { maxBufferBytes: 65_536 });
  const burst = () => {
    for (let i = 0; i < 2_000; i++) logger.logError("a", "x", `${i}`);
  };
  burst();
  const { lines_waiting, bytes_waiting, lines_dropped } = await logger.getLogStats();
  expect(bytes_waiting).toBeLessThanOrEqual(65_536);
  expect(lines_waiting + lines_dropped).toBe(2_000);
  expect(warnings).toHaveLength(1);
  await logger.flush();
  const path = join(baseDir, "errors_2024-01-15.jsonl");
  const messages = parsedLines(path).map((line) => line.error_message);
  expect(messages, "the oldest are kept").toEqual(
    Array.from({ length: lines_waiting }, (_, i) => `${i}`),
  );

  burst();
  expect(warnings, "still in the same trouble").toHaveLength(1);
  await logger.flush();
  logger.logError("a", "x", "quiet again");
  await logger.flush();
  burst();
  expect(warnings, "it had recovered").toHaveLength(2);
  await logger.close();
});

test("observing throws nothing, whatever happens", async () => {
  const baseDir = join(tempDir(), "logs");
  writeFileSync(baseDir, "in the way");
  const logger = new FileLogger({
    baseDir,
    maxBufferBytes: 65_536,
    onWarning: () => {
      throw new Error("the hook is broken too");
    },
  });
  const observers = new Observers();
  observers.add(logger.observer);
  const odd = [null, { type: "unheard of" }, messageEvent({ messageId: Object.create(null) })];
  expect(() => logger.observer(odd as never)).not.toThrow();
  for (let i = 0; i < 2_000; i++) observers.emit([messageEvent()]);
  await logger.flush();
  await logger.close();
  expect(readdirSync(join(baseDir, ".."))).toEqual(["logs"]);
});

test("without a hook the warning is one process warning", async () => {
  const emitted = vi.spyOn(process, "emitWarning").mockImplementation(() => {});
  try {
    const baseDir = join(tempDir(), "logs");
    writeFileSync(baseDir, "in the way");
    const logger = new FileLogger(baseDir);
    for (let i = 0; i < 3; i++) {
      logger.logError("a", "x", "y");
      await logger.flush();
    }
    await logger.close();
    expect(emitted).toHaveBeenCalledTimes(1);
    expect(emitted).toHaveBeenCalledWith(
      expect.stringMatching(
        /^agent-outbox file logging: .* Messages and tasks are not affected\.$/,
      ),
      { type: "AgentOutboxWarning", code: "OUTBOX_FILE_LOGGING" },
    );
  } finally {
    emitted.mockRestore();
  }
});

test("many loggers add one listener to the process", async () => {
  const baseDir = tempDir();
  const before = process.listenerCount("exit");
  const loggers = Array.from({ length: 20 }, () => new FileLogger(baseDir));
  expect(process.listenerCount("exit") - before).toBeLessThanOrEqual(1);
  await Promise.all(loggers.map((logger) => logger.close()));
});
