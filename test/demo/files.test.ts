import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, onTestFinished, test } from "vitest";
import { takeInventory } from "../../demo/analysis/inventory.ts";
import { analyseJson, jsonOptionsOf } from "../../demo/analysis/json.ts";
import { analyseText } from "../../demo/analysis/text.ts";
import { planFor } from "../../demo/plan.ts";
import { walk } from "../../demo/walk.ts";
import { perform } from "../../demo/work.ts";

describe("JSON", () => {
  const errorOf = (text: string, options = {}) => {
    const { error } = analyseJson(text, options);
    return error === null ? null : `${error.line}:${error.column} ${error.message}`;
  };

  test("its shape", () => {
    expect(analyseJson('{"a": [1, -2.5e3, null], "b": {"a": true, "c": "x"}}')).toEqual({
      valid: true,
      error: null,
      documents: 1,
      depth: 2,
      keys: 4,
      types: { object: 2, array: 1, number: 2, null: 1, boolean: 1, string: 1 },
      duplicateKeys: [],
    });
  });

  test.each([
    ["", "1:1 expected a value, found the end of the file"],
    ['{\n  "a": 1,\n}', '3:1 "}" after a comma'],
    ["[1 2]", '1:4 expected "," or "]", found "2"'],
    ['{"a" 1}', '1:6 expected ":", found "1"'],
    ["{a: 1}", '1:2 expected a key in double quotes, found "a"'],
    ["{\"a\": 'x'}", `1:7 expected a value, found "'"`],
    ['["x\n"]', "1:2 a string that is not closed"],
    ['["\\x"]', "1:3 an escape that JSON does not know"],
    ['["\t"]', "1:3 a control character in a string"],
    ["[01]", '1:3 expected "," or "]", found "1"'],
    ["NaN", '1:1 expected a value, found "N"'],
    ["{} x", '1:4 "x" after the end of the document'],
    ["// no\n1", '1:1 expected a value, found "/"'],
  ])("the first error of %j", (text, error) => {
    expect(errorOf(text)).toBe(error);
  });

  test("a key that an object has twice, however it is written", () => {
    const { valid, duplicateKeys } = analyseJson('{"a": {"a": 1},\n "\\u0061": 2, "__proto__": 3}');
    expect(valid).toBe(true);
    expect(duplicateKeys).toEqual([{ message: 'the key "a"', line: 2, column: 2 }]);
  });

  test("JSON lines: a document per line", () => {
    const lines = { lines: true };
    expect(analyseJson('{"a":1}\r\n\n[2]\n', lines)).toMatchObject({ valid: true, documents: 2 });
    expect(errorOf('1\n{"a":\n1}', lines)).toBe("2:6 expected a value, found the end of the line");
    expect(errorOf("1 2", lines)).toBe('1:3 "2" after the end of the document');
  });

  test("comments and trailing commas where the file's name allows them", () => {
    const text = '// a\n{ "b": [1, /* c */ 2,], }';
    expect(errorOf(text, jsonOptionsOf("x/tsconfig.build.json"))).toBeNull();
    expect(errorOf(text, jsonOptionsOf("package.json"))).not.toBeNull();
    expect(errorOf("[1, /* open", jsonOptionsOf("a.jsonc"))).toContain("not closed");
  });

  test("a million brackets need no stack", () => {
    expect(errorOf("[".repeat(1_000_000))).toContain("1:1000001");
    expect(analyseJson("[".repeat(100_000) + "]".repeat(100_000)).depth).toBe(100_000);
  });

  test("it agrees with JSON.parse on what is valid", () => {
    const broken = fc
      .tuple(fc.json(), fc.nat(), fc.constantFrom(...'{}[]:,"\\ \n0-.eEtn', ""))
      .map(([text, at, char]) => {
        const n = at % (text.length + 1);
        return text.slice(0, n) + char + text.slice(n + 1);
      });
    fc.assert(
      fc.property(fc.oneof(fc.json(), broken), (text) => {
        let valid = true;
        try {
          JSON.parse(text);
        } catch {
          valid = false;
        }
        expect(analyseJson(text).valid).toBe(valid);
      }),
      { numRuns: 2_000 },
    );
  });
});

