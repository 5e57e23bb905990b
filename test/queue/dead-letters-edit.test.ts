import { expect, it } from "vitest";
import type { DeadLetterChanges, DeadLetterEditOptions } from "../../lib/index.ts";
import { DeadLetterStore } from "../../lib/store/dead-letters.ts";
import { dialectFor } from "../../lib/store/dialects.ts";
import { eachDatabase } from "../support/databases.ts";
import { failure, mailbox, note, watched } from "../support/queue.ts";
import { bulkDead, deadIds, deadWith, liveIds } from "./dead-letters-support.ts";

eachDatabase("a dead letter", (database) => {
  it("has every field of the failure, and its runs", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("fields");
    const content = { order: [1, { n: "ü" }] };
    const { messageId } = await queue.sendMessage({
      ...note(to, content),
      fromAgent: "ada",
      headers: { h: true },
      correlationId: "c",
      subject: "s",
      maxAttempts: 2,
    });
    for (let run = 1; run <= 2; run++) {
      const [claim] = await queue.getMessages(to, { workerId: `w-${run}` });
      await claim?.nack(new TypeError(`run ${run}`), { delayMs: 0 });
    }
    const letter = await queue.deadLetters.get(messageId);
    expect(letter).toMatchObject({
      content,
      headers: { h: true },
      fromAgent: "ada",
      toAgent: to,
      originalAgent: to,
      correlationId: "c",
      subject: "s",
      reason: "max_attempts",
      attempt: 2,
      maxAttempts: 2,
      redriven: 0,
      workerId: "w-2",
      lastError: { code: "TypeError", message: "run 2", stack: expect.stringContaining("at ") },
      fingerprint: expect.stringMatching(/^[0-9a-f]{16}$/),
    });
    const { createdAt, firstFailedAt, lastAttemptAt, failedAt } = letter ?? ({} as never);
    expect(createdAt).toBeLessThanOrEqual(Number(firstFailedAt));
    expect(firstFailedAt).toBeLessThanOrEqual(lastAttemptAt);
    expect(lastAttemptAt).toBeLessThanOrEqual(failedAt);
    const run = {
      attempt: 2,
      at: 77,
      worker: "w",
      durationMs: 5,
      error: { code: "E", message: "m" },
    };
    await database
      .knex()("outbox_dead_letters")
      .where({ message_id: messageId })
      .update({ failures: JSON.stringify([run]) });
    const told = await queue.deadLetters.get(messageId);
    expect(told).toMatchObject({ failures: [run], lastAttemptAt: 77 });
    await queue.deadLetters.redrive({ messageIds: [messageId] });
    const [row] = await database.knex()("outbox_messages").where({ message_id: messageId });
    const kept = typeof row.failures === "string" ? JSON.parse(row.failures) : row.failures;
    expect(kept).toEqual([run]);
  });

  it("is corrected: what is named is replaced, headers are merged, who and when are kept", async () => {
    const { queue, named } = watched(database.knex());
    const to = mailbox("edit");
    const { messageId } = await queue.sendMessage({
      ...note(to, { total: "17" }),
      headers: { keep: 1, drop: 2 },
      correlationId: "c",
      taskId: "t",
    });
    await (await queue.getMessages(to))[0]?.deadLetter("schema");
    const result = await queue.deadLetters.edit(
      messageId,
      {
        content: { total: 17 },
        messageType: "ORDER",
        priority: "CRITICAL",
        maxAttempts: 7,
        subject: "corrected",
        taskId: null,
        headers: { drop: null, add: "x" },
      },
      { by: "grace" },
    );
    expect(result).toMatchObject({ messageId, replayed: false });
    const letter = await queue.deadLetters.get(messageId);
    expect(result.deadLetter).toEqual(letter);
    expect(letter).toMatchObject({
      content: { total: 17 },
      kind: "event",
      priority: 40,
      maxAttempts: 7,
      subject: "corrected",
      correlationId: "c",
      taskId: null,
      reason: "schema",
      headers: { keep: 1, add: "x", "x-edited-by": "grace" },
    });
    expect(letter?.headers).not.toHaveProperty("drop");
    expect(Math.abs(Date.parse(String(letter?.headers["x-edited-at"])) - Date.now())).toBeLessThan(
      60_000,
    );
    expect(named(messageId)).not.toContain("replayed");
    await queue.deadLetters.redrive({ messageIds: [messageId] });
    expect((await queue.getMessages(to))[0]).toMatchObject({
      content: { total: 17 },
      priority: 40,
      maxAttempts: 7,
    });
  });

  it("is corrected and sent again in one step, to another mailbox and later if told", async () => {
    const { queue, events } = watched(database.knex());
    const [to, other] = [mailbox("edit"), mailbox("edit")];
    const now = await deadWith(queue, to, new Error("x"));
    const later = await deadWith(queue, to, new Error("y"));
    const result = await queue.deadLetters.edit(now, { content: [1] }, { replay: true });
    expect(result).toEqual({ messageId: now, deadLetter: null, replayed: true });
    expect((await queue.getMessages(to))[0]).toMatchObject({
      messageId: now,
      content: [1],
      redriven: 1,
    });
    await queue.deadLetters.edit(
      later,
      { priority: 1 },
      { replay: true, toAgent: other, delayMs: 60_000 },
    );
    expect(await queue.getQueueStats(other)).toMatchObject({ scheduled: 1, pending: 0 });
    expect(await deadIds(database.knex(), to)).toEqual([]);
    const told = events.filter((event) => event.type === "message" && event.event === "replayed");
    expect(told).toMatchObject([
      { messageId: now, toAgent: to, reason: "edited" },
      { messageId: later, toAgent: other, reason: "edited" },
    ]);
  });

  it("that is none any more, or is one of several, is not corrected", async () => {
    const { queue } = watched(database.knex());
    const both = [mailbox("edit"), mailbox("edit")];
    const { messageId } = await queue.sendMessage({ ...note("x"), toAgent: both });
    for (const to of both) await (await queue.getMessages(to))[0]?.deadLetter("rejected");
    const edit = (options: DeadLetterEditOptions) =>
      queue.deadLetters.edit(messageId, { subject: "s" }, options);
    const several = await failure(() => edit({}));
    expect(several).toMatchObject({
      code: "VALIDATION_FAILED",
      message: expect.stringContaining("agentId"),
    });
    const seen = (await edit({ agentId: String(both[0]) })).deadLetter;
    expect(seen).toMatchObject({ toAgent: both[0], subject: "s" });
    // Redriven and failed anew: another letter than the one that was looked at.
    await queue.deadLetters.redrive({ messageIds: [messageId], agentId: String(both[0]) });
    const pinned = { agentId: String(both[0]), sequence: Number(seen?.sequence) };
    expect((await failure(() => edit(pinned))).code).toBe("UNKNOWN_MESSAGE");
    await (await queue.getMessages(String(both[0])))[0]?.deadLetter("rejected");
    expect((await failure(() => edit(pinned))).code).toBe("UNKNOWN_MESSAGE");
    expect((await failure(() => queue.deadLetters.edit("never-seen", { subject: "s" }))).code).toBe(
      "UNKNOWN_MESSAGE",
    );
  });

  it("is refused a correction that a send would be refused, and stays as it was", async () => {
    const { queue } = watched(database.knex(), { maxMessageBytes: 1_000 });
    const id = await deadWith(queue, mailbox("edit"), new Error("x"));
    const before = await queue.deadLetters.get(id);
    const big = "x".repeat(2_000);
    const wrong: [DeadLetterChanges, DeadLetterEditOptions, string][] = [
      [{}, {}, "VALIDATION_FAILED"],
      [{ content: undefined }, {}, "VALIDATION_FAILED"],
      [{ content: 1 as never }, {}, "VALIDATION_FAILED"],
      [{ content: { date: new Map() } }, {}, "VALIDATION_FAILED"],
      [{ content: { text: "\0" } }, {}, "VALIDATION_FAILED"],
      [{ content: { big } }, {}, "PAYLOAD_TOO_LARGE"],
      [{ headers: { big } }, {}, "PAYLOAD_TOO_LARGE"],
      [{ headers: { h: {} as never } }, {}, "VALIDATION_FAILED"],
      [{ messageType: "two words" }, {}, "VALIDATION_FAILED"],
      [{ priority: 101 }, {}, "VALIDATION_FAILED"],
      [{ maxAttempts: 0 }, {}, "VALIDATION_FAILED"],
      [{ kind: "odd" as never }, {}, "VALIDATION_FAILED"],
      [{ messageType: null as never }, {}, "VALIDATION_FAILED"],
      [{ toAgent: "b" } as never, {}, "VALIDATION_FAILED"],
      [{ subject: "s" }, { toAgent: "b" }, "VALIDATION_FAILED"],
      [{ subject: "s" }, { by: "" }, "VALIDATION_FAILED"],
      [null as never, {}, "VALIDATION_FAILED"],
      [{ subject: "s" }, null as never, "VALIDATION_FAILED"],
    ];
    for (const [changes, options, code] of wrong) {
      const error = await failure(() => queue.deadLetters.edit(id, changes, options));
      expect(error.code, JSON.stringify([changes, options]).slice(0, 80)).toBe(code);
    }
    expect(await queue.deadLetters.get(id)).toEqual(before);
  });

  it("that several change at once is sent once, and keeps what each has changed", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("edit");
    for (let round = 0; round < 5; round++) {
      const id = await deadWith(queue, to, new Error("x"));
      await Promise.all([
        queue.deadLetters.edit(id, { headers: { a: 1 } }),
        queue.deadLetters.edit(id, { headers: { b: 2 } }),
      ]);
      expect((await queue.deadLetters.get(id))?.headers).toMatchObject({ a: 1, b: 2 });
      const [redriven, ...edits] = await Promise.allSettled([
        queue.deadLetters.redrive({ messageIds: [id] }),
        queue.deadLetters.edit(id, { subject: "1" }, { replay: true }),
        queue.deadLetters.edit(id, { subject: "2" }, { replay: true }),
      ]);
      expect(await liveIds(database.knex(), to)).toEqual([id]);
      expect(await deadIds(database.knex(), to)).toEqual([]);
      const lost = edits.filter((edit) => edit.status === "rejected");
      for (const { reason } of lost) expect(reason).toMatchObject({ code: "UNKNOWN_MESSAGE" });
      const sent = redriven.status === "fulfilled" ? redriven.value.redriven : -1;
      expect(sent + edits.length - lost.length).toBe(1);
      await (await queue.getMessages(to))[0]?.ack();
    }
  });
});

