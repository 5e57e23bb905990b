import { expect, it, onTestFinished } from "vitest";
import { MessageQueueManager, Observers, type Worker } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { failure, mailbox, note, watched } from "../support/queue.ts";
import { content, gate } from "./worker-support.ts";

const KB = 1_000;
const MB = 1_000_000;

/** A message of about so many bytes. */
const sized = (to: string, n: number, bytes: number) => note(to, { n, text: "x".repeat(bytes) });

eachDatabase("a worker's room for bytes", (database) => {
  it("bounds what is claimed and has not ended", async () => {
    const observers = new Observers();
    const queue = new MessageQueueManager(database.knex(), { observers, compress: false });
    onTestFinished(() => queue.close());
    const to = mailbox();
    const sizes = new Map<string, number>();
    for (let n = 0; n < 60; n++) {
      const bytes = [360, 440, 400, 380, 420][n % 5] as number;
      // A little less, so that the envelope is below the largest message.
      const { messageId } = await queue.sendMessage(sized(to, n, bytes * 990));
      sizes.set(messageId, bytes * 990);
    }
    let held = 0;
    let most = 0;
    observers.add((told) => {
      for (const event of told) {
        if (event.type !== "message") continue;
        const bytes = sizes.get(String(event.messageId)) ?? 0;
        if (event.event === "received") held += bytes;
        if (event.event === "processed" || event.event === "released") held -= bytes;
        most = Math.max(most, held);
      }
    });
    const worker = queue.work(to, () => new Promise((done) => setTimeout(done, 5)), {
      ...{ concurrency: 50, batchSize: 500, maxClaimedBytes: 4 * MB },
    });
    await until(() => worker.stats.processed === 60);
    // Messages of these sizes differ by a tenth from what is expected of them.
    expect(most).toBeLessThan(1.2 * 4 * MB);
    expect(most).toBeGreaterThan(2 * MB);
    expect(held).toBe(0);
  });

  it("keeps to it when messages are suddenly large, and gives back what is over without a run", async () => {
    const { queue } = watched(database.knex(), { compress: false });
    const to = mailbox();
    await queue.sendMessages(Array.from({ length: 1_000 }, (_, n) => sized(to, n, 10)));
    await queue.sendMessages(Array.from({ length: 100 }, (_, n) => sized(to, n, 400 * KB)));
    const open = gate();
    const attempts: number[] = [];
    const order: unknown[] = [];
    let active = 0;
    let most = 0;
    const worker = queue.work(
      to,
      async (message) => {
        if (String(content(message).text).length < KB) return;
        attempts.push(message.attempt);
        order.push(content(message).n);
        most = Math.max(most, ++active);
        await open.passed;
        active--;
      },
      { concurrency: 50, batchSize: 200, maxClaimedBytes: 2 * MB },
    );
    await until(async () => {
      const { leased } = await queue.getQueueStats(to);
      return leased > 3 && leased <= 7 && worker.stats.processed === 1_000;
    });
    open.pass();
    await until(() => worker.stats.processed === 1_100);
    // Seven of them are the most below one and a half of the room.
    expect(most).toBeLessThanOrEqual(7);
    expect(attempts).toEqual(Array.from({ length: 100 }, () => 1));
    expect(order).toEqual(Array.from({ length: 100 }, (_, n) => n));
  });

  it("claims full batches of small messages", async () => {
    const observers = new Observers();
    const queue = new MessageQueueManager(database.knex(), { observers });
    onTestFinished(() => queue.close());
    const to = mailbox();
    await queue.sendMessages(Array.from({ length: 4_000 }, (_, n) => sized(to, n, 200)));
    const claims: number[] = [];
    observers.add((told) => {
      const received = told.filter((one) => one.type === "message" && one.event === "received");
      if (received.length > 0) claims.push(received.length);
    });
    const worker = queue.work(to, () => undefined, { concurrency: 100, batchSize: 500 });
    await until(() => worker.stats.processed === 4_000);
    // It learns their sizes with the first few, and from then on bytes bound nothing.
    expect(claims.slice(0, 3)).toEqual([32, 128, 500]);
    expect(claims.filter((count) => count === 500).length).toBeGreaterThanOrEqual(5);
    expect(worker.stats.released).toBe(0);
  });

  it("handles messages one by one that are larger than all of it", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages(Array.from({ length: 5 }, (_, n) => sized(to, n, 2 * KB)));
    const most: number[] = [];
    const worker: Worker = queue.work(
      to,
      async () => {
        most.push(worker.stats.active + worker.stats.waiting);
        await new Promise(setImmediate);
      },
      { concurrency: 3, maxClaimedBytes: 1 },
    );
    await until(() => worker.stats.processed === 5);
    expect(most).toEqual([1, 1, 1, 1, 1]);
  });

  it("counts compressed contents as they are for their handlers", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessages(Array.from({ length: 10 }, (_, n) => sized(to, n, 900 * KB)));
    const open = gate();
    let most = 0;
    const worker: Worker = queue.work(
      to,
      async () => {
        most = Math.max(most, worker.stats.active + worker.stats.waiting);
        await open.passed;
      },
      { concurrency: 10, maxClaimedBytes: 3 * MB },
    );
    await until(() => worker.stats.active === 3);
    expect((await queue.getQueueStats(to)).leased).toBe(3);
    open.pass();
    await until(() => worker.stats.processed === 10);
    expect(most).toBe(3);
  });

  it("is a whole number of bytes", async () => {
    const { queue } = watched(database.knex());
    for (const maxClaimedBytes of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, "1 MB"]) {
      const options = { maxClaimedBytes: maxClaimedBytes as number };
      const error = await failure(() => queue.work(mailbox(), () => undefined, options));
      expect(error).toMatchObject({ code: "VALIDATION_FAILED" });
      expect(error.message).toContain("maxClaimedBytes");
    }
  });
});
