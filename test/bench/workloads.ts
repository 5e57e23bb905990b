import { timed } from "./measure.ts";
import { median } from "./report.ts";
import type { Subject } from "./subject.ts";
import type { Crew } from "./subjects/crew.ts";

/** A payload of about 200 bytes; the same for all. */
const payload = (n: number) => ({ n, text: "x".repeat(180) });
const large = (n: number) => ({ n, text: "x".repeat(4_000) });

const BATCH = 500;
const IN_FLIGHT = 64;
/** Worker processes of the workload that has many. */
export const CREW = 4;
/** Messages in one round of lone sends, of each subject. */
const LONE = 400;

export interface Workload {
  readonly title: string;
  /** What one round has at least; quicker subjects get more, so that their rounds last long enough. */
  readonly least: number;
  readonly drains: boolean;
  /** Whether worker processes of the subject do it. */
  readonly crew: boolean;
  /** Does it with so many messages, and resolves to messages a second. Leaves nothing in the queue. */
  run(subject: Subject, count: number, crew: () => Promise<Crew>): Promise<number>;
}

const rate = (count: number, ms: number) => (count / ms) * 1_000;

async function fill(subject: Subject, count: number, make = payload): Promise<void> {
  for (let n = 0; n < count; n += BATCH) {
    await subject.sendMany(
      Array.from({ length: Math.min(BATCH, count - n) }, (_, i) => make(n + i)),
    );
  }
}

const sends = (title: string, inFlight: number, least: number): Workload => ({
  title,
  least,
  drains: false,
  crew: false,
  async run(subject, count) {
    let next = 0;
    const sender = async () => {
      while (next < count) await subject.send(payload(next++));
    };
    const ms = await timed(() => Promise.all(Array.from({ length: inFlight }, sender)));
    await subject.drain(count);
    return rate(count, ms);
  },
});

const batches = (title: string, make: typeof payload, least: number): Workload => ({
  title,
  least,
  drains: false,
  crew: false,
  async run(subject, count) {
    const ms = await timed(() => fill(subject, count, make));
    await subject.drain(count);
    return rate(count, ms);
  },
});

const drain = (title: string, make: typeof payload, least: number, many = false): Workload => ({
  title,
  least,
  drains: true,
  crew: many,
  async run(subject, count, crew) {
    const worker = many ? await crew() : subject;
    await fill(subject, count, make);
    return rate(count, await worker.drain(count));
  },
});

/** All but lone sends, which are interleaved one by one. */
export const WORKLOADS: readonly Workload[] = [
  sends("single sends, one at a time", 1, 500),
  sends(`single sends, ${IN_FLIGHT} in flight`, IN_FLIGHT, 2_000),
  batches(`batch sends of ${BATCH}, 200 B`, payload, 5_000),
  batches(`batch sends of ${BATCH}, 4 KB`, large, 2_500),
  drain("drain, 200 B", payload, 5_000),
  drain("drain, 4 KB", large, 2_500),
  drain(`drain with ${CREW} worker processes, 200 B`, payload, 5_000, true),
];

export const LONE_SEND = "lone send";

/**
 * The median of milliseconds that a send takes while nothing else is sent, of all subjects in turn.
 * Who fails is told of by `failed`, and left out.
 */
export async function loneSends(
  subjects: readonly Subject[],
  scale: number,
  failed: (subject: Subject, error: unknown) => Promise<void>,
): Promise<Map<Subject, number>> {
  const count = Math.ceil(LONE * scale);
  const times = new Map(subjects.map((subject) => [subject, [] as number[]]));
  const attempt = async (subject: Subject, work: () => Promise<unknown>) => {
    try {
      await work();
    } catch (error) {
      times.delete(subject);
      await failed(subject, error);
    }
  };
  for (let n = 0; n < count; n++) {
    for (const [subject, values] of times) {
      await attempt(subject, async () => {
        values.push(await timed(() => subject.send(payload(n))));
      });
    }
  }
  for (const subject of times.keys()) await attempt(subject, () => subject.drain(count));
  return new Map([...times].map(([subject, values]) => [subject, median(values)]));
}

/** How many messages a round of `seconds` has for a subject that did so many a second, in whole batches. */
export function countFor({ least }: Workload, best: number, seconds: number): number {
  const wanted = Math.min(Math.max(least, best * seconds), 300_000);
  return Math.ceil(wanted / BATCH) * BATCH;
}
