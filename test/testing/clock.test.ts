import { describe, expect, it } from "vitest";
import { createTestOutbox, NotSettled } from "../../lib/testing/index.ts";
import { TIMED } from "../support/timed.ts";
import { testOutbox } from "./support.ts";

const START = Date.UTC(2026, 0, 1);
const note = (toAgent: string, more: object = {}) => ({
  toAgent,
  messageType: "NOTE",
  content: { n: 1 },
  ...more,
});

describe("the virtual clock", () => {
  it("is the database's clock, stands still, and moves only when told", async () => {
    const { outbox, clock, queue } = await testOutbox();
    const { messageId } = await queue.sendMessage(note("a"));
    expect((await queue.getMessage(messageId))?.createdAt).toBe(START);
    await new Promise((done) => setTimeout(done, 20));
    expect(clock.now).toBe(START);
    await clock.advance(1_234);
    const later = await queue.sendMessage(note("a"));
    expect((await queue.getMessage(later.messageId))?.createdAt).toBe(START + 1_234);
    await clock.advanceTo("2026-01-02T00:00:00Z");
    expect(clock.now).toBe(START + 86_400_000);
    await clock.advanceTo(START);
    expect(clock.now, "never back").toBe(START + 86_400_000);
    expect(outbox.dialect).toBe("sqlite");
  });

  it("begins where it is told", async () => {
    const { clock } = await testOutbox({ now: "2030-05-06T07:08:09.010Z" });
    expect(new Date(clock.now).toISOString()).toBe("2030-05-06T07:08:09.010Z");
    await expect(createTestOutbox({ now: "yesterday" })).rejects.toThrow(
      "now: expected an instant",
    );
  });

  it("moves in a transaction, too", async () => {
    const { knex, queue, clock } = await testOutbox();
    await clock.advance(5_000);
    const { messageId } = await knex.transaction((tx) => queue.sendMessage(note("a"), { tx }));
    expect((await queue.getMessage(messageId))?.createdAt).toBe(START + 5_000);
  });

  it("lets what is due in between happen at its own time and in its order", async () => {
    const harness = await testOutbox();
    const seen: [string, number][] = [];
    await harness.consumer("a", (message) => {
      seen.push([message.subject ?? "", harness.clock.now - START]);
    });
    await harness.queue.sendMessage(note("a", { subject: "late", delayMs: 60_000 }));
    await harness.queue.sendMessage(note("a", { subject: "soon", delayMs: 1_000 }));
    await harness.queue.sendMessage(note("a", { subject: "now" }));
    await harness.settle();
    expect(seen).toEqual([["now", 0]]);
    await harness.clock.advance(59_999);
    expect(seen).toEqual([
      ["now", 0],
      ["soon", 1_000],
    ]);
    await harness.clock.advance(1);
    expect(seen.at(-1)).toEqual(["late", 60_000]);
  });

  it("runs all tries of a failing message without waiting for any", TIMED, async () => {
    const harness = await testOutbox();
    const runs: number[] = [];
    await harness.consumer("a", () => {
      runs.push(harness.clock.now);
      throw new Error("no");
    });
    const { messageId } = await harness.queue.sendMessage(note("a", { maxAttempts: 5 }));
    const begun = performance.now();
    await harness.clock.advance(600_000);
    expect(performance.now() - begun).toBeLessThan(3_000);
    expect(runs).toHaveLength(5);
    expect(new Set(runs).size, "each at its own instant").toBe(5);
    await harness.assertRetried(messageId, 4);
    await harness.assertDeadLettered(messageId, "max_attempts");
  });

  it("lets a handler sleep, and keeps its lease as long as its process lives", async () => {
    const harness = await testOutbox();
    let runs = 0;
    await harness.consumer(
      "a",
      async () => {
        runs++;
        await harness.clock.sleep(300_000);
      },
      { leaseMs: 10_000 },
    );
    const { messageId } = await harness.queue.sendMessage(note("a"));
    await harness.settle();
    await harness.clock.advance(299_999);
    expect(await harness.queue.getMessage(messageId)).toMatchObject({
      state: "leased",
      attempt: 1,
    });
    await harness.clock.advance(1);
    await harness.assertDelivered(messageId);
    expect(runs).toBe(1);
  });

  it("keeps a lock as long as its process lives, and lets it lapse when it dies", async () => {
    const harness = await testOutbox();
    const agent = await harness.agent({
      agentId: "holder",
      tasks: {
        hold: () =>
          agent.outbox.locks.withLock("door", { ttlMs: 60_000 }, () =>
            harness.clock.sleep(3_600_000),
          ),
      },
    });
    const supervisor = await harness.supervisor();
    const { taskId } = await supervisor.assignTask({ taskType: "hold", description: "a door" });
    await harness.clock.advance(1_800_000);
    const { locks } = harness.outbox;
    expect(await locks.acquire("door")).toBeNull();
    await harness.crashAgent("holder");
    await harness.clock.advance(59_999);
    expect(await locks.acquire("door")).toBeNull();
    await harness.clock.advance(1);
    const [mine] = [await locks.acquire("door", { ttlMs: 60_000 })];
    expect(mine?.fencingToken).toBeGreaterThan(1);
    await harness.clock.advance(60_000);
    expect(await locks.get("door"), "acquired, and not renewed").toBeNull();
    expect((await supervisor.getTask(taskId))?.state).not.toBe("completed");
  });

  it("ends a sleep when its signal aborts", async () => {
    const harness = await testOutbox();
    const stop = new AbortController();
    const sleeping = harness.clock.sleep(1_000, { signal: stop.signal });
    stop.abort(new Error("enough"));
    await expect(sleeping).rejects.toThrow("enough");
    await expect(harness.clock.sleep(1, { signal: stop.signal })).rejects.toThrow("enough");
  });

  it("lets the lease of a message pass that the test claimed itself", async () => {
    const { queue, clock } = await testOutbox();
    await queue.sendMessage(note("a"));
    const [first] = await queue.getMessages("a", { leaseMs: 30_000 });
    await clock.advance(29_999);
    expect(await queue.getMessages("a")).toEqual([]);
    await clock.advance(1);
    const [second] = await queue.getMessages("a");
    expect(second?.attempt).toBe(2);
    expect(await first?.ack()).toBe("stale");
  });
});

