import { draining, type Opener, peer, versionOf } from "../subject.ts";
import { openSqlite, pathOf } from "./raw-sqlite.ts";

interface Plainjob {
  better(database: object): object;
  defineQueue(options: object): {
    add(type: string, data: object): unknown;
    addMany(type: string, data: readonly object[]): unknown;
    countJobs(filter: object): number;
    close(): void;
  };
  defineWorker(
    type: string,
    run: () => void,
    options: object,
  ): { start(): Promise<void>; stop(): Promise<void> };
}
interface Liteque {
  buildDBClient(path: string, options: object): object;
  SqliteQueue: new (
    name: string,
    client: object,
    options: object,
  ) => { enqueue(payload: object): Promise<unknown> };
  Runner: new (
    queue: object,
    functions: object,
    options: object,
  ) => { run(): Promise<void>; stop(): void };
}

/** WAL and synchronous NORMAL, as it sets them itself. */
export const plainjob: Opener = async (url) => {
  const { better, defineQueue, defineWorker } = await peer<Plainjob>("plainjob");
  const logger = { error() {}, warn() {}, info() {}, debug() {} };
  const queue = defineQueue({ connection: better(await openSqlite(url)), logger });
  return draining({
    name: "plainjob",
    kind: "peer",
    settings: `${versionOf("plainjob")} with ${versionOf("better-sqlite3")}, a synchronous driver: defaults (WAL, synchronous NORMAL), one worker with pollInterval 5; batches by addMany`,
    send: async (payload) => queue.add("bench", payload),
    sendMany: async (payloads) => queue.addMany("bench", payloads),
    async work(handled) {
      const worker = defineWorker("bench", () => handled(1), { queue, logger, pollInterval: 5 });
      const ended = worker.start();
      return async () => {
        await worker.stop();
        await ended;
      };
    },
    close: async () => queue.close(),
  });
};

/** One statement per job: it has no batches. */
export const liteque: Opener = async (url) => {
  const { buildDBClient, SqliteQueue, Runner } = await peer<Liteque>("liteque");
  const client = buildDBClient(pathOf(url), { runMigrations: true, walEnabled: true });
  const queue = new SqliteQueue("bench", client, {
    defaultJobArgs: { numRetries: 2 },
    keepFailedJobs: false,
  });
  return draining({
    name: "liteque",
    kind: "peer",
    // From 11.10 on the driver refuses what it does in its transactions.
    settings: `${versionOf("liteque")} with ${versionOf("better-sqlite3")}, the newest that it runs with: WAL, synchronous NORMAL, concurrency 10, pollIntervalMs 1; it has no batches`,
    send: (payload) => queue.enqueue(payload),
    async sendMany(payloads) {
      for (const payload of payloads) await queue.enqueue(payload);
    },
    async work(handled) {
      let failed: unknown;
      const runner = new Runner(
        queue,
        {
          run: async () => undefined,
          onComplete: async () => handled(1),
          onError: async () => handled(1),
        },
        { concurrency: 10, pollIntervalMs: 1, timeoutSecs: 60 },
      );
      const ended = runner.run().catch((error: unknown) => {
        failed = error;
        handled(Number.POSITIVE_INFINITY);
      });
      return async () => {
        runner.stop();
        await ended;
        if (failed !== undefined) throw failed;
      };
    },
    close: async () => undefined,
  });
};
