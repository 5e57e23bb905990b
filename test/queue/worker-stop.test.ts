import { expect, it, onTestFinished } from "vitest";
import { type ClaimedMessage, connect } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { spawnScript, until } from "../support/processes.ts";
import { mailbox, note, watched } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";
import { aborted, content, gate } from "./worker-support.ts";

/** How long a call takes, in milliseconds. */
async function timed(run: () => Promise<unknown>): Promise<number> {
  const since = performance.now();
  await run();
  return performance.now() - since;
}

eachDatabase("stopping a worker", (database) => {
  it(
    "G11: makes what was not started claimable at once, in order, as if never claimed",
    TIMED,
    async () => {
      const { queue } = watched(database.knex());
      const to = mailbox();
      await queue.sendMessages(Array.from({ length: 60 }, (_, n) => note(to, { n })));
      const open = gate();
      const worker = queue.work(to, (message) =>
        content(message).n === 20 ? open.passed : undefined,
      );
      await until(() => worker.stats.active === 1 && worker.stats.waiting > 0);
      const stopping = worker.stop({ deadlineMs: 5_000 });
      // On a slow machine what waited for a second is being given back already: then it comes in two parts.
      const rest: ClaimedMessage[] = [];
      await until(async () => {
        rest.push(...(await queue.getMessages(to, { limit: 100 })));
        return rest.length === 39;
      });
      expect(rest.map((message) => content(message).n)).toEqual(
        Array.from({ length: 39 }, (_, n) => n + 21),
      );
      expect(rest.every(({ attempt }) => attempt === 1)).toBe(true);
      open.pass();
      // A handler that ends in time is acknowledged, and stop waits no longer than for that.
      expect(await timed(() => stopping)).toBeLessThan(2_000);
      expect(worker.stats).toMatchObject({ active: 0, processed: 21 });
    },
  );

  it("G11: aborts the signals near the deadline and gives those messages back", TIMED, async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    await queue.sendMessage(note(to));
    const worker = queue.work(to, (_, { signal }) => aborted(signal));
    await until(() => worker.stats.active === 1);
    expect(await timed(() => worker.stop({ deadlineMs: 600 }))).toBeLessThan(800);
    expect(worker.stats).toMatchObject({ active: 0, released: 1, failed: 0 });
    const [again] = await queue.getMessages(to);
    expect(again).toMatchObject({ attempt: 1 });
  });

  it(
    "G11: returns within the deadline though a handler never does, and ignores what it does later",
    TIMED,
    async () => {
      const { queue } = watched(database.knex());
      const to = mailbox();
      await queue.sendMessages([note(to), note(to)]);
      const open = gate();
      const worker = queue.work(to, () => open.passed, { concurrency: 2 });
      await until(() => worker.stats.active === 2);
      const calls = [worker.stop({ deadlineMs: 500 }), worker.stop({ deadlineMs: 60_000 })];
      expect(await timed(() => Promise.all([...calls, worker.stopped]))).toBeLessThan(800);
      const again = await queue.getMessages(to);
      expect(again.map(({ attempt }) => attempt)).toEqual([1, 1]);
      open.pass();
      await until(() => worker.stats.active === 0);
      for (const message of again) expect(await message.ack()).toBe("acked");
      expect(worker.stats).toMatchObject({ processed: 0, released: 2, lost: 0 });
    },
  );

  it("G11: returns within the deadline though the database does not answer", TIMED, async () => {
    const { knex } = connect(database.url(), { poolMax: 1 });
    onTestFinished(() => knex.destroy());
    const { queue } = watched(knex);
    const to = mailbox();
    await queue.sendMessages(Array.from({ length: 3 }, () => note(to)));
    const open = gate();
    const worker = queue.work(to, () => open.passed, { concurrency: 2 });
    await until(() => worker.stats.active === 2);
    // The only connection is taken: every statement of the worker waits.
    const held = await knex.transaction();
    open.pass();
    await until(() => worker.stats.active === 0);
    expect(await timed(() => worker.stop({ deadlineMs: 500 }))).toBeLessThan(800);
    await held.rollback();
    // What the worker had asked for before is answered now: two ends, and a claim that comes too late for it.
    await until(async () => {
      const { pending, leased } = await queue.getQueueStats(to);
      return pending === 1 && leased === 0;
    });
  });

  it("is what `await using` and closing the queue do", async () => {
    const { knex } = connect(database.url());
    onTestFinished(() => knex.destroy());
    const { queue } = watched(knex);
    const to = mailbox();
    let used: ReturnType<typeof queue.work>;
    {
      await using worker = queue.work(to, () => undefined);
      used = worker;
    }
    await used.stopped;
    const worker = queue.work(to, () => undefined);
    await queue.close();
    await worker.stopped;
  });

  it("leaves nothing that keeps the process alive", TIMED, async () => {
    const script = spawnScript("test/queue/programs/stops.ts", [database.url()]);
    expect(await script.message()).toEqual({ processed: 1 });
    const since = performance.now();
    expect(await script.exited).toEqual({ code: 0, signal: null });
    expect(performance.now() - since).toBeLessThan(2_000);
    expect(script.output()).toBe("");
  });
});
