import { setTimeout as sleep } from "node:timers/promises";
import type { Knex } from "knex";
import { describe, expect, it, onTestFinished } from "vitest";
import {
  AgentCommunicationError,
  connect,
  MessageQueueManager,
  migrate,
  type Worker,
} from "../../lib/index.ts";
import { canOwnPostgres, eachDatabase, ownPostgres } from "../support/databases.ts";
import { type Script, spawnScript, until } from "../support/processes.ts";
import { effects, effectsTable } from "./effects.ts";

const OPTIONS = { leaseMs: 2_000, concurrency: 4, pollMs: { min: 5, max: 200 } };
const EFFECTS = "stays";

interface Load {
  readonly queue: MessageQueueManager;
  /** Ids of what the sender was told is stored. */
  readonly committed: string[];
  readonly workers: readonly [Script, Worker];
  /** No more is sent; resolves when the last send is certain. */
  end(): Promise<void>;
}

/** A sender and two workers, one of them in a process of its own, that write one effect per message. */
async function underLoad(url: string, knex: Knex): Promise<Load> {
  await effectsTable(knex);
  const queue = new MessageQueueManager(knex);
  onTestFinished(() => queue.close());
  const script = spawnScript("test/stress/programs/worker.ts", [
    url,
    EFFECTS,
    JSON.stringify({ ...OPTIONS, quiet: true }),
  ]);
  await script.message();
  script.send({ begin: true });
  const worker = queue.work(
    EFFECTS,
    async (message, { tx }) => {
      await tx(async (trx) => {
        await trx("effects").insert({ message_id: message.messageId, process: 0 });
        // Slow enough that it cannot keep up alone.
        await sleep(10);
      });
    },
    { ...OPTIONS, concurrency: 1, onError: () => {} },
  );
  const committed: string[] = [];
  let sending = true;
  const sender = (async () => {
    for (let n = 0; sending; n++) {
      const messageId = `outage-${n}`;
      // As often as the message may fail while the database comes and goes.
      const message = { toAgent: EFFECTS, messageType: "NOTE", content: { act: "write" } };
      await certainly(() => queue.sendMessage({ ...message, messageId, maxAttempts: 1_000 }));
      committed.push(messageId);
      await sleep(2);
    }
  })();
  return {
    queue,
    committed,
    workers: [script, worker],
    end: async () => {
      sending = false;
      await sender;
    },
  };
}

/** Repeats a send until it is answered: with its own id that is safe. */
async function certainly<T>(send: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await send();
    } catch (error) {
      if (!(error instanceof AgentCommunicationError && error.retryable)) throw error;
      await sleep(20);
    }
  }
}

/** Every committed message had its effect exactly once, and nothing is left or dead. */
async function allDone({ queue, committed, end }: Load, knex: Knex): Promise<void> {
  await end();
  await until(
    async () => {
      const { pending, scheduled, leased } = await queue.getQueueStats(EFFECTS);
      return pending + scheduled + leased === 0;
    },
    { everyMs: 50 },
  );
  const counts = await effects(knex);
  expect(committed.filter((messageId) => counts.get(messageId) !== 1)).toEqual([]);
  expect(counts.size).toBe(committed.length);
  expect(await queue.deadLetters.list()).toEqual([]);
}

async function processed([script, worker]: Load["workers"]): Promise<[number, number]> {
  script.send({ ask: "stats" });
  return [(await script.message<{ processed: number }>()).processed, worker.stats.processed];
}

/** Goes on when both workers have moved on by this many messages. */
async function progress({ workers }: Load, by: number): Promise<void> {
  const before = await processed(workers);
  await until(async () =>
    (await processed(workers)).every((now, n) => now >= Number(before[n]) + by),
  );
}

describe.skipIf(!canOwnPostgres)(
  "a PostgreSQL that goes away under load (needs the npm server package)",
  () => {
    it("G1, G7: stopped, crashed and started again: nothing is lost, done twice, or dead", async () => {
      const server = await ownPostgres();
      onTestFinished(() => server.dispose());
      const { knex } = connect(server.url);
      onTestFinished(() => knex.destroy());
      await migrate(knex);
      const load = await underLoad(server.url, knex);
      await progress(load, 20);
      await server.stop();
      await sleep(500);
      await server.start();
      await progress(load, 20);
      await server.kill();
      await server.start();
      await progress(load, 20);
      await allDone(load, knex);
    });
  },
);

eachDatabase("connections that are cut under load", (database) => {
  it.runIf(database.dialect === "postgres")(
    "G1, G7: cost nothing but time (PostgreSQL only: the others cannot be told to cut them)",
    async () => {
      const load = await underLoad(database.url(), database.knex());
      for (let round = 0; round < 8; round++) {
        await progress(load, 5);
        const admin = connect(database.url()).knex;
        await admin.raw(
          "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
        );
        await admin.destroy();
      }
      await allDone(load, database.knex());
    },
    60_000,
  );
});