describe("settle", () => {
  it("runs chains of messages to their end", async () => {
    const harness = await testOutbox();
    const seen: number[] = [];
    for (const [from, to] of [
      ["a", "b"],
      ["b", "a"],
    ] as const) {
      await harness.consumer(from, async (message) => {
        const { n } = message.content as { n: number };
        seen.push(n);
        if (n < 12) await harness.queue.sendMessage({ ...note(to), content: { n: n + 1 } });
      });
    }
    await harness.queue.sendMessage(note("a"));
    await harness.settle();
    expect(seen).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
  });

  it("names the handler that does not return", async () => {
    const harness = await testOutbox({ patienceMs: 1_000 });
    let release = () => {};
    const hanging = new Promise<void>((done) => {
      release = done;
    });
    await harness.consumer("a", () => hanging);
    await harness.queue.sendMessage(note("a", { messageId: "stuck" }));
    const error = await harness.settle().catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(NotSettled);
    expect((error as NotSettled).moving).toEqual([
      expect.stringContaining(
        'a handler of "a" runs for 1000 ms of real time: the message stuck (NOTE)',
      ),
    ]);
    await harness.clock.advance(1_000);
    release();
    await harness.settle();
    await harness.assertDelivered("stuck");
  });

  it("ends with an error where messages go round for ever", async () => {
    const harness = await testOutbox({ mostCalls: 50 });
    await harness.consumer("a", async () => {
      await harness.queue.sendMessage({ ...note("a"), hops: 0 });
    });
    await harness.queue.sendMessage(note("a"));
    const error = (await harness.settle().catch((thrown: unknown) => thrown)) as NotSettled;
    expect(error).toBeInstanceOf(NotSettled);
    expect(error.moving[0]).toContain("called more than 50 times without time going on");
    expect(error.moving[1]).toMatch(/handlers of "a" were called \d+ times/);
    await expect(harness.clock.advance(1)).rejects.toBeInstanceOf(NotSettled);
  });

  it("is refused inside a handler, which it would wait for", async () => {
    const harness = await testOutbox();
    const { outcome, error } = await harness.deliver(note("a"), () => harness.settle());
    expect(outcome).toBe("nacked");
    expect(error?.message).toContain("cannot settle or advance");
  });
});
