import { expect, it } from "vitest";
import type { ClaimedMessage, FailedRun, MessageQueueManager } from "../../lib/index.ts";
import { runCli } from "../cli/support.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { elapse, mailbox, note, watched } from "../support/queue.ts";

async function claimed(
  queue: MessageQueueManager,
  agentId: string,
  workerId: string,
): Promise<ClaimedMessage> {
  const [claim] = await queue.getMessages(agentId, { workerId });
  if (claim === undefined) throw new Error(`nothing to claim in ${agentId}`);
  return claim;
}

const briefly = (failures: readonly FailedRun[] | undefined) =>
  failures?.map(({ attempt, worker, error }) => [attempt, worker, error.code]);

eachDatabase("the history of failed runs", (database) => {
  it("goes through crash, nack, dead letter and redrive into the archive, and is shown", async () => {
    const knex = database.knex();
    const { queue } = watched(knex);
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    const first = await claimed(queue, to, "worker-a");
    expect(first.failures).toEqual([]);
    // worker-a dies.
    await elapse(knex, 30_001, messageId);
    const second = await claimed(queue, to, "worker-b");
    expect(second.failures).toEqual([
      {
        attempt: 1,
        at: expect.any(Number),
        worker: "worker-a",
        durationMs: null,
        error: { code: "LEASE_EXPIRED", message: expect.stringContaining("lease passed") },
      },
    ]);
    // It ended when its lease did, not when somebody noticed.
    expect(second.failures[0]?.at).toBe(first.leaseExpiresAt - 30_001);
    expect(await second.nack(Object.assign(new TypeError("no 'luck'"), { code: "E_LUCK" }))).toBe(
      "retried",
    );
    const waiting = await queue.getMessage(messageId);
    expect(briefly(waiting?.failures)).toEqual([
      [1, "worker-a", "LEASE_EXPIRED"],
      [2, "worker-b", "E_LUCK"],
    ]);
    const noted = waiting?.failures[1];
    expect(noted).toMatchObject({ error: { message: "no 'luck'" } });
    expect(noted?.error.stack).toContain("TypeError: no 'luck'");
    expect(noted?.durationMs).toBeGreaterThanOrEqual(0);
    expect(noted?.durationMs).toBeLessThan(20_000);
    const [why] = await queue.why(messageId);
    expect(why?.reason).toMatch(
      /for run 3 of 3; run 2 of 3 failed at \S+Z on worker-b after \d+ ms: E_LUCK: no 'luck'$/,
    );
    expect(why?.failures).toEqual(waiting?.failures);

    await elapse(knex, 30_001, messageId);
    const third = await claimed(queue, to, "worker-c");
    expect(third.toJSON().failures).toMatchObject([{}, { duration_ms: noted?.durationMs }]);
    expect(await third.nack("thrown text")).toBe("dead_lettered");
    const history = [
      [1, "worker-a", "LEASE_EXPIRED"],
      [2, "worker-b", "E_LUCK"],
      [3, "worker-c", "Error"],
    ];
    const dead = await queue.deadLetters.get(messageId);
    expect(briefly(dead?.failures)).toEqual(history);
    expect(dead?.lastAttemptAt).toBe(dead?.failedAt);
    expect((await queue.why(messageId))[0]?.reason).toMatch(
      /after 3 of 3 runs; run 3 of 3 failed at .+ on worker-c after \d+ ms: Error: thrown text$/,
    );
    const cli = (...argv: string[]) => runCli(argv, { database: database.url() });
    for (const command of [["why"], ["dlq", "show"]]) {
      const { out } = await cli(...command, messageId);
      expect(out, command.join(" ")).toMatch(/worker-a[\s\S]+worker-b[\s\S]+worker-c/);
      expect(out).toMatch(/LEASE_EXPIRED[\s\S]+E_LUCK/);
    }
    expect((await cli("why", messageId, "--json")).json<unknown[]>()).toMatchObject([
      { failures: [{ attempt: 1, at: expect.stringMatching(/Z$/) }, { worker: "worker-b" }, {}] },
    ]);

    await queue.deadLetters.redrive({ messageIds: [messageId] });
    const again = await claimed(queue, to, "worker-d");
    expect(again.attempt).toBe(1);
    expect(briefly(again.failures)).toEqual(history);
    await again.ack();
    expect(await queue.getMessage(messageId)).toMatchObject({ state: "processed" });
    expect(briefly((await queue.getMessage(messageId))?.failures)).toEqual(history);
  });

  it("a message that only ever kills its worker dies with every crash on record", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    for (const worker of ["a", "b", "c"]) {
      await claimed(queue, to, worker);
      await elapse(database.knex(), 30_001, messageId);
    }
    expect(await queue.getMessages(to)).toEqual([]);
    const dead = await queue.deadLetters.get(messageId);
    expect(dead).toMatchObject({ reason: "max_attempts", attempt: 3 });
    expect(briefly(dead?.failures)).toEqual([
      [1, "a", "LEASE_EXPIRED"],
      [2, "b", "LEASE_EXPIRED"],
      [3, "c", "LEASE_EXPIRED"],
    ]);
  });

  it("says how long a handler took, and what it dead-lettered itself for", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const failing = await queue.sendMessage({ ...note(to), maxAttempts: 1 });
    const settling = await queue.sendMessage(note(to, { settle: true }));
    const worker = queue.work(to, async (message) => {
      if ("settle" in message.content) {
        await message.deadLetter("no_budget", { error: new Error("too dear") });
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, 60));
      throw new Error("late");
    });
    const late = await until(() => queue.deadLetters.get(failing.messageId));
    const settled = await until(() => queue.deadLetters.get(settling.messageId));
    expect(late.failures).toMatchObject([{ attempt: 1, worker: worker.workerId }]);
    expect(late.failures[0]?.durationMs).toBeGreaterThanOrEqual(59);
    expect(late.failures[0]?.durationMs).toBeLessThan(5_000);
    expect(settled).toMatchObject({
      reason: "no_budget",
      failures: [{ worker: worker.workerId, error: { message: "too dear" } }],
    });
  });

  it("a deferral, a stop and a refused expiry are no failed runs", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    await (await claimed(queue, to, "a")).defer(0);
    const worker = queue.work(
      to,
      (_, { signal }) =>
        new Promise((_, reject) => {
          signal.addEventListener("abort", () => reject(signal.reason as Error));
        }),
    );
    await until(() => worker.stats.active === 1);
    await worker.stop({ deadlineMs: 200 });
    // A stop does not wait longer than it may for the database to take the message back.
    await until(async () => (await queue.getMessage(messageId))?.attempt === 0);
    expect(await queue.getMessage(messageId)).toMatchObject({ attempt: 0, failures: [] });
    const [why] = await queue.why(messageId);
    expect(why?.failures).toEqual([]);
    expect(why?.reason).not.toContain("failed");
  });

  it("keeps the last ten, and no more than about 16 KB of them", async () => {
    const { queue } = watched(database.knex());
    const to = mailbox();
    const { messageId } = await queue.sendMessage({ ...note(to), maxAttempts: 14 });
    for (let run = 1; run <= 13; run++) {
      const claim = await claimed(queue, to, `worker-${run}`);
      if (run === 12) {
        await elapse(database.knex(), 30_001, messageId);
        continue;
      }
      const error = new Error(`run ${run} "quoted" \0 😀${"x".repeat(2_000)}`);
      error.stack = `at ${"y".repeat(1_500)}`;
      expect(await claim.nack(error, { delayMs: 0 })).toBe("retried");
    }
    const kept = (await queue.getMessage(messageId))?.failures;
    expect(briefly(kept)).toEqual(
      [4, 5, 6, 7, 8, 9, 10, 11, 12, 13].map((run) => [
        run,
        `worker-${run}`,
        run === 12 ? "LEASE_EXPIRED" : "Error",
      ]),
    );
    expect(kept?.at(-1)?.error.message).toMatch(/^run 13 "quoted" ␀ 😀x{300,400}$/);
    expect(kept?.at(-1)?.error.stack).toMatch(/^at y{700,800}$/);
    expect(JSON.stringify(kept).length).toBeLessThan(16_384);
    await (await claimed(queue, to, "last")).nack(new Error("end"));
    expect(briefly((await queue.deadLetters.get(messageId))?.failures)).toHaveLength(10);
    expect((await queue.deadLetters.get(messageId))?.failures.at(-1)).toMatchObject({
      attempt: 14,
      error: { message: "end" },
    });
  });

  it("is written only with what it belongs to: neither for a stale claim nor in a transaction undone", async () => {
    const knex = database.knex();
    const { queue } = watched(knex);
    const to = mailbox();
    const { messageId } = await queue.sendMessage(note(to));
    const stale = await claimed(queue, to, "slow");
    await elapse(knex, 30_001, messageId);
    const current = await claimed(queue, to, "quick");
    expect(await stale.nack(new Error("too late"))).toBe("stale");
    const tx = await knex.transaction();
    expect(await current.nack(new Error("undone"), { tx })).toBe("retried");
    await tx.rollback();
    const stored = await queue.getMessage(messageId);
    expect(stored?.state).toBe("leased");
    expect(briefly(stored?.failures)).toEqual([[1, "slow", "LEASE_EXPIRED"]]);
  });
});
