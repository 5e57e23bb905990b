import { countdown, type Opener, peer, type Subject } from "../subject.ts";

interface Statement {
  run(...values: unknown[]): unknown;
  all(...values: unknown[]): unknown[];
}
interface Database {
  pragma(text: string): unknown;
  exec(text: string): void;
  prepare(text: string): Statement;
  transaction<T>(run: (value: T) => void): (value: T) => void;
  close(): void;
}
interface Plainjob {
  better(database: Database): object;
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

const pathOf = (url: string) => url.replace(/^sqlite:/, "");

const open = async (url: string): Promise<Database> => {
  const { default: Sqlite } = await peer<{ default: new (path: string) => Database }>(
    "better-sqlite3",
  );
  return new Sqlite(pathOf(url));
};

/** WAL and synchronous NORMAL, as it sets them itself. */
export const plainjob: Opener = async (url) => {
  const { better, defineQueue, defineWorker } = await peer<Plainjob>("plainjob");
  const logger = { error() {}, warn() {}, info() {}, debug() {} };
  const queue = defineQueue({ connection: better(await open(url)), logger });
  return {
    name: "plainjob",
    settings: "defaults: a synchronous driver, WAL, synchronous NORMAL; one worker",
    send: async (payload) => queue.add("bench", payload),
    sendMany: async (payloads) => queue.addMany("bench", payloads),
    async drain(count) {
      const { reached, done } = countdown(count);
      const worker = defineWorker("bench", done, { queue, logger, pollInterval: 5 });
      const ended = worker.start();
      await reached;
      await worker.stop();
      await ended;
    },
    close: async () => queue.close(),
  };
};

/** One statement per job: it has no batches. */
export const liteque: Opener = async (url) => {
  const { buildDBClient, SqliteQueue, Runner } = await peer<Liteque>("liteque");
  const client = buildDBClient(pathOf(url), { runMigrations: true, walEnabled: true });
  const queue = new SqliteQueue("bench", client, {
    defaultJobArgs: { numRetries: 2 },
    keepFailedJobs: false,
  });
  return {
    name: "liteque",
    settings: "WAL, concurrency 10, pollIntervalMs 1; no batches",
    send: (payload) => queue.enqueue(payload),
    async sendMany(payloads) {
      for (const payload of payloads) await queue.enqueue(payload);
    },
    async drain(count) {
      const { reached, done } = countdown(count);
      const runner = new Runner(
        queue,
        { run: async () => undefined, onComplete: async () => done(), onError: async () => done() },
        { concurrency: 10, pollIntervalMs: 1, timeoutSecs: 60 },
      );
      const ended = runner.run();
      await Promise.race([reached, ended]);
      runner.stop();
      await ended;
    },
    close: async () => undefined,
  } satisfies Subject;
};

/** What the file can do with a synchronous driver: no lease, no archive, no fence. */
export const rawSqlite: Opener = async (url) => {
  const database = await open(url);
  database.pragma("journal_mode = WAL");
  database.pragma("synchronous = NORMAL");
  database.exec("CREATE TABLE jobs (seq INTEGER PRIMARY KEY AUTOINCREMENT, content TEXT NOT NULL)");
  const insert = database.prepare("INSERT INTO jobs (content) VALUES (?)");
  const many = database.transaction((payloads: readonly object[]) => {
    for (const payload of payloads) insert.run(JSON.stringify(payload));
  });
  const take = database.prepare(
    "DELETE FROM jobs WHERE seq IN (SELECT seq FROM jobs ORDER BY seq LIMIT ?) RETURNING *",
  );
  return {
    name: "raw SQL (ceiling)",
    settings: "better-sqlite3, WAL, synchronous NORMAL, batches of 500",
    send: async (payload) => insert.run(JSON.stringify(payload)),
    sendMany: async (payloads) => many(payloads),
    async drain(count) {
      for (let left = count; left > 0; ) left -= take.all(500).length;
    },
    close: async () => database.close(),
  };
};
