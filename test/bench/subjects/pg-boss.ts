import { type Opener, peer } from "../subject.ts";

interface Boss {
  on(event: "error", call: (error: Error) => void): void;
  start(): Promise<unknown>;
  stop(options: object): Promise<void>;
  createQueue(name: string): Promise<void>;
  send(name: string, data: object): Promise<unknown>;
  insert(name: string, jobs: readonly object[]): Promise<unknown>;
  fetch(name: string, options: object): Promise<{ id: string }[]>;
  complete(name: string, ids: readonly string[]): Promise<unknown>;
}

/** Batch fetch and batch completion in two loops: faster than its `work`, which polls. */
export const pgBoss: Opener = async (url) => {
  const { PgBoss } = await peer<{ PgBoss: new (options: object) => Boss }>("pg-boss");
  const boss = new PgBoss({ connectionString: url, supervise: false, schedule: false });
  boss.on("error", () => undefined);
  await boss.start();
  await boss.createQueue("bench");
  return {
    name: "pg-boss",
    settings: "two loops of fetch and complete in batches of 500, maintenance off",
    send: (payload) => boss.send("bench", payload),
    sendMany: (payloads) =>
      boss.insert(
        "bench",
        payloads.map((data) => ({ data })),
      ),
    async drain(count) {
      let left = count;
      const loop = async () => {
        while (left > 0) {
          const jobs = await boss.fetch("bench", { batchSize: 500 });
          if (jobs.length === 0) break;
          await boss.complete(
            "bench",
            jobs.map(({ id }) => id),
          );
          left -= jobs.length;
        }
      };
      while (left > 0) await Promise.all([loop(), loop()]);
    },
    close: () => boss.stop({ graceful: false }),
  };
};
