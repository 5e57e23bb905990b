import { statSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { type Outbox, openOutbox } from "../../lib/index.ts";
import { Child } from "./child.ts";
import { fill, note, settle } from "./filling.ts";
import {
  type Curve,
  heading,
  instant,
  lastByFirst,
  lasting,
  onEach,
  type Ratio,
  ratioTable,
  round,
} from "./measure.ts";
import { table } from "./report.ts";
import type { Bench } from "./run.ts";

export interface SteadyOrder {
  readonly do: "work" | "stop" | "sample";
}

/** What a worker handled since it was last asked. */
export interface SteadyAnswer {
  readonly count: number;
  /** From the send to the handler, in milliseconds. */
  readonly p50: number;
  readonly p99: number;
  /** Of all it handled since it works, when the first and the last. */
  readonly firstAt: number;
  readonly lastAt: number;
}

type Worker = Child<SteadyOrder, SteadyAnswer>;

const BATCH = 500;
const BACKLOG = 5_000;
/** The shortest pause between two sends. */
const PACE_MS = 5;

const sendSome = (outbox: Outbox, count: number) =>
  outbox.queue.sendMessages(
    Array.from({ length: count }, (_, n) => {
      const message = note(n);
      return { ...message, content: { ...message.content, at: instant() } };
    }),
  );

/** Messages a second that a worker drains while nothing is sent. */
async function drained(outbox: Outbox, worker: Worker, count: number): Promise<number> {
  await fill(outbox, "ready", count);
  await settle(outbox);
  let handled = (await worker.ask({ do: "work" })).count;
  let last = await worker.ask({ do: "sample" });
  for (handled += last.count; handled < count; handled += last.count) {
    await sleep(50);
    last = await worker.ask({ do: "sample" });
  }
  return (handled / (last.lastAt - last.firstAt)) * 1_000;
}

/** Messages a second that go through while they are sent as quickly as they are handled. */
async function goneThrough(outbox: Outbox, worker: Worker, seconds: number): Promise<number> {
  let sent = 0;
  let handled = 0;
  const push = async (until: number) => {
    const before = handled;
    const since = performance.now();
    while (performance.now() < until) {
      if (sent - handled < BACKLOG) {
        await sendSome(outbox, BATCH);
        sent += BATCH;
      } else {
        handled += (await worker.ask({ do: "sample" })).count;
      }
    }
    handled += (await worker.ask({ do: "sample" })).count;
    return ((handled - before) / (performance.now() - since)) * 1_000;
  };
  await push(performance.now() + seconds * 300);
  const rate = await push(performance.now() + seconds * 1_000);
  while (handled < sent) handled += (await worker.ask({ do: "sample" })).count;
  return rate;
}

interface Window {
  /** When it ended, in seconds. */
  readonly at: number;
  readonly p50: number;
  readonly p99: number;
  /** Messages a second. */
  readonly sent: number;
  readonly handled: number;
  readonly backlog: number;
  /** Of what there is, in MB by its name. */
  readonly sizes: Readonly<Record<string, number>>;
}

async function sizesOf({ knex, dialect }: Outbox, url: string): Promise<Record<string, number>> {
  const mb = (bytes: unknown) => round(Number(bytes) / 1e6);
  if (dialect === "postgres") {
    const { rows } = await knex.raw(
      "SELECT pg_table_size('outbox_messages') AS rows, pg_indexes_size('outbox_messages') AS indexes, pg_total_relation_size('outbox_messages') AS total",
    );
    return { table: mb(rows[0].rows), indexes: mb(rows[0].indexes), total: mb(rows[0].total) };
  }
  const path = url.slice("sqlite:".length);
  const [live] = await knex.raw(
    "SELECT sum(pgsize) AS total FROM dbstat WHERE aggregate = TRUE AND name IN (SELECT name FROM sqlite_schema WHERE tbl_name = 'outbox_messages')",
  );
  return {
    total: mb(live.total),
    "file, with the archive": mb(statSync(path).size),
    log: mb(statSync(`${path}-wal`).size),
  };
}

/** Sends so many a second for so long. */
async function steady(
  outbox: Outbox,
  url: string,
  worker: Worker,
  { rate, seconds, windowMs }: { rate: number; seconds: number; windowMs: number },
): Promise<Window[]> {
  const windows: Window[] = [];
  const since = performance.now();
  let sent = 0;
  let handled = 0;
  let sentBefore = 0;
  const close = async (at: number, ms: number) => {
    const { count, p50, p99 } = await worker.ask({ do: "sample" });
    handled += count;
    windows.push({
      at: round(at / 1_000, 1),
      p50: round(p50, 2),
      p99: round(p99, 2),
      sent: Math.round(((sent - sentBefore) / ms) * 1_000),
      handled: Math.round((count / ms) * 1_000),
      backlog: sent - handled,
      sizes: await sizesOf(outbox, url),
    });
    sentBefore = sent;
  };
  let closing: Promise<void> = Promise.resolve();
  let closedAt = 0;
  for (let now = 0; now < seconds * 1_000; now = performance.now() - since) {
    const due = Math.min(BATCH, Math.floor((now / 1_000) * rate) - sent);
    if (due > 0) {
      await sendSome(outbox, due);
      sent += due;
    }
    if (due < BATCH) await sleep(PACE_MS);
    if (now - closedAt >= windowMs) {
      await closing;
      closing = close(now, now - closedAt);
      closing.catch(() => undefined);
      closedAt = now;
    }
  }
  await closing;
  return windows;
}

interface Found {
  /** Messages a second: of a worker alone, of a sender and a worker, and sent in the run. */
  readonly rates: { readonly drained: number; readonly through: number; readonly sent: number };
  readonly windows: readonly Window[];
}

async function measure(
  url: string,
  { seconds, quick, windowMs }: { seconds: number; quick: boolean; windowMs: number },
): Promise<Found> {
  const outbox = await openOutbox({ database: url, migrate: true });
  const worker: Worker = new Child("steady", [url]);
  try {
    await worker.next();
    const drainedRate = await drained(outbox, worker, quick ? 20_000 : 200_000);
    const through = await goneThrough(outbox, worker, quick ? 2 : 10);
    const sent = Math.round(Math.min(drainedRate, through) / 2);
    const windows = await steady(outbox, url, worker, { rate: sent, seconds, windowMs });
    await worker.ask({ do: "stop" });
    const rates = { drained: Math.round(drainedRate), through: Math.round(through), sent };
    return { rates, windows };
  } finally {
    await worker.end();
    await outbox.close();
  }
}

/** In MB; what is smaller than ten counts as ten. */
const most = (windows: readonly Window[]) =>
  Math.max(10, ...windows.map(({ sizes }) => sizes.total ?? Number.NaN));

function ratiosOf(database: string, { windows, rates }: Found): Ratio[] {
  const half = Math.ceil(windows.length / 2);
  const asked = { database, higherIsBetter: false, target: 1.5 };
  return [
    {
      ...asked,
      name: "steady, p99 of the last quarter: by that of the first",
      value: lastByFirst(windows.map(({ p99 }) => p99)),
    },
    {
      ...asked,
      name: "steady, largest table with indexes of the second half: by the first half",
      value: most(windows.slice(half)) / most(windows.slice(0, half)),
    },
    {
      name: "steady, messages handled: by those to be sent",
      database,
      value: windows.reduce((sum, { handled }) => sum + handled, 0) / windows.length / rates.sent,
      target: 0.98,
      higherIsBetter: true,
    },
  ];
}

function curvesOf(database: string, { windows }: Found): Curve[] {
  const curve = (title: string, yLabel: string, names: string[], of: (w: Window) => number[]) => ({
    title: `${title}, ${database}`,
    xLabel: "seconds",
    yLabel,
    series: names.map((name, n) => ({
      name,
      points: windows.map((w): [number, number] => [w.at, of(w)[n] ?? Number.NaN]),
    })),
  });
  const names = Object.keys(windows[0]?.sizes ?? {});
  return [
    curve("Latency at half the peak rate", "ms", ["p50", "p99"], ({ p50, p99 }) => [p50, p99]),
    curve("Size of the live table at half the peak rate", "MB", names, ({ sizes }) =>
      names.map((name) => sizes[name] ?? Number.NaN),
    ),
    curve("Messages in and out", "messages a second", ["sent", "handled"], (w) => [
      w.sent,
      w.handled,
    ]),
  ];
}

/** Latency and sizes over time, at half the rate that can go through. */
export const steadyBench: Bench = async (asked) => {
  const { quick, say } = asked;
  const seconds = lasting(120, 5, quick);
  const windowMs = quick ? 1_000 : 5_000;
  const ratios: Ratio[] = [];
  const curves: Curve[] = [];
  const found: Record<string, Found> = {};
  const durability = await onEach(asked, async (at, database) => {
    const url = await at.empty("steady");
    const one = await measure(url, { seconds, quick, windowMs });
    await at.drop(url);
    say(`${database}: ${JSON.stringify(one.rates)}, ${one.windows.length} windows`);
    found[database] = one;
    ratios.push(...ratiosOf(database, one));
    curves.push(...curvesOf(database, one));
  });
  const lines = Object.entries(found).flatMap(([database, { windows }]) =>
    windows.map(({ at, p50, p99, sent, handled, backlog, sizes }) => [
      database,
      ...[at, p50, p99, sent, handled, backlog].map(String),
      Object.entries(sizes)
        .map(([name, mb]) => `${name} ${mb}`)
        .join(", "),
    ]),
  );
  const text = [
    ...heading("Steady", asked, durability),
    `For ${seconds} s half as much is sent as can go through while it is sent and handled at once (sender and worker are a process each; batches of what is due, at most ${BATCH}). Latency is from the call of the send to the handler. PostgreSQL's autovacuum looks about once a minute, and what it frees is used again: only a run of several minutes shows whether the table stays as it is.`,
    ...Object.entries(found).map(
      ([database, { rates }]) =>
        `${database}: drained alone ${rates.drained} /s, through ${rates.through} /s, sent ${rates.sent} /s.`,
    ),
    table([
      ["", "s", "p50, ms", "p99, ms", "sent, /s", "handled, /s", "backlog", "sizes, MB"],
      ...lines,
    ]),
    ratioTable(ratios),
  ];
  return { result: { durability, found, ratios, curves }, text: `${text.join("\n\n")}\n` };
};
