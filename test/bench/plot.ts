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
  const bottom = HEIGHT - BOTTOM;
  const xValues = all.map(([x]) => x);
  const yValues = all.map(([, y]) => y);
  const xs = scale(xValues, LEFT, WIDTH - RIGHT, false);
  const ys = scale(yValues, bottom, TOP, true);
  const legend = legendOf(series.map(({ name }) => name));
  const parts = [
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
  ];
  return `${parts.join("\n")}\n`;
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

/** From data to the picture: from 0 on, or as the data goes, or logarithmic for a few values that span decades. */
function scale(values: readonly number[], from: number, to: number, zero: boolean): Scale {
  if (values.length === 0) return { ticks: [], at: () => from };
  const low = Math.min(...values, ...(zero ? [0] : []));
  const high = Math.max(...values, ...(zero ? [0] : []));
  const within = (part: (value: number) => number) => (value: number) =>
    from + part(value) * (to - from);
  if (!zero && low > 0 && high > 100 * low && new Set(values).size <= 12) {
    const first = Math.ceil(Math.log10(low) - 1e-9);
    const last = Math.floor(Math.log10(high) + 1e-9);
    return {
      ticks: Array.from({ length: last - first + 1 }, (_, n) => 10 ** (first + n)),
      at: within((value) => Math.log10(value / low) / Math.log10(high / low)),
    };
  }
  const step = stepOf(high - low);
  const first = zero ? Math.floor(low / step) : Math.ceil(low / step);
  const begin = zero ? first * step : low;
  const end = Math.max(zero ? Math.ceil(high / step) * step : high, begin + step);
  const count = Math.floor(end / step + 1e-9) - first + 1;
  return {
    ticks: Array.from({ length: count }, (_, n) => (first + n) * step),
    at: within((value) => (value - begin) / (end - begin)),
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
  const [unit, sign] =
    Math.abs(value) >= 1e6 ? [1e6, "M"] : Math.abs(value) >= 1e3 ? [1e3, "k"] : [1, ""];
  return `${Number((value / unit).toPrecision(3))}${sign}`;
}
