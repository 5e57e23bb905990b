import { draining, loops, type Opener, peer, type Subject, versionOf } from "../subject.ts";

interface Boss {
  on(event: "error", call: (error: Error) => void): void;
  start(): Promise<unknown>;
  stop(options: object): Promise<void>;
  createQueue(name: string): Promise<void>;
  send(name: string, data: object): Promise<unknown>;
  insert(name: string, jobs: readonly object[]): Promise<unknown>;
  fetch(name: string, options: object): Promise<{ id: string }[]>;
  complete(name: string, ids: readonly string[]): Promise<unknown>;
  work(
    name: string,
    options: object,
    handler: (jobs: readonly unknown[]) => Promise<void>,
  ): Promise<string>;
  offWork(name: string, options: object): Promise<void>;
}

const QUEUE = "bench";

async function opened(
  url: string,
  rest: (boss: Boss) => Pick<Subject, "name" | "settings" | "work">,
): Promise<Subject> {
  const { PgBoss } = await peer<{ PgBoss: new (options: object) => Boss }>("pg-boss");
  const boss = new PgBoss({ connectionString: url, supervise: false, schedule: false });
  boss.on("error", () => undefined);
  await boss.start();
  await boss.createQueue(QUEUE);
  return draining({
    kind: "peer",
    send: (payload) => boss.send(QUEUE, payload),
    sendMany: (payloads) =>
      boss.insert(
        QUEUE,
        payloads.map((data) => ({ data })),
      ),
    close: () => boss.stop({ graceful: false }),
    ...rest(boss),
  });
}

/** Fetch and complete in batches. */
export const pgBoss: Opener = (url) =>
  opened(url, (boss) => ({
    name: "pg-boss (fetch/complete loops)",
    settings: `${versionOf("pg-boss")}: two loops of fetch and complete in batches of 500, maintenance off; batches by insert`,
    work: async (handled) =>
      loops(
        2,
        async () => {
          const jobs = await boss.fetch(QUEUE, { batchSize: 500 });
          if (jobs.length > 0) {
            await boss.complete(
              QUEUE,
              jobs.map(({ id }) => id),
            );
          }
          return jobs.length;
        },
        handled,
      ),
  }));

/** Its worker with the settings that make it fetch without a pause. */
export const pgBossWork: Opener = (url) =>
  opened(url, (boss) => ({
    name: "pg-boss (work)",
    settings: `${versionOf("pg-boss")}: work with batchSize 500, localConcurrency 2, burstWhenBatchFull, pollingIntervalSeconds 0.5, maintenance off; batches by insert`,
    async work(handled) {
      const options = {
        batchSize: 500,
        localConcurrency: 2,
        burstWhenBatchFull: true,
        pollingIntervalSeconds: 0.5,
      };
      await boss.work(QUEUE, options, async (jobs) => handled(jobs.length));
      return () => boss.offWork(QUEUE, { wait: true });
    },
  }));
