import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { elapse, failure, mailbox, note, watched } from "../support/queue.ts";

eachDatabase("nack by id", (database) => {
  it("gives back what the agent holds, as failed", async () => {
    const { queue, named } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    const [claim] = await queue.getMessages(to);
    expect(
      await queue.nack(messageId, to, new Error("no luck"), {
        receipt: claim?.receipt,
        delayMs: 60_000,
      }),
    ).toBe("retried");
    expect(await queue.getMessage(messageId)).toMatchObject({
      state: "scheduled",
      attempt: 1,
      lastError: { code: "Error", message: "no luck" },
    });
    // The claim itself is over with it.
    expect(await claim?.ack()).toBe("stale");
    expect(named(messageId)).toEqual(["sent", "received", "retried"]);
  });

  it("dead-letters after the last run, or when no further run is wanted", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const last = await queue.sendMessage({ ...note(to), maxAttempts: 1 });
    const unwanted = await queue.sendMessage(note(to));
    await queue.getMessages(to);
    expect(await queue.nack(last.messageId, to, "broken")).toBe("dead_lettered");
    expect(await queue.nack(unwanted.messageId, to, "bad", { retry: false })).toBe("dead_lettered");
    expect(await queue.deadLetters.get(last.messageId)).toMatchObject({ reason: "max_attempts" });
    expect(await queue.deadLetters.get(unwanted.messageId)).toMatchObject({ reason: "rejected" });
  });

  it("changes nothing for who does not hold the message, or not any more", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    expect(await queue.nack(messageId, to, "not claimed")).toBe("stale");
    const [claim] = await queue.getMessages(to, { leaseMs: 60_000 });
    const receipt = claim?.receipt ?? 0;
    expect(await queue.nack(messageId, "someone-else", "not mine")).toBe("gone");
    expect(await queue.nack(messageId, to, "older", { receipt: receipt + 1 })).toBe("stale");
    await elapse(database.knex(), 120_000, messageId);
    expect(await queue.nack(messageId, to, "the lease passed")).toBe("stale");
    const [again] = await queue.getMessages(to);
    expect(await queue.nack(messageId, to, "an old claim", { receipt })).toBe("stale");
    expect(await again?.ack()).toBe("acked");
    expect(await queue.nack(messageId, to, "ended")).toBe("gone");
    expect(await queue.nack("never-seen", to, "unknown")).toBe("gone");
  });

  it("joins the caller's transaction", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    await queue.getMessages(to);
    const tx = await database.knex().transaction();
    expect(await queue.nack(messageId, to, "undone", { tx })).toBe("retried");
    await tx.rollback();
    expect(await queue.getMessage(messageId)).toMatchObject({ state: "leased" });
  });

  it("refuses bad input before SQL sees it", async () => {
    const { queue } = watched(database.knex());
    for (const bad of [
      () => queue.nack("", "a", "x"),
      () => queue.nack("m", "a b", "x"),
      () => queue.nack("m", "a", "x", { receipt: 0 }),
      () => queue.nack("m", "a", "x", { receipt: 1, later: true } as never),
    ]) {
      expect((await failure(bad)).code).toBe("VALIDATION_FAILED");
    }
  });
});
