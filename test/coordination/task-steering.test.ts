import { setTimeout as sleep } from "node:timers/promises";
import { beforeEach, describe, expect, it } from "vitest";
import { configFromEnv } from "../../lib/config.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { TIMED } from "../support/timed.ts";
import { wipe } from "./stage.ts";
import { taskStage } from "./task-stage.ts";

const endless = (signal: AbortSignal) =>
  new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });

describe("the environment's limit of a run", () => {
  it("is set only where AGENT_DEFAULT_TIMEOUT is", () => {
    expect(configFromEnv({ AGENT_DEFAULT_TIMEOUT: "7" })).toMatchObject({
      runTimeoutMs: 7_000,
      defaultTimeoutMs: 7_000,
    });
    expect(configFromEnv({})).toMatchObject({ runTimeoutMs: null, defaultTimeoutMs: 300_000 });
  });
});

eachDatabase("tasks that are paused, or out of time", (database) => {
  let on: ReturnType<typeof taskStage>;
  beforeEach(async () => {
    await wipe(database);
    on = taskStage(database);
  });

  const codeOf = (reason: unknown) => (reason as { code?: string }).code;

  it("get no agent while they are paused", async () => {
    const parked = await on.boss.assignTask(on.needsX());
    expect(await on.tasks.pause(parked.taskId)).toBe(true);
    expect(await on.tasks.pause(parked.taskId)).toBe(false);
    await on.agent("a", ["x"], 2);
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(parked.taskId)).toMatchObject({ state: "submitted", agentId: null });
    // One that its agent has not begun is taken back at once, and its message with it.
    const waiting = await on.boss.assignTask(on.needsX());
    expect(waiting.agentId).toBe("a");
    await on.tasks.pause(waiting.taskId);
    expect(await on.tasks.get(waiting.taskId)).toMatchObject({ agentId: null, maxAssignments: 4 });
    expect(await on.queue.getMessages("a")).toEqual([]);
    expect(await on.tasks.resume(parked.taskId)).toBe(true);
    expect(await on.tasks.resume(parked.taskId)).toBe(false);
    expect(await on.tasks.get(parked.taskId)).toMatchObject({ agentId: "a", pausedAt: null });
    expect(await on.tasks.cancel(waiting.taskId)).toBe(true);
    expect(await on.tasks.pause(waiting.taskId)).toBe(false);
    await expect(on.tasks.pause("nothing")).rejects.toMatchObject({ code: "UNKNOWN_TASK" });
    await expect(on.tasks.resume("nothing")).rejects.toMatchObject({ code: "UNKNOWN_TASK" });
  });

  it("stop where they run, store how far they came, and go on from there", async () => {
    const reasons: unknown[] = [];
    await on.run({
      tasks: {
        work: async (task, { signal, progress }) => {
          if (task.progress !== null) return { from: task.progress.data };
          await progress(5, { page: 1 });
          await endless(signal);
          reasons.push(codeOf(signal.reason));
          await progress(40, { page: 4 });
          return "half of it";
        },
      },
    });
    on.supervise();
    const { taskId } = await on.boss.assignTask(on.needsX());
    await until(async () => (await on.tasks.get(taskId))?.progress?.percentage === 5);
    await on.tasks.pause(taskId);
    await until(async () => (await on.tasks.get(taskId))?.agentId === null);
    const paused = await on.tasks.get(taskId);
    expect(paused).toMatchObject({
      state: "submitted",
      assignment: 1,
      maxAssignments: 4,
      progress: { percentage: 40, data: { page: 4 } },
    });
    expect(paused?.pausedAt).not.toBeNull();
    await on.tasks.resume(taskId);
    expect(await on.tasks.wait(taskId)).toMatchObject({
      state: "completed",
      assignment: 2,
      result: { from: { page: 4 } },
    });
    expect(reasons).toEqual(["TASK_PAUSED"]);
    expect(on.eventNames().filter((event) => event !== "progress")).toEqual([
      "submitted",
      "assigned",
      "paused",
      "resumed",
      "reassigned",
      "completed",
    ]);
  });

  it("are parked also where the agent does not heed the pause", async () => {
    await on.agent("a");
    const { taskId } = await on.boss.assignTask(on.needsX());
    const message = await on.next("a");
    await on.coordination.parts.tasks.begin({ taskId, assignment: 1, agentId: "a" });
    await on.tasks.pause(taskId);
    const told = await on.queue.getMessages("a", { messageTypes: ["TASK_CANCEL"] });
    expect(told).toMatchObject([{ content: { task_id: taskId, reason: "paused" } }]);
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(taskId)).toMatchObject({ agentId: "a" });
    await on
      .knex("outbox_tasks")
      .where({ task_id: taskId })
      .update({ paused_at: on.knex.raw("paused_at - 31000") });
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(taskId)).toMatchObject({ agentId: null, state: "submitted" });
    expect(await message.ack()).not.toBe("acked");
  });

  const limit = async (taskId: string) => {
    const task = await on.tasks.get(taskId);
    return task?.runDeadlineAt === null
      ? null
      : Number(task?.runDeadlineAt) - Number(task?.startedAt);
  };

  it("have the limit of the call, the handler, the agent, the class, or the environment", async () => {
    const wait = async (_task: unknown, { signal }: { signal: AbortSignal }) => {
      await endless(signal);
    };
    const card = { sla: { targetMs: 1_000, maxMs: 70_000 } };
    await on.run({
      agentId: "promises",
      capabilities: ["sla"],
      maxConcurrentTasks: 10,
      card,
      runTimeoutMs: 90_000,
      tasks: { timed: { run: wait, timeoutMs: 60_000 }, plain: wait },
    });
    await on.run({
      agentId: "defaults",
      capabilities: ["env"],
      maxConcurrentTasks: 10,
      runTimeoutMs: 90_000,
      tasks: { plain: wait },
    });
    await on.run({
      agentId: "free",
      capabilities: ["none"],
      maxConcurrentTasks: 10,
      tasks: { plain: wait },
    });
    const limitOf = async (capability: string, taskType: string, more: object = {}) => {
      const { taskId } = await on.boss.assignTask({
        taskType,
        requiredCapabilities: [capability],
        ...more,
      });
      await until(async () => (await on.tasks.get(taskId))?.state === "working");
      return limit(taskId);
    };
    expect(await limitOf("sla", "timed", { runTimeoutMs: 50_000, operation: "event" })).toBe(
      50_000,
    );
    expect(await limitOf("sla", "timed", { operation: "event" })).toBe(60_000);
    expect(await limitOf("sla", "plain", { operation: "event" })).toBe(70_000);
    expect(await limitOf("env", "plain", { operation: "file" })).toBe(120_000);
    expect(await limitOf("env", "plain")).toBe(90_000);
    expect(await limitOf("none", "plain", { operation: "request" })).toBe(30_000);
    expect(await limitOf("none", "plain")).toBeNull();
  });

  it("end at their limit, and another agent tries", TIMED, async () => {
    const reasons: unknown[] = [];
    await on.run({
      card: { sla: { targetMs: 1, maxMs: 60_000 } },
      tasks: {
        work: async ({ assignment }, { signal }) => {
          if (assignment > 1) return "in time";
          await endless(signal);
          reasons.push(codeOf(signal.reason));
          return "too late";
        },
      },
    });
    on.supervise();
    const { taskId } = await on.boss.assignTask(on.needsX({ runTimeoutMs: 300 }));
    expect(await on.tasks.wait(taskId)).toMatchObject({
      state: "completed",
      result: "in time",
      assignment: 2,
      lastError: { code: "TASK_TIMEOUT", agentId: "a" },
    });
    expect(reasons).toEqual(["TASK_TIMEOUT"]);
    const missed = on.events.filter(
      (event) => event.type === "metric" && event.metric === "sla_target_missed",
    );
    expect(missed[0]).toMatchObject({ agentId: "a", unit: "ms" });
  });

  it("are taken from a run that does not heed its limit, up to maxAssignments", async () => {
    await on.agent("a");
    const { taskId } = await on.boss.assignTask(
      on.needsX({ runTimeoutMs: 5_000, maxAssignments: 1 }),
    );
    await on.next("a");
    await on.coordination.parts.tasks.begin({ taskId, assignment: 1, agentId: "a" });
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(taskId)).toMatchObject({ state: "working" });
    await on.knex("outbox_tasks").where({ task_id: taskId }).update({ run_deadline_at: 1 });
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(taskId)).toMatchObject({
      state: "failed",
      lastError: { code: "TASK_TIMEOUT", agentId: "a" },
    });
    expect(await on.queue.getMessages("a", { messageTypes: ["TASK_CANCEL"] })).toHaveLength(1);
  });

  it("do not lose time while somebody thinks about a question", async () => {
    await on.run({
      tasks: {
        work: {
          timeoutMs: 3_000,
          run: async (_task, context) => {
            const answer = await context.requestInput({ prompt: "Well?" });
            return { answer, aborted: context.signal.aborted };
          },
        },
      },
    });
    on.supervise();
    const { taskId } = await on.boss.assignTask(on.needsX());
    await on.becomes(taskId, "input_required");
    expect(await on.tasks.get(taskId)).toMatchObject({ runDeadlineAt: null });
    await sleep(3_500);
    const [input] = await on.tasks.inputs();
    await on.tasks.answer(String(input?.inputId), "yes");
    expect(await on.tasks.wait(taskId)).toMatchObject({
      state: "completed",
      assignment: 1,
      result: { answer: "yes", aborted: false },
    });
  });

  it("are taken from an agent that acknowledged them and was never heard of", async () => {
    await on.agent("a", ["x"], 2);
    const silent = await on.boss.assignTask(on.needsX());
    const busy = await on.boss.assignTask(on.needsX());
    for (const message of await on.queue.getMessages("a")) await message.ack();
    await on.queue.sendMessage({
      fromAgent: "a",
      toAgent: "boss",
      messageType: "STATUS_UPDATE",
      content: { task_id: busy.taskId, status: "working" },
    });
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(silent.taskId)).toMatchObject({ state: "assigned", agentId: "a" });
    await on.knex("outbox_archive").update({ finished_at: on.knex.raw("finished_at - 3600001") });
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(busy.taskId)).toMatchObject({ state: "working", assignment: 1 });
    expect(await on.tasks.get(silent.taskId)).toMatchObject({
      assignment: 2,
      lastError: { code: "TASK_UNANSWERED", agentId: "a" },
    });
    const patient = on.supervisor("patient", { unansweredMs: null });
    await on.queue.getMessages("a").then((all) => Promise.all(all.map((one) => one.ack())));
    await on.knex("outbox_archive").update({ finished_at: on.knex.raw("finished_at - 3600001") });
    await patient.processIncomingMessages();
    expect(await on.tasks.get(silent.taskId)).toMatchObject({ assignment: 2, agentId: "a" });
  });

  it("keep what their agents warn of, in every spelling", async () => {
    await on.run({
      tasks: {
        work: (_task, { warn }) => {
          warn("disk nearly full");
          warn({ message: "slow", code: "SLOW", details: { ms: 7 } });
          return "done";
        },
      },
    });
    on.supervise();
    const { taskId } = await on.boss.assignTask(on.needsX());
    expect(await on.tasks.wait(taskId)).toMatchObject({
      state: "completed",
      warnings: [
        { message: "disk nearly full" },
        { message: "slow", code: "SLOW", details: { ms: 7 } },
      ],
    });
    // Observers hear of it after the commit, which others see at once.
    await until(() => on.taskEvents().at(-1)?.event === "completed");
    expect(on.taskEvents().at(-1)).toMatchObject({
      data: { warnings: ["disk nearly full", "slow"] },
    });
    await on.agent("b", ["y"]);
    const other = await on.boss.assignTask({ taskType: "t", requiredCapabilities: ["y"] });
    await on.answer("b", { status: "warning", result: 1, message: "odd input" });
    expect(await on.tasks.wait(other.taskId)).toMatchObject({
      state: "completed",
      warnings: [{ message: "odd input" }],
    });
  });
});
