import { beforeEach, describe, expect, it, onTestFinished } from "vitest";
import {
  AgentCommunicationError,
  MessageTimeout,
  PayloadTooLarge,
  ValidationFailed,
} from "../../lib/errors.ts";
import type { TaskInput } from "../../lib/protocol/tasks.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { stage, wipe } from "./stage.ts";

const needsX: TaskInput = { taskType: "analyse", requiredCapabilities: ["x"] };

eachDatabase("the supervisor", (database) => {
  let on: ReturnType<typeof stage>;
  beforeEach(async () => {
    await wipe(database);
    on = stage(database);
  });

  describe("waiting", () => {
    it("handles messages itself when nobody runs the supervisor", async () => {
      await on.agent("a", ["x"]);
      const { taskId } = await on.boss.assignTask(needsX);
      const waits = on.boss.waitForTask(taskId, { timeoutMs: 60_000 });
      await on.answer("a", { status: "completed", result: [1] });
      expect(await waits).toMatchObject({ state: "completed", result: [1] });
    });

    it("ends with MessageTimeout, at once for an unknown task, and with the signal", async () => {
      const { taskId } = await on.boss.assignTask(needsX);
      await expect(on.boss.waitForTask(taskId, { timeoutMs: 30 })).rejects.toThrow(MessageTimeout);
      await expect(on.boss.waitForTask("nothing")).rejects.toMatchObject({ code: "UNKNOWN_TASK" });
      const signal = AbortSignal.timeout(30);
      await expect(on.boss.waitForTask(taskId, { signal })).rejects.toThrow(/aborted/);
    });
  });

  it("broadcasts to every agent that is there, but not to itself", async () => {
    for (const agentId of ["a", "b", "gone", "off", "boss"]) await on.agent(agentId);
    await on.registry.updateHeartbeat("off", { status: "offline" });
    await on.registry.drainAgent("b");
    await on.silence("gone");
    await on.boss.processIncomingMessages();
    expect(
      await on.boss.broadcastMessage("COORDINATION", { do: "stop" }, { priority: "URGENT" }),
    ).toBe(2);
    for (const agentId of ["a", "b"]) {
      expect(await on.next(agentId)).toMatchObject({
        messageType: "COORDINATION",
        fromAgent: "boss",
        priority: 40,
        content: { do: "stop" },
      });
    }
    for (const agentId of ["gone", "off", "boss"]) {
      expect(await on.queue.getMessages(agentId)).toEqual([]);
    }
    const rolledBack = database.knex().transaction(async (tx) => {
      expect(await on.boss.broadcastMessage("X", {}, { tx })).toBe(2);
      throw new Error("no");
    });
    await expect(rolledBack).rejects.toThrow("no");
    expect(await on.queue.getMessages("a")).toEqual([]);
  });

  it("tells figures, with the founding names", async () => {
    expect(await on.boss.getCoordinationStats()).toEqual({
      parked: 0,
      assigned: 0,
      working: 0,
      waiting: 0,
      capped: false,
      completed: 0,
      failed: 0,
      canceled: 0,
      rejected: 0,
      completionRate: null,
      averageDurationMs: null,
      windowMs: 3_600_000,
    });
    await on.agent("a", ["x"], 4);
    for (const status of ["completed", "completed", "completed", "failed"]) {
      await on.boss.assignTask(needsX);
      await on.answer("a", { status });
      await on.boss.processIncomingMessages();
    }
    await on.boss.assignTask(needsX);
    expect(await on.boss.getCoordinationStats()).toMatchObject({
      assigned: 1,
      completed: 3,
      failed: 1,
      completionRate: 0.75,
    });
    expect(await on.boss.getPerformanceMetrics()).toEqual({
      messageThroughput: 8,
      agentUtilization: 0.25,
      taskCompletionRate: 0.75,
    });
  });

  it("lists tasks a page at a time", async () => {
    await on.agent("a", ["x"]);
    const ids = [];
    for (let n = 0; n < 5; n++) ids.push((await on.boss.assignTask(needsX)).taskId);
    const [one, two] = await on.boss.listTasks({ limit: 2 });
    expect([one?.taskId, two?.taskId]).toEqual(ids.slice(0, 2));
    const rest = await on.boss.listTasks({ afterSeq: two?.seq ?? 0 });
    expect(rest.map(({ taskId }) => taskId)).toEqual(ids.slice(2));
    expect(await on.boss.listTasks({ agentId: "a" })).toHaveLength(1);
    expect(await on.boss.listTasks({ state: "submitted" })).toHaveLength(4);
    expect(await on.boss.listTasks({ supervisorId: "other" })).toEqual([]);
  });

  it("forgets tasks that ended before the retention", async () => {
    const boss = on.supervisor("boss", { taskRetentionMs: 60_000 });
    await on.agent("a", ["x"], 3);
    const old = await on.boss.assignTask(needsX);
    const fresh = await on.boss.assignTask(needsX);
    const open = await on.boss.assignTask(needsX);
    await on.boss.cancelTask(old.taskId);
    await on.boss.cancelTask(fresh.taskId);
    await on.knex("outbox_tasks").where({ task_id: old.taskId }).update({ finished_at: 1_000 });
    await boss.processIncomingMessages();
    const left = (await boss.listTasks()).map(({ taskId }) => taskId);
    expect(left).toEqual([fresh.taskId, open.taskId]);
  });

  it("runs in the background: beats, assigns, ends tasks, and stops", async () => {
    const boss = on.supervisor("runner", { sweepIntervalMs: 20, heartbeatIntervalMs: 50 });
    boss.start({ intervalMs: 50 });
    const task = await boss.assignTask(needsX);
    await on.agent("a", ["x"]);
    let message: Awaited<ReturnType<typeof on.next>> | undefined;
    while (message === undefined) [message] = await on.queue.getMessages("a", { waitMs: 1_000 });
    await message.reply({ task_id: task.taskId, status: "completed" });
    await message.ack();
    expect(await boss.waitForTask(task.taskId, { timeoutMs: 60_000 })).toMatchObject({
      state: "completed",
    });
    // A round may take longer than it promised to be silent for; the next beat says that it is there.
    await until(async () => (await on.registry.getAgent("runner"))?.lost === false);
    expect(await on.registry.getAgent("runner")).toMatchObject({
      role: "supervisor",
      available: false,
      maxConcurrentTasks: 0,
    });
    await boss.stop();
    const parked = await boss.assignTask({ ...needsX, requiredCapabilities: ["later"] });
    await on.agent("later", ["later"]);
    await new Promise((done) => setTimeout(done, 80));
    expect(await boss.getTask(parked.taskId)).toMatchObject({ state: "submitted" });
  });

  it("leaves nothing in the background when it has stopped", async () => {
    await on.agent("a", ["x"], 2);
    const { taskId } = await on.boss.assignTask(needsX);
    const other = await on.boss.assignTask(needsX);
    await on.boss.assignTask({ ...needsX, requiredCapabilities: ["later"] });
    on.boss.start();
    // Both make room: the first sets off a look for tasks that wait for it, the second asks for one more after it.
    await on.boss.cancelTask(taskId);
    await on.boss.cancelTask(other.taskId);
    await on.boss.stop();
    const statements: string[] = [];
    const listener = ({ sql }: { sql: string }) => {
      if (sql.includes("outbox_tasks")) statements.push(sql);
    };
    on.knex.on("query", listener);
    onTestFinished(() => void on.knex.off("query", listener));
    await new Promise((done) => setTimeout(done, 200));
    expect(statements).toEqual([]);
  });

  it("refuses bad input with a code, and stores nothing", async () => {
    await on.agent("a", ["x"]);
    const cyclic: Record<string, unknown> = {};
    cyclic.self = cyclic;
    const bad: unknown[] = [
      undefined,
      null,
      "analyse",
      {},
      { taskType: "" },
      { taskType: "a b" },
      { taskType: 1 },
      { taskType: "t", taskId: "x".repeat(129) },
      { taskType: "t", taskId: "" },
      { taskType: "t", description: 5 },
      { taskType: "t", description: "x".repeat(16_385) },
      { taskType: "t", description: "\u0000" },
      { taskType: "t", parameters: [] },
      { taskType: "t", parameters: "{}" },
      { taskType: "t", parameters: cyclic },
      { taskType: "t", parameters: { f: () => 1 } },
      { taskType: "t", parameters: { n: Number.NaN } },
      { taskType: "t", parameters: { s: "\ud800" } },
      { taskType: "t", requiredCapabilities: "x" },
      { taskType: "t", requiredCapabilities: [""] },
      { taskType: "t", requiredCapabilities: Array.from({ length: 101 }, (_, n) => `c${n}`) },
      { taskType: "t", priority: "SOON" },
      { taskType: "t", priority: 101 },
      { taskType: "t", deadlineMs: 0 },
      { taskType: "t", deadlineMs: 1.5 },
      { taskType: "t", deadlineMs: Number.POSITIVE_INFINITY },
      { taskType: "t", maxAssignments: 0 },
      { taskType: "t", maxAssignments: 101 },
      { taskType: "t", contextId: " " },
      { taskType: "t", unknown: true },
    ];
    for (const input of bad) {
      await expect(on.boss.assignTask(input as never)).rejects.toThrow(ValidationFailed);
    }
    const big = { taskType: "t", parameters: { text: "x".repeat(10_000_000) } };
    await expect(on.boss.assignTask(big)).rejects.toThrow(PayloadTooLarge);
    expect(await on.boss.listTasks()).toEqual([]);
    for (const call of [
      () => on.boss.getTask(5 as never),
      () => on.boss.listTasks({ limit: -1 }),
      () => on.boss.listTasks({ state: "done" as never }),
      () => on.boss.listTasks({ page: 1 } as never),
      () => on.boss.processIncomingMessages({ limit: 0 }),
      () => on.boss.waitForTask("t", { timeoutMs: -1 }),
      () => on.boss.cancelTask("t", "x".repeat(2_000)),
      () => on.boss.waitForTask("t", { timeout: 1 } as never),
      () => on.boss.assignTask({ taskType: "t" }, { transaction: 1 } as never),
      () => on.boss.assignTask({ taskType: "t" }, null as never),
      () => on.boss.run({ interval: 1 } as never),
      () => on.boss.broadcastMessage("", {}),
      () => on.boss.broadcastMessage("X", "text" as never),
      () => on.boss.broadcastMessage("X", {}, { priority: "SOON" as never }),
    ]) {
      await expect(call(), String(call)).rejects.toThrow(ValidationFailed);
    }
    await expect(on.boss.assignTask(needsX, { tx: {} as never })).rejects.toThrow(
      AgentCommunicationError,
    );
    expect(() => on.boss.start({ intervalMs: 0 })).toThrow(ValidationFailed);
    expect(() => on.supervisor("")).toThrow(ValidationFailed);
    expect(() => on.supervisor("b", { sweepMs: 1 } as never)).toThrow(ValidationFailed);
  });
});
