/** Several processes that write the same files of the same day, and the ways in which one can end. */
import { appendFileSync, readFileSync, renameSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { append, appendSync } from "../../lib/observability/append.ts";
import type { WriterJob, WriterReport } from "./log-writer.ts";
import { ended, heard, parsedLines, rawLines, startWriter, tempDir } from "./support.ts";

const FILE = "message_audit_2024-01-15.jsonl";

function job(over: Partial<WriterJob> & Pick<WriterJob, "baseDir">): WriterJob {
  return { name: "w0", lines: 100, end: "close", ...over };
}

/** The numbers of the lines that a writer wrote, in the order of the file. */
function numbersOf(lines: readonly Record<string, unknown>[], name: string): number[] {
  return lines
    .filter((line) => line.from_agent === name)
    .map((line) => Number(String(line.message_id).slice(name.length + 1)));
}

const upTo = (count: number) => Array.from({ length: count }, (_, i) => i);

describe("several processes on one file", () => {
  test("every line of each is there once, whole and in its order", async () => {
    const baseDir = tempDir();
    const names = ["w0", "w1", "w2", "w3"];
    const writers = names.map((name) => startWriter(job({ baseDir, name, lines: 5_000 })));
    await Promise.all(writers.map(heard));
    for (const writer of writers) writer.send("go");
    expect(await Promise.all(writers.map(ended))).toEqual([0, 0, 0, 0]);

    const lines = parsedLines(join(baseDir, FILE));
    expect(lines).toHaveLength(20_000);
    for (const name of names) expect(numbersOf(lines, name)).toEqual(upTo(5_000));
    const switches = lines.filter((line, i) => line.from_agent !== lines[i - 1]?.from_agent);
    expect(switches.length, "they wrote one after the other, which tests nothing").toBeGreaterThan(
      names.length,
    );
  });

  test("writers killed in the middle take no line of the others with them", async () => {
    const baseDir = tempDir();
    const survivors = ["w0", "w1"];
    const victims = ["v0", "v1", "v2"];
    const start = (name: string, lines: number) => startWriter(job({ baseDir, name, lines }));
    const living = survivors.map((name) => start(name, 5_000));
    const doomed = victims.map((name) => start(name, 1_000_000));
    await Promise.all([...living, ...doomed].map(heard));
    const halfway = doomed.map(async (victim) => {
      await heard(victim);
      victim.kill("SIGKILL");
      await ended(victim);
    });
    for (const writer of [...living, ...doomed]) writer.send("go");
    await Promise.all(halfway);
    expect(await Promise.all(living.map(ended))).toEqual([0, 0]);

    // The last line alone may be torn: whoever writes after a victim cleans up behind it.
    const [last, ...whole] = readFileSync(join(baseDir, FILE), "utf8").split("\n").reverse();
    expect(last === "" || last?.startsWith('{"message_id":"v')).toBe(true);
    const lines = whole.reverse().map((line) => JSON.parse(line) as Record<string, unknown>);
    for (const name of survivors) expect(numbersOf(lines, name)).toEqual(upTo(5_000));
  });
});

/** Appends a batch to a file that already holds `before`, while another writer adds `meanwhile`. */
async function appendBetween(before: string, meanwhile: string, batch = '{"n":1}\n{"n":2}\n') {
  const path = join(tempDir(), "x.jsonl");
  writeFileSync(path, before);
  const result = await append(path, Buffer.from(batch), {
    fsync: true,
    // After the end of the file was looked at, before the write.
    onWrite: () => appendFileSync(path, meanwhile),
  });
  expect(result).toEqual({ written: batch.length });
  return rawLines(path);
}

describe("the torn end of another writer's lines", () => {
  const spaces = (text: string) => " ".repeat(Buffer.byteLength(text));

  test("is blanked out together with the newline that parted it from ours", async () => {
    const torn = '{"torn":"é';
    expect(await appendBetween(`{"n":0}\n${torn}`, "")).toEqual([
      '{"n":0}',
      `${spaces(torn)} {"n":1}`,
      '{"n":2}',
    ]);
    expect(await appendBetween(torn, "")).toEqual([`${spaces(torn)} {"n":1}`, '{"n":2}']);
  });

  test("is blanked out too when it comes between our look and our write", async () => {
    expect(await appendBetween('{"n":0}\n', '{"torn":')).toEqual([
      '{"n":0}',
      `${spaces('{"torn":')}{"n":1}`,
      '{"n":2}',
    ]);
  });

  test("stays when it was only half written and is finished meanwhile", async () => {
    expect(await appendBetween('{"n":0}\n{"half":', "1}\n")).toEqual([
      '{"n":0}',
      '{"half":1}',
      ' {"n":1}',
      '{"n":2}',
    ]);
  });

  test("stays when nothing but its newline is missing", async () => {
    expect(await appendBetween('{"n":0}', "")).toEqual(['{"n":0}', '{"n":1}', '{"n":2}']);
  });

  test("whole lines that come meanwhile are left alone", async () => {
    expect(await appendBetween('{"n":0}\n', '{"n":7}\n')).toEqual([
      '{"n":0}',
      '{"n":7}',
      '{"n":1}',
      '{"n":2}',
    ]);
  });

  test("what is no log of ours is left alone", async () => {
    const foreign = "x".repeat(100_000);
    expect(await appendBetween(foreign, "")).toEqual([foreign, '{"n":1}', '{"n":2}']);
  });

  test("is sought in no other file that took the name meanwhile", async () => {
    const path = join(tempDir(), "x.jsonl");
    const other = `{"other":"${"x".repeat(100)}"}\n`;
    writeFileSync(path, '{"n":0}\n{"torn":');
    await append(path, Buffer.from('{"n":1}\n'), {
      fsync: false,
      onWrite: () => {
        renameSync(path, `${path}.1`);
        writeFileSync(path, other);
      },
    });
    expect(readFileSync(path, "utf8")).toBe(other);
    expect(rawLines(`${path}.1`)).toEqual(['{"n":0}', '{"torn":', '{"n":1}']);
  });

  test("is treated the same by a process that exits", () => {
    const path = join(tempDir(), "x.jsonl");
    writeFileSync(path, '{"n":0}\n{"torn":');
    expect(appendSync(path, Buffer.from('{"n":1}\n'))).toEqual({ written: 8 });
    expect(rawLines(path)).toEqual(['{"n":0}', `${spaces('{"torn":')} {"n":1}`]);
  });
});

describe("the end of a process", () => {
  test("process.exit at any moment of a write loses no line and writes none twice", async () => {
    const runs = upTo(10).map(async (turns) => {
      const baseDir = tempDir();
      const writer = startWriter(job({ baseDir, end: "exit", lines: 6_000, turns, flushMs: 1 }));
      expect(await ended(writer)).toBe(0);
      const numbers = numbersOf(parsedLines(join(baseDir, FILE)), "w0");
      expect(numbers.sort((a, b) => a - b)).toEqual(upTo(6_000 + turns));
    });
    await Promise.all(runs);
  });

  test("waiting lines keep no process alive and are written when it ends", async () => {
    const baseDir = tempDir();
    const began = performance.now();
    const writer = startWriter(job({ baseDir, end: "idle", flushMs: 10_000 }));
    expect(await ended(writer)).toBe(0);
    expect(performance.now() - began).toBeLessThan(9_000);
    expect(numbersOf(parsedLines(join(baseDir, FILE)), "w0")).toEqual(upTo(100));
  });
});

describe.runIf(process.platform !== "win32")("a full disk (a limit on the size of files)", () => {
  test("costs one warning, and what follows begins on a new line", async () => {
    const baseDir = tempDir();
    const path = join(baseDir, FILE);
    const writer = startWriter(job({ baseDir, end: "steps" }), 16);
    const log = async (lines: number) => {
      writer.send(lines);
      return (await heard(writer)) as WriterReport;
    };

    const full = await log(150);
    expect(full.written).toBeGreaterThan(0);
    expect(full.written).toBeLessThan(150);
    expect(full.waiting).toBe(150 - full.written);
    expect(full.warnings).toHaveLength(1);
    expect(full.warnings[0]).toMatch(
      /message_audit_2024-01-15\.jsonl cannot be written: E(NOSPC|FBIG)/,
    );
    expect(readFileSync(path).at(-1), "the file must end in the middle of a line").not.toBe(0x0a);

    const still = await log(10);
    expect(still.written).toBe(full.written);
    expect(still.warnings, "one warning while it lasts").toHaveLength(1);

    // Someone makes room, and leaves the end in the middle of another line.
    truncateSync(path, 1_001);
    const before = readFileSync(path, "utf8");
    expect(before.endsWith("\n")).toBe(false);
    let report = await log(0);
    const whole = before.split("\n").length - 1;
    const next = readFileSync(path, "utf8").split("\n")[whole] ?? "";
    expect(next).toMatch(/^ +\{/);
    expect(JSON.parse(next).message_id, "the line that did not fit").toBe(`w0-${full.written}`);

    while (report.waiting > 0) {
      truncateSync(path, 0);
      const next = await log(0);
      expect(next.written).toBeGreaterThan(report.written);
      report = next;
    }
    expect(report).toMatchObject({ written: 160, dropped: 0 });
    expect(report.warnings).toHaveLength(1);
    expect((await log(150)).warnings, "recovered in between, so it warns again").toHaveLength(2);
  });
});
