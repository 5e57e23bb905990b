import type { Outbox } from "../../lib/index.ts";
import type { What } from "./filling.ts";
import { type Curve, heading, quantile, type Ratio, ratioTable, round } from "./measure.ts";
import { median, table } from "./report.ts";
import type { Asked } from "./run.ts";

export const CLAIM = 100;
/** Of one mailbox of many. */
export const SMALL_CLAIM = 10;
export const CLAIMERS = [4, 32];

/** What lies in a database besides the messages that come and go. */
export interface Scene {
  readonly title: string;
  /** In the mailbox. */
  readonly ready: number;
  readonly beside?: readonly [what: What, count: number, mailboxes?: number];
  /** What it may cost, by what it costs with a small backlog and nothing else. */
  readonly target: number;
}

/** A scene in a database of its own. */
export interface Stage {
  readonly scene: Scene;
  readonly url: string;
  readonly outbox: Outbox;
  /** How many rows it could be filled with. */
  readonly rows: number;
  readonly claims: number[];
  readonly drains: number[];
}

/** What was measured on one database. */
export interface Found {
  readonly stages: readonly Stage[];
  /** Of a few messages, in one mailbox and in one after the other of many. */
  readonly small: { readonly one: number[]; readonly many: number[] };
  /** Messages a second, by the number of claimers. */
  readonly together: ReadonlyMap<number, number[]>;
}

export const text = (count: number) => count.toLocaleString("en");

interface Row {
  readonly database: string;
  readonly scene: string;
  /** How many rows there were. */
  readonly rows: number;
  readonly claimMs: number;
  readonly claimP95Ms: number;
  /** Messages a second. */
  readonly drain: number;
}

const rowOf = (database: string, { scene, rows, claims, drains }: Stage): Row => ({
  database,
  scene: scene.title,
  rows,
  claimMs: round(median(claims), 3),
  claimP95Ms: round(quantile(claims, 0.95), 3),
  drain: Math.round(median(drains)),
});

/** The median of the turns' ratios: within a turn the machine is busy with other things alike. */
const byTurn = (values: readonly number[], by: readonly number[]): number =>
  median(values.map((value, turn) => value / (by[turn] ?? Number.NaN)));

function ratiosOf(database: string, { stages, small, together: crowd }: Found): Ratio[] {
  const [base, ...others] = stages as [Stage, ...Stage[]];
  const by = `by ${base.scene.title} alone`;
  const [few = [], most = []] = CLAIMERS.map((claimers) => crowd.get(claimers));
  return [
    ...others.flatMap(({ scene, claims, drains }) => [
      {
        name: `claim and acknowledge ${CLAIM}, ${scene.title}: ${by}`,
        database,
        value: median(claims) / median(base.claims),
        target: scene.target,
        higherIsBetter: false,
      },
      {
        name: `drain, ${scene.title}: ${by}`,
        database,
        value: byTurn(drains, base.drains),
        target: round(1 / scene.target),
        higherIsBetter: true,
      },
    ]),
    {
      name: `claim and acknowledge ${SMALL_CLAIM}, one mailbox after the other: by one mailbox`,
      database,
      value: median(small.many) / median(small.one),
      target: 1.5,
      higherIsBetter: false,
    },
    {
      name: `${CLAIMERS[1]} claimers at once, messages a second: by ${CLAIMERS[0]}`,
      database,
      value: byTurn(most, few),
      target: 0.8,
      higherIsBetter: true,
    },
  ];
}

function curvesOf(database: string, { stages }: Found): Curve[] {
  const backlogs = stages.filter(({ scene }) => scene.beside === undefined);
  const points = (value: (stage: Stage) => number): [number, number][] =>
    backlogs.map((stage) => [stage.rows, value(stage)]);
  return [
    {
      title: `Claiming and acknowledging ${CLAIM} by backlog, ${database}`,
      xLabel: "messages waiting",
      yLabel: "ms",
      series: [
        { name: "median", points: points(({ claims }) => round(median(claims), 3)) },
        { name: "95 %", points: points(({ claims }) => round(quantile(claims, 0.95), 3)) },
      ],
    },
    {
      title: `Drain by backlog, ${database}`,
      xLabel: "messages waiting",
      yLabel: "messages a second",
      series: [
        { name: "agent-outbox", points: points(({ drains }) => Math.round(median(drains))) },
      ],
    },
  ];
}

/** @param found by database */
export function growthMarkdown(
  found: ReadonlyMap<string, Found>,
  asked: Asked,
  durability: Readonly<Record<string, string>>,
) {
  const each = [...found];
  const rows = each.flatMap(([database, { stages }]) => stages.map((one) => rowOf(database, one)));
  const ratios = each.flatMap(([database, one]) => ratiosOf(database, one));
  const curves = each.flatMap(([database, one]) => curvesOf(database, one));
  const markdown = [
    ...heading("Growth", asked, durability),
    `Each scene has a database of its own, filled by SQL; all take turns, in another order each time. A claim is one of ${CLAIM} messages that are acknowledged, and as many are sent before the next. A drain is a worker (concurrency 100, batchSize 500) with a handler that does nothing, until it has handled what was put in on top.`,
    table([
      ["", "database", "rows", `claim and ack of ${CLAIM}, ms`, "p95, ms", "drain, /s"],
      ...rows.map((row) => [
        row.scene,
        row.database,
        text(row.rows),
        row.claimMs.toFixed(2),
        row.claimP95Ms.toFixed(2),
        String(row.drain),
      ]),
    ]),
    ratioTable(ratios),
  ];
  return { result: { durability, rows, ratios, curves }, text: `${markdown.join("\n\n")}\n` };
}
