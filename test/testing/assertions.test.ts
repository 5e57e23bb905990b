import { AssertionError } from "node:assert";
import { describe, expect, it } from "vitest";
import { testOutbox } from "./support.ts";

const note = { toAgent: "a", messageType: "NOTE", content: {}, messageId: "m" };

async function refused(assertion: Promise<unknown>): Promise<AssertionError> {
  const error = await assertion.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(AssertionError);
  return error as AssertionError;
}

describe("the assertions hold, and fail when they should", () => {
  it("assertDelivered", async () => {
    const harness = await testOutbox();
    expect((await refused(harness.assertDelivered("m"))).message).toBe("there is no message m");
    await harness.queue.sendMessage(note);
    const error = await refused(harness.assertDelivered("m"));
    expect(error).toMatchObject({ actual: "ready", expected: "processed" });
    expect(error.message).toContain("the message m is ready, not processed");
    expect(error.message).toContain("what happened: sent");
    expect(error.message).toContain("why: ");
    await harness.consumer("a", () => undefined);
    await harness.settle();
    await harness.assertDelivered("m");
  });

  it("assertRetried", async () => {
    const harness = await testOutbox();
    let runs = 0;
    await harness.consumer("a", () => {
      if (++runs < 3) throw new Error("not yet");
    });
    await harness.queue.sendMessage(note);
    await harness.clock.advance(60_000);
    await harness.assertRetried("m", 2);
    const error = await refused(harness.assertRetried("m", 3));
    expect(error).toMatchObject({ actual: 2, expected: 3 });
    expect(error.message).toContain("was tried again 2 times, not 3");
    await refused(harness.assertRetried("another", 0));
  });

  it("assertDeadLettered", async () => {
    const harness = await testOutbox();
    await harness.queue.sendMessage(note);
    expect((await refused(harness.assertDeadLettered("m"))).actual).toBe("ready");
    await harness.consumer("a", (message) => message.deadLetter("schema"));
    await harness.settle();
    await harness.assertDeadLettered("m");
    await harness.assertDeadLettered("m", "schema");
    expect(await refused(harness.assertDeadLettered("m", "expired"))).toMatchObject({
      actual: "schema",
      expected: "expired",
    });
  });

  it("expectNoLoss", async () => {
    const harness = await testOutbox();
    await harness.consumer("a", () => undefined);
    await harness.consumer("dead", (message) => message.deadLetter("rejected"));
    for (const [messageId, toAgent] of [
      ["processed", "a"],
      ["dead", "dead"],
      ["live", "nobody"],
      ["cancelled", "nobody"],
      ["stolen", "nobody"],
    ] as const) {
      await harness.queue.sendMessage({ ...note, messageId, toAgent });
    }
    await harness.queue.cancelMessage("cancelled");
    await harness.settle();
    expect(await harness.expectNoLoss()).toEqual({
      sent: 5,
      processed: 1,
      deadLettered: 1,
      cancelled: 1,
      live: 2,
    });
    await harness.knex("outbox_messages").where({ message_id: "stolen" }).del();
    const error = await refused(harness.expectNoLoss());
    expect(error.actual).toEqual(['stolen to "nobody" is lost']);
  });

  it("expectNoLoss also of what was processed twice", async () => {
    const harness = await testOutbox();
    await harness.consumer("a", () => undefined);
    await harness.queue.sendMessage(note);
    await harness.settle();
    const [row] = await harness.knex("outbox_archive").where({ message_id: "m" });
    await harness.knex("outbox_archive").del();
    await harness.knex.raw(
      `INSERT INTO outbox_messages (message_id, from_agent, to_agent, message_type, kind, content, created_at, priority, state, visible_at, receipt, attempt, max_attempts, redriven, rank)
       VALUES ('m', ?, 'a', 'NOTE', 'event', '{}', ?, 20, 0, ?, 0, 0, 3, 0, 80)`,
      [row.from_agent, row.created_at, row.created_at],
    );
    await harness.settle();
    expect((await refused(harness.expectNoLoss())).message).toContain("was processed 2 times");
  });
});
