import { expect, it } from "vitest";
import { eachDatabase, type FreshDatabase } from "../support/databases.ts";
import { spawnScript } from "../support/processes.ts";
import { note, watched } from "../support/queue.ts";

const PROGRAM = "test/queue/programs/floods.ts";

/** Two processes that send at once. */
async function floods({ url }: FreshDatabase, flow: object, count: number) {
  const args = [url, "full", JSON.stringify({ flow }), String(count)];
  const senders = [spawnScript(PROGRAM, args), spawnScript(PROGRAM, args)];
  for (const sender of senders) await sender.message();
  for (const sender of senders) sender.send({ go: true });
  return Promise.all(
    senders.map((sender) => sender.message<{ stored: number; refused: number }>()),
  );
}

eachDatabase("flow control between processes", (database) => {
  it("never lets a window be exceeded, and fills it", async () => {
    const fresh = await database.fresh();
    const told = await floods(fresh, { window: 101, whenFull: "fail" }, 1_000);
    expect((told[0]?.stored ?? 0) + (told[1]?.stored ?? 0)).toBe(101);
    expect(await fresh.knex("outbox_messages")).toHaveLength(101);
  });

  it("never lets a mailbox be deeper than it may, and fills it", async () => {
    const fresh = await database.fresh();
    await watched(fresh.knex).queue.mailboxes.set("full", { maxDepth: 101 });
    const told = await floods(fresh, { window: false, whenFull: "fail" }, 1_000);
    expect((told[0]?.stored ?? 0) + (told[1]?.stored ?? 0)).toBe(101);
    expect(await fresh.knex("outbox_messages")).toHaveLength(101);
  });

  it("stays within window and depth while consumers make room, and brings everything through", async () => {
    const fresh = await database.fresh();
    const { queue } = watched(fresh.knex);
    await queue.mailboxes.set("full", { maxDepth: 8 });
    let ended = false;
    const seen: number[] = [];
    const deepest = async () => {
      while (!ended) {
        const rows = await fresh.knex("outbox_messages").where({ to_agent: "full" }).select("seq");
        seen.push(rows.length);
      }
    };
    let done = 0;
    const count = () => {
      done += 1;
    };
    const worker = queue.work("full", count, { concurrency: 3 });
    const watch = deepest();
    const flow = { window: 6, whenFull: "wait", waitMs: 150_000 };
    const told = await floods(fresh, flow, 60).finally(() => {
      ended = true;
    });
    await watch;
    expect(Math.max(...seen)).toBeLessThanOrEqual(6);
    await worker.stop();
    const left = await queue.getMessages("full", { limit: 100 });
    const stored = told.reduce((sum, one) => sum + one.stored, 0);
    expect(stored).toBeGreaterThanOrEqual(120);
    expect(done + left.length).toBe(stored);
    expect(told.map(({ refused }) => refused)).toEqual([0, 0]);
  });

  it("is exact for queues of one process, with many senders each", async () => {
    const { knex } = await database.fresh();
    const queues = [watched(knex).queue, watched(knex).queue];
    await queues[0]?.mailboxes.set("deep", { maxDepth: 30 });
    const outcomes = await Promise.allSettled(
      Array.from({ length: 120 }, (_, n) =>
        queues[n % 2]?.sendMessage(
          { ...note(n % 4 < 2 ? "deep" : "windowed"), fromAgent: "sender" },
          { flow: { window: n % 4 < 2 ? false : 20, whenFull: n % 3 === 0 ? "spill" : "fail" } },
        ),
      ),
    );
    const spilled = outcomes.filter(({ status }) => status === "fulfilled").length - 50;
    expect(spilled).toBeGreaterThan(0);
    const stats = await Promise.all(
      ["deep", "windowed"].map((agent) => queues[1]?.getQueueStats(agent)),
    );
    expect(stats).toMatchObject([{ pending: 30 }, { pending: 20 }]);
    expect((stats[0]?.scheduled ?? 0) + (stats[1]?.scheduled ?? 0)).toBe(spilled);
  });
});
