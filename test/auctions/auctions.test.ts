import { expect, it, onTestFinished } from "vitest";
import { type Outbox, openOutbox, type TaskInput } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { failure } from "../support/queue.ts";

eachDatabase("auctions", (database) => {
  let n = 0;
  /** An outbox, agents that nobody else has, and tasks that only they can do. */
  async function stage(agents: readonly string[]) {
    const outbox: Outbox = await openOutbox({ database: database.url() });
    onTestFinished(() => outbox.close());
    const skill = `skill-${++n}`;
    const ids = agents.map((name) => `${name}-${n}`);
    for (const agentId of ids) {
      await outbox.agents.registerAgent({ agentId, capabilities: [skill], maxConcurrentTasks: 2 });
    }
    const supervisor = outbox.supervisor(`super-${n}`);
    const offer = (task: Partial<TaskInput> = {}) =>
      supervisor.assignTask({
        taskType: "work",
        requiredCapabilities: [skill],
        strategy: "auction",
        auction: { timeLimitMs: 3_600_000 },
        ...task,
      });
    /** As if the time limit had passed. */
    const end = (taskId: string) =>
      outbox
        .knex("outbox_tasks")
        .where({ task_id: taskId })
        .whereNotNull("auction_ends_at")
        .update({ auction_ends_at: 1 });
    const types = async (agentId: string) =>
      (await outbox.queue.getMessages(agentId, { limit: 10 })).map(
        ({ messageType }) => messageType,
      );
    return { outbox, supervisor, ids, offer, end, types, auctions: outbox.auctions, skill };
  }

  it("give a task to the lowest bid when all have answered", async () => {
    const { ids, offer, types, auctions, outbox } = await stage(["a", "b", "c"]);
    const [a = "", b = "", c = ""] = ids;
    const { taskId, agentId } = await offer();
    expect(agentId).toBeNull();
    expect(await auctions.bid(taskId, a, { amount: 7, note: "slow" })).toBe("accepted");
    expect(await auctions.bid(taskId, a, { amount: 5 })).toBe("accepted");
    expect(await auctions.bid(taskId, b, { amount: 4 })).toBe("accepted");
    expect(await auctions.bid(taskId, "stranger", { amount: 1 })).toBe("not_called");
    expect((await outbox.tasks.get(taskId))?.agentId).toBeNull();
    expect(await auctions.bid(taskId, c, { amount: null })).toBe("declined");
    expect(await outbox.tasks.get(taskId)).toMatchObject({
      agentId: b,
      state: "assigned",
      auctionEndsAt: null,
    });
    expect(await types(a)).toEqual(["CALL_FOR_BIDS", "BID_REJECTED"]);
    expect((await types(b)).sort()).toEqual(["CALL_FOR_BIDS", "TASK_ASSIGNMENT"]);
    expect(await types(c)).toEqual(["CALL_FOR_BIDS"]);
    expect(await auctions.bid(taskId, a, { amount: 1 })).toBe("closed");
    const bids = (await auctions.bids(taskId)).map(({ state, amount }) => [state, amount]);
    expect(bids).toEqual([
      ["lost", 5],
      ["won", 4],
      ["declined", null],
    ]);
  });

  it("end when their time has passed, by one of many supervisors", async () => {
    const { ids, offer, end, auctions, outbox, supervisor } = await stage(["a", "b"]);
    const [a = "", b = ""] = ids;
    const { taskId } = await offer({ auction: { timeLimitMs: 3_600_000, lowest: false } });
    await auctions.bid(taskId, a, { amount: 5 });
    await supervisor.processIncomingMessages();
    expect((await outbox.tasks.get(taskId))?.agentId).toBeNull();
    await end(taskId);
    expect(await auctions.bid(taskId, b, { amount: 9 })).toBe("closed");
    const others = [1, 2, 3].map((i) => outbox.supervisor(`other-${n}-${i}`));
    await Promise.all(others.map((other) => other.processIncomingMessages()));
    const task = await outbox.tasks.get(taskId);
    expect(task).toMatchObject({ agentId: a, assignment: 1 });
    const assignments = await outbox
      .knex("outbox_messages")
      .where({ message_type: "TASK_ASSIGNMENT", task_id: taskId });
    expect(assignments).toHaveLength(1);
  });

  it("pass over a bidder that has no room, and take the less loaded of equal bids", async () => {
    const { ids, offer, auctions, outbox, end, supervisor, skill } = await stage(["a", "b", "c"]);
    const [a = "", b = "", c = ""] = ids;
    const { taskId } = await offer();
    await auctions.bid(taskId, a, { amount: 1 });
    await auctions.bid(taskId, b, { amount: 2 });
    // Since the call: the best bidder is full, and the next one has something to do.
    for (const [agent, tasks] of [
      [a, 2],
      [b, 1],
    ] as const) {
      await outbox.agents.registerAgent({
        agentId: agent,
        capabilities: [skill, `only-${agent}`],
        maxConcurrentTasks: 2,
      });
      for (let i = 0; i < tasks; i++) {
        await supervisor.assignTask({ taskType: "t", requiredCapabilities: [`only-${agent}`] });
      }
    }
    await auctions.bid(taskId, c, { amount: 2 });
    await end(taskId);
    await supervisor.processIncomingMessages();
    expect((await outbox.tasks.get(taskId))?.agentId).toBe(c);
  });

  it("leave a task that nobody bids for to the least loaded agent", async () => {
    const { ids, offer, end, auctions, outbox, supervisor } = await stage(["a", "b"]);
    const [a = "", b = ""] = ids;
    const first = await offer({ auction: { timeLimitMs: 3_600_000, minBids: 2 } });
    await auctions.bid(first.taskId, a, { amount: 1 });
    await end(first.taskId);
    await supervisor.processIncomingMessages();
    const { agentId } = (await outbox.tasks.get(first.taskId)) ?? {};
    expect([a, b]).toContain(agentId);
    // Fewer agents than bids are wanted: no auction at all.
    const second = await offer({ auction: { minBids: 3 } });
    await supervisor.processIncomingMessages();
    expect((await outbox.tasks.get(second.taskId))?.agentId).not.toBeNull();
    expect(await auctions.bids(second.taskId)).toEqual([]);
  });

  it("give a task of a lost winner to somebody else", async () => {
    const { ids, offer, auctions, outbox, supervisor } = await stage(["a", "b"]);
    const [a = "", b = ""] = ids;
    const { taskId } = await offer();
    await auctions.bid(taskId, a, { amount: 1 });
    await auctions.bid(taskId, b, { amount: null });
    expect((await outbox.tasks.get(taskId))?.agentId).toBe(a);
    await outbox.agents.deregisterAgent(a);
    await until(async () => {
      await supervisor.processIncomingMessages();
      return (await outbox.tasks.get(taskId))?.agentId === b;
    });
  });

  it("are bid in by messages, and by runners", async () => {
    const { ids, offer, outbox, supervisor, skill } = await stage(["a", "b"]);
    const [a = "", b = ""] = ids;
    const { taskId } = await offer();
    for (const [fromAgent, amount] of [
      [a, 3],
      [b, null],
    ] as const) {
      await outbox.queue.sendMessage({
        fromAgent,
        toAgent: supervisor.supervisorId,
        messageType: "BID",
        content: { task_id: taskId, amount },
      });
    }
    await supervisor.processIncomingMessages();
    expect((await outbox.tasks.get(taskId))?.agentId).toBe(a);
    for (const agentId of ids) await outbox.agents.deregisterAgent(agentId);
    const calls: unknown[] = [];
    for (const [name, amount] of [
      ["cheap", 1],
      ["dear", 10],
    ] as const) {
      await outbox.runAgent({
        agentId: `${name}-${n}`,
        capabilities: [skill],
        tasks: { work: () => ({ by: name }) },
        bid: (call) => {
          calls.push(call);
          return amount;
        },
      });
    }
    const next = await offer({ parameters: { size: 3 } });
    const done = await supervisor.waitForTask(next.taskId, { timeoutMs: 60_000 });
    expect(done.result).toEqual({ by: "cheap" });
    expect(calls).toHaveLength(2);
    expect(calls[0]).toMatchObject({
      taskId: next.taskId,
      taskType: "work",
      parameters: { size: 3 },
    });
  });

  it("have terms only where the strategy is auction", async () => {
    const { offer } = await stage(["a"]);
    const wrong = await failure(() => offer({ strategy: "leastLoaded" }));
    expect(wrong.code).toBe("VALIDATION_FAILED");
    expect((await failure(() => offer({ auction: { minBids: 0 } }))).code).toBe(
      "VALIDATION_FAILED",
    );
  });

  it.skipIf(database.dialect === "sqlite")(
    "give no task to a worse bid because the best bidder's row is another's for a moment",
    async () => {
      const { ids, offer, auctions, outbox } = await stage(["a", "b"]);
      const [a = "", b = ""] = ids;
      const { taskId } = await offer();
      await auctions.bid(taskId, a, { amount: 1 });
      const heartbeat = await outbox.knex.transaction();
      await heartbeat("outbox_agents").where({ agent_id: a }).update({ weight: 1 });
      expect(await auctions.bid(taskId, b, { amount: 9 })).toBe("accepted");
      expect((await outbox.tasks.get(taskId))?.agentId).toBeNull();
      await heartbeat.rollback();
      await auctions.sweep();
      expect(await outbox.tasks.get(taskId)).toMatchObject({ agentId: a, auctionEndsAt: null });
    },
  );
});
