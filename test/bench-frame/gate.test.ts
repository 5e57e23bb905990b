import { describe, expect, it } from "vitest";
import { compare, ratiosOf } from "../bench/gate.ts";
import type { Ratio } from "../bench/measure.ts";

const drain: Ratio = {
  name: "drain: by the best peer",
  database: "postgres",
  value: 4,
  higherIsBetter: true,
};
const lone: Ratio = {
  name: "lone send: by raw SQL",
  database: "postgres",
  value: 1,
  higherIsBetter: false,
};

const results = (...ratios: Ratio[]) => ({ benches: { queue: { ratios } } });
const compared = (published: Ratio[], measured: Ratio[], databases = ["postgres", "sqlite"]) =>
  compare(results(...published), results(...measured), databases, 0.25);

describe("the gate", () => {
  it("lets pass what is better, the same, or worse by no more than the margin", () => {
    for (const value of [9, 4, 3])
      expect(compared([drain], [{ ...drain, value }]).fell).toBe(false);
    for (const value of [0.1, 1, 1.25])
      expect(compared([lone], [{ ...lone, value }]).fell).toBe(false);
  });

  it("names the row, both ratios and that it fell", () => {
    const { fell, text } = compared([drain, lone], [{ ...drain, value: 2.99 }, lone]);
    expect(fell).toBe(true);
    expect(text).toContain(
      "| queue, postgres: drain: by the best peer | 4.00× | 2.99× | **fell** |",
    );
    expect(text).toContain("| queue, postgres: lone send: by raw SQL | 1.00× | 1.00× |  |");
    expect(text).toContain("1 of 2 ratios are worse than the published ones by more than 25 %");
  });

  it("takes a ratio of which less is better as worse when it grows", () => {
    expect(compared([lone], [{ ...lone, value: 1.26 }]).fell).toBe(true);
  });

  it("knows a ratio by its database and name", () => {
    const sqlite: Ratio = { ...drain, database: "sqlite", value: 1 };
    expect(
      compared(
        [drain, sqlite],
        [
          { ...sqlite, value: 4 },
          { ...drain, value: 1 },
        ],
      ).fell,
    ).toBe(true);
  });

  it("takes what was not measured as fallen, unless its database or bench was not asked for", () => {
    const { fell, text } = compared([drain], [lone]);
    expect(fell).toBe(true);
    expect(text).toContain("not measured");
    const sqlite: Ratio = { ...drain, database: "sqlite" };
    expect(compared([drain, sqlite], [drain], ["postgres"]).fell).toBe(false);
    const published = { benches: { queue: { ratios: [drain] }, growth: { ratios: [lone] } } };
    expect(compare(published, results(drain), ["postgres"], 0.25).fell).toBe(false);
  });

  it("takes what is no number as fallen, and asks nothing where none was published", () => {
    expect(compared([drain], [{ ...drain, value: Number.NaN }]).fell).toBe(true);
    const none = JSON.parse(JSON.stringify({ ...drain, value: Number.NaN })) as Ratio;
    expect(compared([none, lone], [drain, lone]).fell).toBe(false);
  });

  it("fails when there is nothing to compare", () => {
    const { fell, text } = compared([], [drain]);
    expect(fell).toBe(true);
    expect(text).toContain("Nothing was compared");
  });

  it("guards the costs of a bench that names no ratios, and none of its times", () => {
    const assignment = {
      lines: [{ database: "postgres", title: "find", unit: "ms", medians: { 1000: 5 }, cost: 1.1 }],
    };
    expect(ratiosOf(assignment)).toEqual([
      {
        name: "find: cost with the most agents",
        database: "postgres",
        value: 1.1,
        target: 1.5,
        higherIsBetter: false,
      },
    ]);
  });
});
