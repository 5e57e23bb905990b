import { describe, expect, it } from "vitest";
import { ValidationFailed } from "../../lib/errors.ts";
import { needsOf, type Requirement, requirementText } from "../../lib/protocol/capabilities.ts";
import { keyOf, readings, versionKey } from "../../lib/protocol/capability-values.ts";
import { declarationList, declarationText } from "../../lib/protocol/declarations.ts";

const required = (...list: Parameters<typeof needsOf>[0]["required"] & object) =>
  needsOf({ required: list }).required;

describe("requirements", () => {
  it("are read from texts and objects alike, in one order, each once", () => {
    expect(
      required(
        "python>=3.11",
        " gpu = true",
        { capability: "python", op: ">=", value: "3.11" },
        { capability: "gpu", value: true },
        "region in (us, 'eu', us)",
        { capability: "region", value: ["us", "eu"] },
        'model != "gpt 3"',
        "code_review",
        "size == 1",
        "lone in (eu)",
      ),
    ).toEqual([
      { capability: "code_review", op: "has" },
      { capability: "gpu", op: "=", value: "true" },
      { capability: "lone", op: "=", value: "eu" },
      { capability: "model", op: "!=", value: "gpt 3" },
      { capability: "python", op: ">=", value: "3.11" },
      { capability: "region", op: "in", value: ["eu", "us"] },
      { capability: "size", op: "=", value: "1" },
    ]);
  });

  it("are read again from their text as the same", () => {
    const odd = ['a"b', "a'b", "a,b", "(a)", "=", "a b", "日本", "\\", "é/ü:1", "true", "in"];
    const all: Requirement[] = [
      ...odd.map((value): Requirement => ({ capability: "x", op: "=", value })),
      { capability: "x", op: "in", value: [...odd].sort() },
      { capability: `;'"%_$1[]{}?`, op: "has" },
    ];
    for (const it of all) {
      expect(required(requirementText(it)), requirementText(it)).toEqual([it]);
    }
  });

  it("weigh preferences, the higher weight of two that are the same", () => {
    expect(
      needsOf({
        preferred: [
          "gpu = true",
          { requirement: "python >= 3.11", weight: 2.5 },
          { requirement: { capability: "gpu", value: true }, weight: 3 },
        ],
      }).preferred,
    ).toEqual([
      { requirement: { capability: "gpu", op: "=", value: "true" }, weight: 3 },
      { requirement: { capability: "python", op: ">=", value: "3.11" }, weight: 2.5 },
    ]);
  });

  it("are refused where they say nothing that can be compared", () => {
    const bad: unknown[] = [
      "",
      "a b",
      "x >",
      "x >= ",
      "x > = 3",
      "x = 3 4",
      "x = (3)",
      'x = "3',
      "x in 3",
      "x in ()",
      "x in (a b)",
      "x in (a,,b)",
      "x@1",
      7,
      null,
      { capability: "x", op: "~", value: 1 },
      { capability: "x", op: "has", value: 1 },
      { capability: "x", op: ">" },
      { capability: "x", op: ">", value: [1, 2] },
      { capability: "x", op: "in", value: "a" },
      { capability: "x", op: "in", value: [] },
      { capability: "x", value: Number.POSITIVE_INFINITY },
      { capability: "x", value: "y".repeat(129) },
      { capability: "x", value: "ends in a space " },
      { capability: "x", values: 1 },
    ];
    for (const it of bad) {
      expect(() => required(it as never), JSON.stringify(it)).toThrow(ValidationFailed);
    }
    expect(() => required(...Array.from({ length: 101 }, (_, n) => `c${n}`))).toThrow(
      /at most 100/,
    );
  });
});

describe("values", () => {
  const sorted = (keys: (string | undefined)[]) =>
    [...keys].sort((a, b) => ((a ?? "") < (b ?? "") ? -1 : 1));

  it("of versions sort number by number", () => {
    const versions = [
      "0.0.1-alpha",
      "0.0.1",
      "0.9",
      "0.10",
      "1.0.0-1",
      "1.0.0-alpha",
      "1.0.0-alpha.1",
      "1.0.0-alpha.beta",
      "1.0.0-beta",
      "1.0.0-beta.2",
      "1.0.0-beta.11",
      "1.0.0-rc9",
      "1.0.0-rc10",
      "1",
      "1.0.1",
      "1.1",
      "3.9",
      "3.11b1",
      "3.11",
      "20240131",
      "999999999999999999",
    ];
    const keys = versions.map(versionKey);
    expect(sorted(keys)).toEqual(keys);
    expect(new Set(keys).size).toBe(keys.length);
  });

  it("of versions are equal where they mean the same", () => {
    for (const [a, b] of [
      ["3.11", "3.11.0.0"],
      ["v2.0", "2"],
      ["1.0+build.7", "1.0"],
      ["01.02", "1.2"],
      ["1.0-RC1", "1.0-rc.1"],
    ] as const) {
      expect(versionKey(a), a).toBe(versionKey(b));
    }
    for (const none of ["", "latest", "1..2", "1.", ".1", "-1", "1.2.x y", "1".repeat(41)]) {
      expect(versionKey(none), none).toBeUndefined();
    }
  });

  it("of numbers sort as numbers", () => {
    const numbers = [-1e300, -64, -1.5, -1e-300, 0, 1e-300, 0.1, 1, 1.5, 2, 9, 10, 64, 1e21, 1e300];
    const keys = numbers.map((it) => keyOf(it).key);
    expect(sorted(keys)).toEqual(keys);
    expect(keyOf(-0)).toEqual(keyOf(0));
  });

  it("may be read as several kinds", () => {
    const kinds = (text: string) => readings(text).map(({ kind }) => kind);
    expect(kinds("3.10")).toEqual(["text", "version", "number"]);
    expect(kinds("true")).toEqual(["text", "boolean"]);
    expect(kinds("eu")).toEqual(["text"]);
    expect(kinds("-1e3")).toEqual(["text", "number"]);
  });

  it("fit into an index of every database", () => {
    const longest = [`${"1.".repeat(19)}1`, `1-${"a1".repeat(19)}`, "9".repeat(18)];
    for (const version of longest) expect(versionKey(version)?.length).toBeLessThanOrEqual(140);
  });

  it("are declared in texts that are read again as the same", () => {
    const rows = declarationList.parse([
      "x",
      "x@1.2",
      "gpu=true",
      'size="64"',
      "memory=64",
      { name: "flag", value: "true" },
      { name: "region", value: ["eu", "us east", 7] },
      { name: "python", version: ["3.11", "3.12"] },
    ]);
    expect(declarationList.parse(rows.map(declarationText))).toEqual(rows);
    // A name beside its versions says nothing more.
    expect(rows.filter(({ capability }) => capability === "x")).toHaveLength(1);
  });
});
