import type { Curve } from "./measure.ts";

const WIDTH = 760;
const HEIGHT = 400;
const LEFT = 80;
const RIGHT = 20;
const TOP = 44;
const BOTTOM = 56;
/** Tell each other apart, also for the colour-blind, on white and on black. */
const COLORS = ["#0f84d1", "#e5780b", "#1f9e6d", "#c2459b", "#8a7a12", "#7a6ff0", "#8a8f98"];
const INK = "#7d8590";

/** A curve as an SVG picture that can be read on a light and on a dark page. */
export function svg({ title, xLabel, yLabel, series }: Curve): string {
  const all = series.flatMap(({ points }) => points).filter(isNumbers);
  const xs = scale(
    all.map(([x]) => x),
    LEFT,
    WIDTH - RIGHT,
    false,
  );
  const ys = scale(
    all.map(([, y]) => y),
    HEIGHT - BOTTOM,
    TOP,
    true,
  );
  const legend = legendOf(series.map(({ name }) => name));
  const bottom = HEIGHT - BOTTOM;
  return `${[
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT + legend.height}" font-family="system-ui, sans-serif" font-size="12" role="img">`,
    `<title>${text(title)}</title>`,
    label(LEFT, 22, title, 'font-size="15" font-weight="600"'),
    ...ys.ticks.flatMap((y) => [
      line(LEFT, ys.at(y), WIDTH - RIGHT, ys.at(y), 0.25),
      label(LEFT - 8, ys.at(y) + 4, short(y), 'text-anchor="end"'),
    ]),
    ...xs.ticks.flatMap((x) => [
      line(xs.at(x), bottom, xs.at(x), bottom + 5, 0.8),
      label(xs.at(x), bottom + 19, short(x), 'text-anchor="middle"'),
    ]),
    line(LEFT, bottom, WIDTH - RIGHT, bottom, 0.8),
    line(LEFT, TOP, LEFT, bottom, 0.8),
    label((LEFT + WIDTH - RIGHT) / 2, bottom + 42, xLabel, 'text-anchor="middle"'),
    label(
      0,
      0,
      yLabel,
      `text-anchor="middle" transform="translate(18 ${(TOP + bottom) / 2}) rotate(-90)"`,
    ),
    ...series.map(({ points }, n) => drawn(points.filter(isNumbers), color(n), xs.at, ys.at)),
    ...legend.parts,
    "</svg>",
  ].join("\n")}\n`;
}

/** The name of a plot's file. */
export function fileName(title: string): string {
  const plain = title.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-");
  return `${plain.replaceAll(/^-+|-+$/g, "")}.svg`;
}

type Point = readonly [number, number];
const isNumbers = (point: Point) => point.every(Number.isFinite);
const color = (n: number) => COLORS[n % COLORS.length] as string;

interface Scale {
  readonly ticks: readonly number[];
  at(value: number): number;
}

/** From data to the picture: linear, or logarithmic where all is positive and spans more than two decades. */
function scale(values: readonly number[], from: number, to: number, zero: boolean): Scale {
  const low = Math.min(...values, ...(zero ? [0] : []));
  const high = Math.max(...values, ...(zero ? [0] : []));
  if (values.length === 0) return { ticks: [], at: () => from };
  if (!zero && low > 0 && high / low > 100) {
    const decades = Math.ceil(Math.log10(high)) - Math.floor(Math.log10(low));
    const ticks = Array.from(
      { length: decades + 1 },
      (_, n) => 10 ** (Math.floor(Math.log10(low)) + n),
    );
    const part = (value: number) => Math.log10(value / low) / Math.log10(high / low);
    return {
      ticks: ticks.filter((tick) => tick >= low && tick <= high),
      at: (value) => from + part(value) * (to - from),
    };
  }
  const step = stepOf(high - low);
  const start = Math.floor(low / step) * step;
  const count = Math.max(1, Math.ceil((high - start) / step - 1e-9));
  const end = zero ? start + count * step : Math.max(high, start + step);
  const begin = zero ? start : low;
  return {
    ticks: Array.from({ length: count + 1 }, (_, n) => start + n * step).filter(
      (tick) => tick >= begin - 1e-9 && tick <= end + 1e-9,
    ),
    at: (value) => from + ((value - begin) / (end - begin)) * (to - from),
  };
}

/** 1, 2 or 5 of a decade, for about five steps. */
function stepOf(span: number): number {
  const rough = (span > 0 ? span : 1) / 5;
  const decade = 10 ** Math.floor(Math.log10(rough));
  return ([1, 2, 5, 10].find((n) => n * decade >= rough) as number) * decade;
}

function drawn(
  points: readonly Point[],
  stroke: string,
  x: (value: number) => number,
  y: (value: number) => number,
): string {
  const at = points.map(([px, py]) => `${round(x(px))},${round(y(py))}`);
  // A few measurements are points with lines between them; many are a line.
  const dots = points.length > 40 ? [] : points;
  return [
    `<polyline points="${at.join(" ")}" fill="none" stroke="${stroke}" stroke-width="2" stroke-linejoin="round"/>`,
    ...dots.map(
      ([px, py]) => `<circle cx="${round(x(px))}" cy="${round(y(py))}" r="3" fill="${stroke}"/>`,
    ),
  ].join("");
}

function legendOf(names: readonly string[]): { parts: string[]; height: number } {
  let x = LEFT;
  let y = HEIGHT + 4;
  const parts = names.map((name, n) => {
    const width = 34 + name.length * 6.6;
    if (x + width > WIDTH - RIGHT && x > LEFT) {
      x = LEFT;
      y += 18;
    }
    const part = `<rect x="${x}" y="${y - 5}" width="14" height="4" rx="2" fill="${color(n)}"/>${label(x + 20, y + 1, name, "")}`;
    x = round(x + width);
    return part;
  });
  return { parts, height: y - HEIGHT + 12 };
}

const line = (x1: number, y1: number, x2: number, y2: number, opacity: number) =>
  `<line x1="${round(x1)}" y1="${round(y1)}" x2="${round(x2)}" y2="${round(y2)}" stroke="${INK}" stroke-opacity="${opacity}"/>`;
const label = (x: number, y: number, content: string, more: string) =>
  `<text x="${round(x)}" y="${round(y)}" fill="${INK}"${more === "" ? "" : ` ${more}`}>${text(content)}</text>`;
const round = (value: number) => Math.round(value * 10) / 10;
const text = (value: string) =>
  value.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** 1500 as 1.5k. */
function short(value: number): string {
  for (const [unit, sign] of [
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ] as const) {
    if (Math.abs(value) >= unit) return `${Number((value / unit).toPrecision(3))}${sign}`;
  }
  return String(Number(value.toPrecision(3)));
}
