import { describe, expect, it } from "vitest";
import { fileName, svg } from "../bench/plot.ts";

const curve = (points: [number, number][], name = "ours") => ({
  title: "Drain rate & backlog <1 M>",
  xLabel: "backlog",
  yLabel: "messages/s",
  series: [{ name, points }],
});
const numbers = (text: string) => [...text.matchAll(/-?\d+(\.\d+)?/g)].map(([n]) => Number(n));
const pointsOf = (picture: string) => {
  const found = [...picture.matchAll(/<polyline points="([^"]*)"/g)].map(
    ([, points]) => points ?? "",
  );
  return found.map((points) =>
    points
      .split(" ")
      .filter(Boolean)
      .map((point) => numbers(point)),
  );
};

describe("a plot", () => {
  it("names axes and series, and writes no mark-up of theirs", () => {
    const picture = svg(curve([[1, 2]], "a<b"));
    for (const label of [
      "Drain rate &amp; backlog &lt;1 M&gt;",
      "backlog",
      "messages/s",
      "a&lt;b",
    ]) {
      expect(picture).toContain(`>${label}</t`);
    }
    expect(picture).not.toMatch(/NaN|Infinity|undefined/);
  });

  it("puts more to the right and higher up, within the picture", () => {
    const [[first, second] = []] = pointsOf(
      svg(
        curve([
          [0, 10],
          [60, 40],
        ]),
      ),
    );
    expect(second?.[0]).toBeGreaterThan(first?.[0] as number);
    expect(second?.[1]).toBeLessThan(first?.[1] as number);
    for (const [x = 0, y = 0] of [first as number[], second as number[]]) {
      expect(x).toBeGreaterThanOrEqual(80);
      expect(x).toBeLessThanOrEqual(740);
      expect(y).toBeGreaterThanOrEqual(44);
      expect(y).toBeLessThanOrEqual(344);
    }
  });

  it("puts 1 k, 31.6 k and 1 M of a backlog at the same distance", () => {
    const [[a, b, c] = []] = pointsOf(
      svg(
        curve([
          [1_000, 1],
          [31_622.8, 1],
          [1_000_000, 1],
        ]),
      ),
    );
    const [x1 = 0, x2 = 0, x3 = 0] = [a, b, c].map((point) => point?.[0] as number);
    expect(x2 - x1).toBeCloseTo(x3 - x2, 0);
    expect(
      svg(
        curve([
          [1_000, 1],
          [1_000_000, 1],
        ]),
      ),
    ).toContain(">10k<");
  });

  it("draws nothing, one point, the same value twice and values below zero", () => {
    for (const points of [
      [],
      [[5, 5]],
      [
        [0, 0],
        [1, 0],
      ],
      [
        [3, -4],
        [3, 4],
      ],
      [
        [1, Number.NaN],
        [2, 1],
      ],
    ]) {
      const picture = svg(curve(points as [number, number][]));
      expect(picture).not.toMatch(/NaN|Infinity/);
      expect(picture.trim().endsWith("</svg>")).toBe(true);
    }
  });

  it("tells series apart by colour, each with its name once", () => {
    const series = Array.from({ length: 5 }, (_, n) => ({
      name: `series number ${n}`,
      points: [
        [0, n],
        [1, n],
      ] as [number, number][],
    }));
    const picture = svg({ ...curve([]), series });
    const strokes = [...picture.matchAll(/<polyline [^>]*stroke="([^"]*)"/g)].map(
      ([, stroke]) => stroke,
    );
    expect(new Set(strokes).size).toBe(5);
    for (const { name } of series) expect(picture.split(name)).toHaveLength(2);
  });

  it("has a file name that every system takes", () => {
    expect(fileName("growth Drain rate, by backlog (200 B)")).toBe(
      "growth-drain-rate-by-backlog-200-b.svg",
    );
  });
});
