import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { LeaseLost, ServiceUnavailable } from "../../lib/index.ts";
import { spawnScript } from "../support/processes.ts";
import { testOutbox } from "./support.ts";

/** After its last word: much longer than a busy machine needs, much shorter than a worker hopes for an answer. */
const ENDS_WITHIN_MS = 15_000;

const note = (toAgent: string, more: object = {}) => ({
  toAgent,
  messageType: "NOTE",
  content: {},
  ...more,
});

describe("failNext", () => {
  it("lets sends fail as often as it is told, and then no more", async () => {
    const { queue, faults } = await testOutbox();
    faults.failNext("send", 2);
    await expect(queue.sendMessage(note("a"))).rejects.toBeInstanceOf(ServiceUnavailable);
    await expect(queue.sendMessage(note("a"))).rejects.toBeInstanceOf(ServiceUnavailable);
    await queue.sendMessage(note("a"));
    expect((await queue.getQueueStats("a")).pending).toBe(1);
  });

  it("leaves nothing of a transaction in which a send failed", async () => {
    const { queue, faults, knex } = await testOutbox();
    const both = knex.transaction(async (tx) => {
      await queue.sendMessage(note("a"), { tx });
      faults.failNext("send");
      await queue.sendMessage(note("b"), { tx });
    });
    await expect(both).rejects.toBeInstanceOf(ServiceUnavailable);
    expect((await queue.getQueueStats()).pending).toBe(0);
    await queue.sendMessage(note("a"));
  });

  it("throws the error that it was given", async () => {
    const { queue, faults } = await testOutbox();
    faults.failNext("any", Object.assign(new Error("disk is full"), { code: "SQLITE_FULL" }));
    await expect(queue.sendMessage(note("a"))).rejects.toMatchObject({ code: "STORAGE_FULL" });
  });

  it("strikes every claim and every settling, whatever its way, and nothing is lost", async () => {
    const harness = await testOutbox();
    let runs = 0;
    await harness.queue.sendMessage(note("a", { messageId: "1" }));
    harness.faults.failNext("claim");
    await harness.consumer("a", () => {
      runs++;
    });
    await harness.settle();
    expect(harness.faults.outstanding).toBe(0);
    await harness.assertDelivered("1");
    for (const [messageId, settle] of [
      ["ack", () => undefined],
      [
        "nack",
        () => {
          throw new Error("no");
        },
      ],
      [
        "bury",
        (message: { deadLetter(reason: string): unknown }) => message.deadLetter("rejected"),
      ],
    ] as const) {
      harness.faults.failNext("settle");
      const { outcome } = await harness.deliver(
        note(`of-${messageId}`, { messageId }),
        settle as never,
      );
      expect(harness.faults.outstanding, `the end by ${messageId} met it`).toBe(0);
      expect([messageId, outcome]).not.toEqual([messageId, "waiting"]);
    }
    expect(runs).toBe(1);
    await harness.expectNoLoss();
  });

  it("refuses what it does not know", async () => {
    const { faults } = await testOutbox();
    expect(() => faults.failNext("lunch" as never)).toThrow("expected one of send, claim, settle");
    expect(() => faults.failNext("send", -1)).toThrow("milliseconds");
  });
});

describe("a lost database", () => {
  it("fails every call until it is back, and loses nothing", async () => {
    const harness = await testOutbox();
    const seen: string[] = [];
    await harness.consumer("a", (message) => {
      seen.push(message.messageId);
    });
    await harness.queue.sendMessage(note("a", { messageId: "before" }));
    await harness.settle();
    harness.faults.loseDatabase();
    expect(harness.faults.lost).toBe(true);
    await expect(harness.queue.sendMessage(note("a"))).rejects.toBeInstanceOf(ServiceUnavailable);
    expect(await harness.queue.isConnected()).toBe(false);
    await harness.settle();
    await harness.clock.advance(60_000);
    harness.faults.restoreDatabase();
    await harness.queue.sendMessage(note("a", { messageId: "after" }));
    await harness.settle();
    expect(seen).toEqual(["before", "after"]);
    await harness.expectNoLoss();
  });
});

describe("duplicateDelivery", () => {
  it("runs a handler twice, and keeps once what it wrote with its message", async () => {
    const harness = await testOutbox();
    const errors: unknown[] = [];
    let outside = 0;
    await harness.knex.schema.createTable("ledger", (table) => table.integer("n"));
    harness.faults.duplicateDelivery();
    await harness.consumer("a", async (_message, { tx }) => {
      outside++;
      await tx((trx) => trx("ledger").insert({ n: 1 })).catch((error: unknown) => {
        errors.push(error);
        throw error;
      });
    });
    const { messageId } = await harness.queue.sendMessage(note("a"));
    await harness.settle();
    await harness.assertDelivered(messageId);
    expect(outside).toBe(2);
    expect(errors).toEqual([expect.any(LeaseLost)]);
    expect(await harness.knex("ledger")).toEqual([{ n: 1 }]);
    await harness.expectNoLoss();
  });

  it("can wait for one message", async () => {
    const harness = await testOutbox();
    const seen: string[] = [];
    harness.faults.duplicateDelivery("second");
    await harness.consumer("a", (message) => {
      seen.push(message.messageId);
    });
    for (const messageId of ["first", "second", "third"]) {
      await harness.deliver(note("a", { messageId }));
    }
    expect(seen).toEqual(["first", "second", "second", "third"]);
  });
});

describe("a crash", () => {
  it("in the middle of a transaction undoes it, and blocks nobody", async () => {
    const harness = await testOutbox();
    await harness.knex.schema.createTable("ledger", (table) => table.integer("n"));
    let inside = () => {};
    const begun = new Promise<void>((done) => {
      inside = done;
    });
    await harness.consumer("a", async (_message, { tx }) => {
      await tx(async (trx) => {
        await trx("ledger").insert({ n: 1 });
        inside();
        await new Promise(() => {});
      });
    });
    const { messageId } = await harness.queue.sendMessage(note("a"));
    await begun;
    await harness.crashAgent("a");
    expect(await harness.knex("ledger")).toEqual([]);
    expect(await harness.queue.getMessage(messageId)).toMatchObject({ state: "leased" });
    await harness.consumer("a", () => undefined);
    await harness.clock.advance(29_999);
    expect(await harness.queue.getMessage(messageId)).toMatchObject({ state: "leased" });
    await harness.clock.advance(1);
    await harness.assertDelivered(messageId);
  });

  it("keeps no process alive with what is never answered", async () => {
    const script = spawnScript("test/testing/programs/crashed.ts");
    await script.message();
    const end = await Promise.race([script.exited, sleep(ENDS_WITHIN_MS, "it runs on")]);
    expect(end, script.output()).toEqual({ code: 0, signal: null });
  });

  it("is refused where nothing runs", async () => {
    const harness = await testOutbox();
    await expect(harness.crashAgent("nobody")).rejects.toThrow('nothing of the id "nobody" runs');
  });
});

describe("slow", () => {
  it("holds statements up for real, until it is taken back", async () => {
    const { queue, faults } = await testOutbox();
    faults.slow("send", 60);
    const begun = performance.now();
    await queue.sendMessage(note("a"));
    expect(performance.now() - begun).toBeGreaterThanOrEqual(55);
    faults.slow("send", 0);
    await queue.sendMessage(note("a"));
  });
});