describe("text", () => {
  test("comments by language, and small faults", () => {
    expect(analyseText("-- a\nSELECT 1; \r\n/* b\n */\n\nx", "a.sql")).toEqual({
      language: "SQL",
      lines: 6,
      code: 2,
      comment: 3,
      blank: 1,
      longestLine: { line: 2, length: 10 },
      trailingSpaces: 1,
      mixedLineEnds: true,
      noFinalNewline: true,
    });
    expect(analyseText("#!/usr/bin/env bash\necho\n", "run")).toMatchObject({
      language: "Shell",
      comment: 1,
    });
    expect(analyseText("", "a.toString")).toMatchObject({ language: "Text", lines: 0 });
  });
});

describe("the inventory", () => {
  test("finds equal files, but takes empty ones for no duplicates", () => {
    const file = (path: string, bytes: number, sha256: string) => ({ path, bytes, sha256 });
    expect(
      takeInventory([
        file("b", 10, "x"),
        file("a", 10, "x"),
        file("c", 0, "e"),
        file("d", 0, "e"),
        file("f", 300, "y"),
      ]),
    ).toEqual({
      files: 5,
      bytes: 320,
      duplicates: [{ bytes: 10, paths: ["a", "b"] }],
      largest: [
        { path: "f", bytes: 300 },
        { path: "a", bytes: 10 },
        { path: "b", bytes: 10 },
        { path: "c", bytes: 0 },
        { path: "d", bytes: 0 },
      ],
    });
  });
});

describe("a task", () => {
  test("is half done when its input is read, and finds out what it is asked", async () => {
    const root = await mkdtemp(join(tmpdir(), "outbox-task-"));
    onTestFinished(() => rm(root, { recursive: true }));
    await writeFile(join(root, "a.json"), "[1]");
    let reached = 0;
    const halfway = async () => {
      reached++;
    };
    expect(await perform("json", { path: "a.json" }, root, halfway)).toMatchObject({ valid: true });
    const hash = await perform("hash", { paths: ["a.json", "gone"] }, root, halfway);
    expect(hash).toMatchObject({ files: [{ path: "a.json", bytes: 3 }] });
    expect(reached).toBe(2);
  });

  test("takes a file that has gone for a finding, and a bug for a failure", async () => {
    const nothing = async () => {};
    expect(await perform("code", { path: "gone.ts" }, "/", nothing)).toMatchObject({
      unreadable: "ENOENT",
    });
    const fails = async () => {
      throw new TypeError("a bug");
    };
    await expect(perform("hash", { paths: ["x"] }, "/", fails)).rejects.toThrow("a bug");
  });
});

describe("the walk", () => {
  test("takes text files in a fixed order, and says what it left out", async () => {
    const root = await mkdtemp(join(tmpdir(), "outbox-walk-"));
    onTestFinished(() => rm(root, { recursive: true }));
    await mkdir(join(root, "sub/node_modules"), { recursive: true });
    await mkdir(join(root, ".git"));
    await writeFile(join(root, "b.TS"), "1");
    await writeFile(join(root, "a.md"), "1");
    await writeFile(join(root, "sub/c.json"), "{}");
    await writeFile(join(root, "sub/Makefile"), "x");
    await writeFile(join(root, "sub/binary"), "a\0b");
    await writeFile(join(root, "sub/large.txt"), "x".repeat(1_000_001));
    await writeFile(join(root, "sub/node_modules/no.js"), "1");
    await writeFile(join(root, ".git/no.txt"), "1");
    await symlink(root, join(root, "sub/circle"));
    const found = await walk(root, 100);
    expect(found.files.map(({ path, kind }) => `${kind} ${path}`)).toEqual([
      "markdown a.md",
      "code b.TS",
      "text sub/Makefile",
      "json sub/c.json",
    ]);
    expect(found).toMatchObject({ skipped: { binary: 1, large: 1, unreadable: 0 }, more: false });
    expect(await walk(root, 2)).toMatchObject({ more: true, files: { length: 2 } });
  });

  test("becomes a plan with one marked task, whatever there is", () => {
    const file = (path: string, kind: "code" | "text") => ({ path, kind, bytes: 1 });
    const mixed = planFor([file("a", "text"), file("b", "code"), file("c", "code")]);
    expect(mixed.tasks.map(({ taskId }) => taskId)).toEqual([
      "text-001",
      "code-001",
      "code-002",
      "hash-001",
    ]);
    expect(mixed.marked).toMatchObject({ taskId: "code-001", parameters: { marked: true } });
    expect(planFor([file("a", "text")]).marked.taskId).toBe("text-001");
  });
});
