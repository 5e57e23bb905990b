import { once } from "node:events";
import { connect } from "node:net";
import { draining, type Opener, peer, type Subject, versionOf } from "../subject.ts";

interface Queue {
  add(name: string, data: object, options?: object): Promise<unknown>;
  addBulk(jobs: readonly object[]): Promise<unknown>;
  waitUntilReady(): Promise<unknown>;
  obliterate(options: object): Promise<void>;
  close(): Promise<void>;
  on(event: "error", call: (error: Error) => void): void;
}
interface Worker {
  waitUntilReady(): Promise<unknown>;
  close(): Promise<void>;
  on(event: "error", call: (error: Error) => void): void;
}
interface Classes {
  Queue: new (name: string, options: object) => Queue;
  Worker: new (name: string, run: () => Promise<void>, options: object) => Worker;
}
interface Bullmq extends Classes {
  createPostgresBackend: object;
  withBackend(factory: object): Classes;
}

// A name of its own: a Redis may have other queues, and this one is wiped at the end.
const QUEUE = "agent-outbox-bench";
// Finished jobs are removed, as its documentation recommends for throughput.
const JOB = { removeOnComplete: true };

async function opened(
  { Queue, Worker }: Classes,
  connection: object,
  rest: Pick<Subject, "name" | "kind" | "settings">,
  end: (queue: Queue) => Promise<void>,
  concurrency: number,
): Promise<Subject> {
  const queue = new Queue(QUEUE, { connection, defaultJobOptions: JOB });
  queue.on("error", () => undefined);
  await queue.waitUntilReady();
  return draining({
    ...rest,
    send: (payload) => queue.add("bench", payload),
    sendMany: (payloads) => queue.addBulk(payloads.map((data) => ({ name: "bench", data }))),
    async work(handled) {
      const worker = new Worker(QUEUE, async () => handled(1), {
        connection,
        concurrency,
        ...JOB,
      });
      worker.on("error", () => undefined);
      await worker.waitUntilReady();
      return () => worker.close();
    },
    async close() {
      await end(queue);
      await queue.close();
    },
  });
}

/** Its backend for PostgreSQL: jobs are taken and finished one by one. */
export const bullmqPostgres: Opener = async (url) => {
  const { createPostgresBackend, withBackend } = await peer<Bullmq>("bullmq");
  const concurrency = 50;
  return opened(
    withBackend(createPostgresBackend),
    { connectionString: url, migrate: true },
    {
      name: "bullmq (PostgreSQL)",
      kind: "peer",
      settings: `${versionOf("bullmq")}, its PostgreSQL backend: concurrency ${concurrency}, removeOnComplete; batches by addBulk`,
    },
    async () => undefined,
    concurrency,
  );
};

/** On the Redis at REDIS_URL or on this machine: another server, with that server's durability. */
export const bullmqRedis: Opener = async () => {
  const url = new URL(process.env.REDIS_URL ?? "redis://127.0.0.1:6379");
  const port = Number(url.port || 6_379);
  await answers(url.hostname, port);
  const { default: Redis } = await peer<{
    default: new (
      url: string,
      options: object,
    ) => { config(verb: "GET", name: string): Promise<string[]>; quit(): Promise<unknown> };
  }>("ioredis");
  const redis = new Redis(url.href, { maxRetriesPerRequest: null });
  const [, aof] = await redis.config("GET", "appendonly").catch(() => []);
  const [, fsync] = await redis.config("GET", "appendfsync").catch(() => []);
  await redis.quit();
  const connection = {
    host: url.hostname,
    port,
    ...(url.username !== "" && { username: decodeURIComponent(url.username) }),
    ...(url.password !== "" && { password: decodeURIComponent(url.password) }),
    maxRetriesPerRequest: null,
  };
  const concurrency = 100;
  return opened(
    await peer<Bullmq>("bullmq"),
    connection,
    {
      name: "bullmq (Redis)",
      kind: "elsewhere",
      settings: `${versionOf("bullmq")} on Redis (appendonly ${aof ?? "unknown"}, appendfsync ${fsync ?? "unknown"}): concurrency ${concurrency}, removeOnComplete; batches by addBulk`,
    },
    (queue) => queue.obliterate({ force: true }),
    concurrency,
  );
};

async function answers(host: string, port: number): Promise<void> {
  const socket = connect({ host, port, timeout: 1_000 });
  try {
    await Promise.race([
      once(socket, "connect"),
      once(socket, "timeout").then(() => {
        throw new Error("no answer");
      }),
    ]);
  } catch {
    throw new Error(`no Redis answers at ${host}:${port} (REDIS_URL names another)`);
  } finally {
    socket.destroy();
  }
}
