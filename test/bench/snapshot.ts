import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import {
  type Curve,
  heading,
  inTime,
  lasting,
  mean,
  onEach,
  type Ratio,
  ratioTable,
} from "./measure.ts";
import type { Place } from "./place.ts";
import { table } from "./report.ts";
import type { Asked, Bench } from "./run.ts";
import type { Subject } from "./subject.ts";
import { OPENERS } from "./subjects/openers.ts";

const OURS = "agent-outbox";
const SUBJECTS = [OURS, "graphile-worker", "pg-boss"];
const BATCH = 500;
/** No more than this wait at any time: the rate is that of the slower of sending and handling. */
const BACKLOG = 5_000;

/** Messages a second, by the end of their window in seconds; the snapshot is opened at 0. */
interface Course {
  readonly name: string;
  readonly settings: string;
  readonly points: readonly [number, number][];
}

interface Times {
  readonly seconds: number;
  /** How long it runs before the snapshot is opened. */
  readonly beforeSeconds: number;
  readonly windowMs: number;
}

/** Holds back what a vacuum may remove in the whole database, as a long report or a forgotten session does. */
async function openSnapshot(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query("BEGIN ISOLATION LEVEL REPEATABLE READ");
  await client.query("SELECT 1 FROM pg_class LIMIT 1");
  return client;
}

/** Sends as quickly as it is handled, until stopped. */
function sending(subject: Subject, handled: () => number): () => Promise<void> {
  let stopped = false;
  const payloads = Array.from({ length: BATCH }, (_, n) => ({ n, text: "x".repeat(180) }));
  const ended = (async () => {
    let sent = 0;
    while (!stopped) {
      if (sent - handled() < BACKLOG) {
        await subject.sendMany(payloads);
        sent += BATCH;
      } else {
        await sleep(2);
      }
    }
  })();
  ended.catch(() => undefined);
  return async () => {
    stopped = true;
    await ended;
  };
}

async function courseOf(
  subject: Subject,
  url: string,
  { seconds, beforeSeconds, windowMs }: Times,
): Promise<Course> {
  const points: [number, number][] = [];
  let handled = 0;
  let snapshot: pg.Client | undefined;
  const stopWork = await subject.work((count) => {
    handled += count;
  });
  const stopSending = sending(subject, () => handled);
  try {
    // Warm before it counts.
    await sleep(windowMs);
    const windows = async (from: number, to: number) => {
      const since = performance.now();
      for (let end = windowMs; from * 1_000 + end <= to * 1_000; end += windowMs) {
        const [before, at] = [handled, performance.now()];
        await sleep(Math.max(0, since + end - at));
        const rate = ((handled - before) / (performance.now() - at)) * 1_000;
        if (!Number.isFinite(rate)) throw new Error(`${subject.name} failed under way`);
        points.push([from + end / 1_000, Math.round(rate)]);
      }
    };
    await windows(-beforeSeconds, 0);
    snapshot = await openSnapshot(url);
    await windows(0, seconds);
  } finally {
    await stopSending()
      .finally(stopWork)
      .finally(() => snapshot?.end());
  }
  return { name: subject.name, settings: subject.settings, points };
}

interface Row {
  readonly subject: string;
  readonly settings: string;
  /** Messages a second before the snapshot, and in the first and the last quarter of it. */
  readonly before: number;
  readonly first: number;
  readonly last: number;
  readonly kept: number;
}

function rowOf({ name, settings, points }: Course): Row {
  const rates = (all: readonly (readonly [number, number])[]) => all.map(([, rate]) => rate);
  const before = mean(rates(points.filter(([at]) => at <= 0)));
  const under = rates(points.filter(([at]) => at > 0));
  const quarter = Math.max(1, Math.floor(under.length / 4));
  const last = mean(under.slice(-quarter));
  return {
    subject: name,
    settings,
    before: Math.round(before),
    first: Math.round(mean(under.slice(0, quarter))),
    last: Math.round(last),
    kept: last / before,
  };
}

/** One after the other, each in a database of its own, so that none holds back the other's vacuum. */
async function measure(at: Place, times: Times, { say }: Asked) {
  const courses: Course[] = [];
  const left: string[] = [];
  for (const name of SUBJECTS) {
    const url = await at.empty(`snapshot-${name}`);
    try {
      const subject = await (OPENERS.postgres[name] as (typeof OPENERS.postgres)[string])(url);
      try {
        const course = await courseOf(subject, url, times);
        courses.push(course);
        const { before, last } = rowOf(course);
        say(`postgres: ${name}: ${before} /s before the snapshot, ${last} /s at its end`);
      } finally {
        await inTime(subject.close(), 60_000);
      }
    } catch (error) {
      // A peer that fails is told of; ours must not fail.
      if (name === OURS) throw error;
      left.push(`${name}: ${String((error as Error).message).split("\n")[0]}`);
      say(`postgres: ${left.at(-1)}`);
    }
    await at.drop(url);
  }
  return { courses, left };
}

/** The rate under load while another transaction holds a snapshot open. */
export const snapshotBench: Bench = async (asked) => {
  const { quick, databases } = asked;
  const times: Times = {
    seconds: lasting(300, 20, quick),
    beforeSeconds: quick ? 4 : 10,
    windowMs: quick ? 2_000 : 5_000,
  };
  let courses: readonly Course[] = [];
  let left: readonly string[] = [];
  const only = { ...asked, databases: databases.filter((database) => database === "postgres") };
  const durability = await onEach(only, async (at) => {
    ({ courses, left } = await measure(at, times, asked));
  });
  const rows = courses.map(rowOf);
  const [ours] = rows;
  const peers = rows.slice(1);
  const ratios: Ratio[] = [];
  const add = (name: string, value: number, target?: number) =>
    ratios.push({ name, database: "postgres", value, target, higherIsBetter: true });
  if (ours !== undefined) {
    add("under an open snapshot, the last quarter's rate: by that before", ours.kept, 0.8);
    const best = Math.max(...peers.map(({ last }) => last));
    if (peers.length > 0) {
      add("under an open snapshot, the last quarter's rate: by the best peer's", ours.last / best);
    }
  }
  const curves: Curve[] = [
    {
      title: "A transaction is open from 0 on: messages through, PostgreSQL",
      xLabel: "seconds",
      yLabel: "messages a second",
      series: courses.map(({ name, points }) => ({ name, points })),
    },
  ];
  const text = [
    ...heading("Snapshot", only, durability),
    `Another session holds a transaction with a snapshot (REPEATABLE READ, idle) for ${times.seconds} s, in which no vacuum can remove what dies. One process sends batches of ${BATCH} and handles them; no more than ${BACKLOG} wait. One subject after the other, ${times.beforeSeconds} s before the snapshot.`,
    table([
      ["messages a second", "before", "first quarter", "last quarter", "kept"],
      ...rows.map(({ subject, before, first, last, kept }) => [
        subject,
        String(before),
        String(first),
        String(last),
        `${Math.round(kept * 100)} %`,
      ]),
    ]),
    [
      ...rows.map(({ subject, settings }) => `- ${subject}: ${settings}`),
      ...left.map((line) => `- Not measured: ${line}`),
    ].join("\n"),
    ratioTable(ratios),
  ];
  return { result: { durability, rows, left, ratios, curves }, text: `${text.join("\n\n")}\n` };
};