eachDatabase("discard", (database) => {
  it("deletes by filter and limit, the oldest first, and tells observers", async () => {
    const { queue, events, named } = watched(database.knex());
    const to = mailbox("discard");
    const ids = await bulkDead(queue, database, to, 620);
    const kept = await deadWith(queue, to, new Error("kept"));
    events.splice(0);
    const dry = await queue.deadLetters.discard(
      { agentId: to, reason: "expired" },
      { dryRun: true },
    );
    expect(dry).toMatchObject({ dryRun: true, discarded: 0, matched: 620 });
    expect(dry.sample).toHaveLength(10);
    expect(events).toEqual([]);
    const one = await queue.deadLetters.discard({ messageIds: [ids[5] ?? "", "never-seen"] });
    expect(one).toMatchObject({ discarded: 1, matched: 1 });
    expect(named(ids[5] ?? "")).toEqual(["cancelled"]);
    expect(events).toMatchObject([{ reason: "discarded", toAgent: to }]);
    const steps: number[] = [];
    const most = await queue.deadLetters.discard(
      { agentId: to, reason: "expired" },
      { limit: 600, onProgress: ({ done }) => steps.push(done) },
    );
    expect([most.discarded, ...steps]).toEqual([600, 500, 600]);
    expect(events).toHaveLength(601);
    expect(await deadIds(database.knex(), to)).toEqual([...ids.slice(-19), kept]);
    expect(await queue.deadLetters.purge({ agentId: to, reason: "expired" })).toEqual({
      purged: 19,
    });
    expect(await queue.why(ids[0] ?? "")).toMatchObject([{ state: "unknown" }]);
  });

  it("two operators at once, one discarding and one redriving, do each once", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox("discard");
    await bulkDead(queue, database, to, 400);
    const [redriven, discarded] = await Promise.all([
      queue.deadLetters.redrive({ agentId: to }),
      queue.deadLetters.discard({ agentId: to }),
    ]);
    expect(redriven.redriven + discarded.discarded).toBe(400);
    expect(await liveIds(database.knex(), to)).toHaveLength(redriven.redriven);
    expect(await deadIds(database.knex(), to)).toEqual([]);
  });

  it("by age takes what failed longer ago than the retention, in bounded steps", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const store = new DeadLetterStore(knex, dialectFor(database.dialect, "outbox_"), "outbox_");
    const ids: string[] = [];
    for (let n = 0; n < 4; n++) ids.push(await deadWith(queue, "old", new Error("x")));
    for (const id of ids.slice(0, 3)) {
      const old = knex("outbox_dead_letters").where({ message_id: id });
      await old.update({ failed_at: knex.raw("failed_at - 60000") });
    }
    expect(await store.purgeOld(50_000, 2)).toBe(2);
    expect(await store.purgeOld(50_000, 2)).toBe(1);
    expect(await store.purgeOld(50_000, 2)).toBe(0);
    expect(await deadIds(knex, "old")).toEqual([ids[3]]);
  });
});
