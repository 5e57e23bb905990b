import type { Subject } from "./subject.ts";

/** A payload of about 200 bytes; the same for all. */
const payload = (n: number) => ({ n, text: "x".repeat(180) });
const large = (n: number) => ({ n, text: "x".repeat(4_000) });

const BATCH = 500;
const IN_FLIGHT = 64;

export interface Workload {
  readonly title: string;
  /** Messages a second. `scale` shortens it. Leaves nothing in the queue. */
  run(subject: Subject, scale: number): Promise<number>;
}

async function timed(count: number, work: () => Promise<unknown>): Promise<number> {
  const since = performance.now();
  await work();
  return (count / (performance.now() - since)) * 1_000;
}

async function fill(subject: Subject, count: number, make = payload): Promise<void> {
  for (let n = 0; n < count; n += BATCH) {
    await subject.sendMany(
      Array.from({ length: Math.min(BATCH, count - n) }, (_, i) => make(n + i)),
    );
  }
}

async function single(subject: Subject, count: number, inFlight: number): Promise<void> {
  let next = 0;
  const sender = async () => {
    while (next < count) await subject.send(payload(next++));
  };
  await Promise.all(Array.from({ length: inFlight }, sender));
}

const sends = (inFlight: number, of: number) => async (subject: Subject, scale: number) => {
  const count = Math.ceil(of * scale);
  const rate = await timed(count, () => single(subject, count, inFlight));
  await subject.drain(count);
  return rate;
};

const batches = (make: typeof payload, of: number) => async (subject: Subject, scale: number) => {
  const count = Math.ceil((of * scale) / BATCH) * BATCH;
  const rate = await timed(count, () => fill(subject, count, make));
  await subject.drain(count);
  return rate;
};

const drains = (make: typeof payload, of: number) => async (subject: Subject, scale: number) => {
  const count = Math.ceil((of * scale) / BATCH) * BATCH;
  await fill(subject, count, make);
  return timed(count, () => subject.drain(count));
};

export const WORKLOADS: readonly Workload[] = [
  { title: "single sends, one at a time", run: sends(1, 1_000) },
  { title: `single sends, ${IN_FLIGHT} in flight`, run: sends(IN_FLIGHT, 4_000) },
  { title: `batch sends of ${BATCH}, 200 B`, run: batches(payload, 20_000) },
  { title: `batch sends of ${BATCH}, 4 KB`, run: batches(large, 5_000) },
  { title: "drain, 200 B", run: drains(payload, 20_000) },
  { title: "drain, 4 KB", run: drains(large, 5_000) },
];
