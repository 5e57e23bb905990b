import { Child } from "./child.ts";
import {
  type Curve,
  heading,
  onEach,
  quantile,
  type Ratio,
  ratioTable,
  round as rounded,
} from "./measure.ts";
import { table } from "./report.ts";
import type { Bench } from "./run.ts";

const OURS = "agent-outbox";
const SUBJECTS = { postgres: [OURS, "graphile-worker"], sqlite: [OURS] } as const;

const TURN = 25;
/** What SQLite is asked for across processes, in milliseconds. */
const SQLITE_P95 = 15;

interface Pause {
  readonly title: string;
  /** Between two sends, from and to. */
  readonly ms: readonly [number, number];
  readonly turns: number;
}
const PAUSES: readonly Pause[] = [
  { title: "pauses of 5 to 50 ms", ms: [5, 50], turns: 20 },
  { title: "pauses of 150 to 250 ms", ms: [150, 250], turns: 8 },
];

type Order = { work: true } | { send: number; pauseMs: readonly [number, number] };

/** A sender and a worker of one subject, each in a process of its own. */
class Pair {
  readonly name: string;
  /** By how it was sent. */
  readonly times = new Map<string, number[]>(PAUSES.map(({ title }) => [title, []]));
  readonly #sender: Child<Order, string>;
  readonly #worker: Child<Order, string | number>;

  constructor(name: string, url: string) {
    this.name = name;
    this.#sender = new Child("latency", [name, url]);
    this.#worker = new Child("latency", [name, url]);
  }

  async ready(): Promise<void> {
    await this.#sender.next();
    await this.#worker.next();
    await this.#worker.ask({ work: true });
  }

  async turn(count: number, pause: Pause, keep: boolean): Promise<void> {
    const sent = this.#sender.ask({ send: count, pauseMs: pause.ms });
    sent.catch(() => undefined);
    for (let n = 0; n < count; n++) {
      const ms = (await this.#worker.next(30_000)) as number;
      if (keep) this.times.get(pause.title)?.push(ms);
    }
    await sent;
  }

  async close(): Promise<void> {
    await Promise.all([this.#sender.end(), this.#worker.end()]);
  }
}

interface Row {
  readonly database: string;
  readonly subject: string;
  readonly pauses: string;
  readonly sends: number;
  readonly p50: number;
  readonly p95: number;
}

const distribution = (times: readonly number[]): [number, number][] =>
  Array.from({ length: 99 }, (_, n) => [n + 1, rounded(quantile(times, (n + 1) / 100), 3)]);

function ratiosOf({ database, subject, pauses, p50, p95 }: Row, rows: readonly Row[]): Ratio[] {
  const ratio = (of: string, by: string, value: number) => ({
    name: `send to handler, ${pauses}, ${of}: by ${by}`,
    database,
    value,
    target: 1,
    higherIsBetter: false,
  });
  if (subject !== OURS) {
    const ours = rows.find(
      (row) => row.subject === OURS && row.database === database && row.pauses === pauses,
    );
    return [
      ratio("p50", subject, (ours?.p50 ?? Number.NaN) / p50),
      ratio("p95", subject, (ours?.p95 ?? Number.NaN) / p95),
    ];
  }
  return database === "sqlite" ? [ratio("p95", `${SQLITE_P95} ms`, p95 / SQLITE_P95)] : [];
}

/** From the call of a send to the handler in another process, on an idle queue. */
export const latencyBench: Bench = async (asked) => {
  const { quick, say } = asked;
  const rows: Row[] = [];
  const curves: Curve[] = [];
  const left: string[] = [];
  const durability = await onEach(asked, async (at, database) => {
    const pairs: Pair[] = [];
    // A peer that fails is told of, and takes part no longer; ours must not fail.
    const attempt = async (pair: Pair, work: () => Promise<void>) => {
      try {
        await work();
      } catch (error) {
        if (pair.name === OURS) throw error;
        left.push(`${pair.name}: ${String((error as Error).message).split("\n")[0]}`);
        say(`${database}: left out: ${left.at(-1)}`);
        pairs.splice(pairs.indexOf(pair), 1);
        await pair.close();
      }
    };
    try {
      for (const name of SUBJECTS[database]) {
        const pair = new Pair(name, await at.empty(name));
        pairs.push(pair);
        await attempt(pair, () => pair.ready());
      }
      for (const pause of PAUSES) {
        // The first turn warms up. Interleaved: whatever else the machine does meets all alike.
        for (let turn = 0; turn <= (quick ? 1 : pause.turns); turn++) {
          for (const pair of [...pairs])
            await attempt(pair, () => pair.turn(TURN, pause, turn > 0));
        }
      }
    } finally {
      await Promise.all(pairs.map((pair) => pair.close()));
    }
    for (const { title } of PAUSES) {
      const series = pairs.map(({ name, times }) => {
        const all = times.get(title) ?? [];
        const [p50, p95] = [quantile(all, 0.5), quantile(all, 0.95)];
        rows.push({ database, subject: name, pauses: title, sends: all.length, p50, p95 });
        say(`${database}, ${title}: ${name} p50 ${p50.toFixed(2)} ms, p95 ${p95.toFixed(2)} ms`);
        return { name, points: distribution(all) };
      });
      curves.push({
        title: `Send to handler on an idle queue, ${title}, ${database}`,
        xLabel: "part of the messages, %",
        yLabel: "ms",
        series,
      });
    }
  });
  const ratios = rows.flatMap((row) => ratiosOf(row, rows));
  const text = [
    ...heading("Latency", asked, durability),
    `From the call of a single send to the handler; sender and worker are two processes, the queue is idle. The subjects take turns of ${TURN} sends; graphile-worker as it comes, woken at every job, without its local queue.`,
    table([
      ["", "database", "", "sends", "p50, ms", "p95, ms"],
      ...rows.map(({ database, subject, pauses, sends, p50, p95 }) => [
        subject,
        database,
        pauses,
        String(sends),
        p50.toFixed(2),
        p95.toFixed(2),
      ]),
    ]),
    ...left.map((line) => `Not measured: ${line}`),
    ratioTable(ratios),
  ];
  return { result: { durability, rows, left, ratios, curves }, text: `${text.join("\n\n")}\n` };
};
