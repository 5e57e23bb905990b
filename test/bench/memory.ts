import { openOutbox } from "../../lib/index.ts";
import { Child } from "./child.ts";
import { fill, settle } from "./filling.ts";
import { type Curve, heading, onEach, type Ratio, ratioTable, round } from "./measure.ts";
import type { Place } from "./place.ts";
import { table } from "./report.ts";
import type { Bench } from "./run.ts";

export type MemoryOrder = { drain: number; everyMs: number } | { send: number };

/** Resident sets in MB (millions of bytes). */
interface Held {
  /** Of the process before it loads anything of ours. */
  readonly bareMb: number;
  /** With the database open. */
  readonly openMb: number;
  readonly peakMb: number;
  readonly seconds: number;
}
interface Drained extends Held {
  /** Seconds and MB. */
  readonly samples: readonly [number, number][];
}
interface Sent extends Held {
  /** With the array in memory, before it is sent. */
  readonly heldMb: number;
}

const LIMIT_MB = 150;
const FILLING_SECONDS = 120;
const PATIENCE_MS = 1_800_000;

async function asked<T>(url: string, order: MemoryOrder): Promise<T> {
  const child = new Child<MemoryOrder, unknown>("memory", [url]);
  try {
    await child.next();
    return (await child.ask(order, PATIENCE_MS)) as T;
  } finally {
    await child.end();
  }
}

/** @returns what a worker held, and how many messages it drained */
async function drains(at: Place, count: number, everyMs: number): Promise<[Drained, number]> {
  const url = await at.empty("memory-drain");
  const outbox = await openOutbox({ database: url, migrate: true });
  const filled = await fill(outbox, "ready", count, { seconds: FILLING_SECONDS });
  await settle(outbox);
  await outbox.close();
  const drained = await asked<Drained>(url, { drain: filled, everyMs });
  await at.drop(url);
  return [drained, filled];
}

async function sends(at: Place, count: number): Promise<Sent> {
  const url = await at.empty(`memory-send-${count}`);
  const sent = await asked<Sent>(url, { send: count });
  await at.drop(url);
  return sent;
}

/** What a worker holds while it drains a million, and a sender of one large array. */
export const memoryBench: Bench = async (wanted) => {
  const { quick, say } = wanted;
  const messages = quick ? 20_000 : 1_000_000;
  const arrays = quick ? [1_000, 10_000] : [10_000, 100_000];
  const lines: string[][] = [];
  const ratios: Ratio[] = [];
  const curves: Curve[] = [];
  const found: Record<string, object> = {};
  const durability = await onEach(wanted, async (at, database) => {
    const line = (what: string, held: Held, beforeMb: number) => {
      const { bareMb, openMb, peakMb, seconds } = held;
      const values = [bareMb, openMb, beforeMb, peakMb, peakMb - beforeMb].map(Math.round);
      lines.push([what, database, ...values.map(String), seconds.toFixed(1)]);
      say(`${database}: ${what}: at most ${Math.round(peakMb)} MB`);
    };
    const ratio = (name: string, value: number, target?: number) =>
      ratios.push({ name, database, value, target, higherIsBetter: false });

    const [drained, count] = await drains(at, messages, quick ? 50 : 500);
    line(`drain ${count.toLocaleString("en")}`, drained, drained.openMb);
    ratio(
      `memory, most resident while draining ${messages.toLocaleString("en")}: by ${LIMIT_MB} MB`,
      drained.peakMb / LIMIT_MB,
      1,
    );
    curves.push({
      title: `Resident set of a worker that drains ${count.toLocaleString("en")}, ${database}`,
      xLabel: "seconds",
      yLabel: "MB",
      series: [
        {
          name: "agent-outbox",
          points: drained.samples.map(([at, mb]) => [round(at, 1), round(mb, 1)]),
        },
      ],
    });

    const sent = new Map<number, Sent>();
    for (const size of arrays) {
      const one = await sends(at, size);
      sent.set(size, one);
      line(`send an array of ${size.toLocaleString("en")}`, one, one.heldMb);
    }
    const [few, many] = arrays as [number, number];
    const growth = (size: number) => {
      const { peakMb = Number.NaN, heldMb = Number.NaN } = sent.get(size) ?? {};
      return peakMb - heldMb;
    };
    ratio(
      `memory, what sending ${many.toLocaleString("en")} at once adds to the array: by ${LIMIT_MB} MB`,
      growth(many) / LIMIT_MB,
      1,
    );
    ratio(
      `memory, what sending ${many.toLocaleString("en")} at once adds: by ${few.toLocaleString("en")}`,
      growth(many) / growth(few),
    );
    found[database] = { drained, sent: Object.fromEntries(sent) };
  });
  const text = [
    ...heading("Memory", wanted, durability),
    "Resident sets in MB, each in a process of its own: of the runtime before anything of ours is loaded, with the database open, when the measured work begins (for a send: with the array in memory), and the most while it is done, by the kernel's count on Linux and elsewhere of samples. A worker has concurrency 100 and batchSize 500.",
    table([["", "database", "runtime", "open", "begin", "most", "more", "s"], ...lines]),
    ratioTable(ratios),
  ];
  return { result: { durability, found, ratios, curves }, text: `${text.join("\n\n")}\n` };
};
