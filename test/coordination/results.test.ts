import { beforeEach, expect, it } from "vitest";
import { MessageTimeout } from "../../lib/errors.ts";
import type { TaskInput } from "../../lib/protocol/tasks.ts";
import { eachDatabase } from "../support/databases.ts";
import { stage, wipe } from "./stage.ts";

const needsX: TaskInput = { taskType: "analyse", requiredCapabilities: ["x"] };

eachDatabase("what agents report", (database) => {
  let on: ReturnType<typeof stage>;
  beforeEach(async () => {
    await wipe(database);
    on = stage(database);
  });

  it("end a task, and make room for the next", async () => {
    await on.agent("a", ["x"]);
    const first = await on.boss.assignTask(needsX);
    const second = await on.boss.assignTask(needsX);
    await on.answer("a", {
      status: "completed",
      result: { findings: [1, "two"] },
      completion_percentage: 100,
      execution_time_ms: 1_250,
    });
    expect(await on.boss.processIncomingMessages()).toBe(1);
    const done = await on.boss.getTask(first.taskId);
    expect(done).toMatchObject({
      state: "completed",
      agentId: "a",
      result: { findings: [1, "two"] },
      progress: { percentage: 100 },
    });
    expect(done?.finishedAt).toBeGreaterThanOrEqual(first.createdAt);
    expect(await on.boss.getTask(second.taskId)).toMatchObject({ agentId: "a", assignment: 1 });
    expect(await on.queue.getQueueStats("boss")).toMatchObject({ pending: 0, leased: 0 });
    const end = on.events.find((event) => event.type === "task" && event.event === "completed");
    expect(end).toMatchObject({
      taskId: first.taskId,
      agentId: "a",
      data: { duration_ms: 1_250, success: true },
    });
  });

  it.each([
    ["SUCCESS", "completed"],
    ["success", "completed"],
    ["TASK_STATE_COMPLETED", "completed"],
    ["warning", "completed"],
    ["failed", "failed"],
    ["ERROR", "failed"],
    ["rejected", "rejected"],
    ["cancelled", "canceled"],
  ])("come in the spelling %s", async (status, state) => {
    await on.agent("a", ["x"]);
    const { taskId } = await on.boss.assignTask(needsX);
    await on.answer("a", { status, results: "scalar", more: 1 });
    await on.boss.processIncomingMessages();
    expect(await on.boss.getTask(taskId)).toMatchObject({ state, result: "scalar" });
  });

  it("of the seed's simplest worker are believed: no assignment, no causation", async () => {
    await on.agent("a", ["x"]);
    const { taskId } = await on.boss.assignTask(needsX);
    const message = await on.next("a");
    await on.queue.sendMessage({
      messageId: `response-${message.messageId}`,
      fromAgent: "a",
      toAgent: message.fromAgent,
      messageType: "TASK_RESPONSE",
      content: { task_id: taskId, status: "completed", result: 7, completion_percentage: 100 },
    });
    await on.queue.markProcessed(message.messageId, "a");
    await on.boss.processIncomingMessages();
    expect(await on.boss.getTask(taskId)).toMatchObject({ state: "completed", result: 7 });
  });

  it("change nothing when they come twice, from a stranger, or after the end", async () => {
    await on.agent("a", ["x"]);
    const { taskId } = await on.boss.assignTask(needsX);
    const send = (fromAgent: string, status: string, assignment = 1) =>
      on.queue.sendMessage({
        fromAgent,
        toAgent: "boss",
        messageType: "TASK_RESPONSE",
        content: { task_id: taskId, status, result: fromAgent, assignment },
      });
    await send("stranger", "completed");
    await send("a", "completed", 2);
    expect(await on.boss.processIncomingMessages()).toBe(2);
    expect(await on.boss.getTask(taskId)).toMatchObject({ state: "assigned" });
    await send("a", "completed");
    await send("a", "failed");
    expect(await on.boss.processIncomingMessages()).toBe(2);
    expect(await on.boss.getTask(taskId)).toMatchObject({ state: "completed", result: "a" });
    expect(on.taskEvents().filter((event) => event === "completed")).toHaveLength(1);
  });

  it("report progress and waiting on the way", async () => {
    await on.agent("a", ["x"]);
    const { taskId } = await on.boss.assignTask(needsX);
    const report = async (content: Record<string, unknown>) => {
      await on.queue.sendMessage({
        fromAgent: "a",
        toAgent: "boss",
        messageType: "STATUS_UPDATE",
        content: { task_id: taskId, ...content },
      });
      await on.boss.processIncomingMessages();
      return on.boss.getTask(taskId);
    };
    expect(
      await report({ status: "working", completion_percentage: 40, details: { page: 4 } }),
    ).toMatchObject({ state: "working", progress: { percentage: 40, data: { page: 4 } } });
    expect(await report({ status: "input-required" })).toMatchObject({
      state: "input_required",
      progress: { percentage: 40 },
    });
    expect(await on.boss.getCoordinationStats()).toMatchObject({ waiting: 1, working: 0 });
    // A status cannot end a task, and cannot make it new.
    expect(await report({ status: "completed" })).toMatchObject({ state: "working" });
    expect(await report({ status: "PENDING" })).toMatchObject({ state: "working" });
    await on.answer("a", { status: "completed" });
    await on.boss.processIncomingMessages();
    expect(await report({ status: "working" })).toMatchObject({ state: "completed" });
  });

  it("bring heartbeats and agent status into the registry", async () => {
    await on.agent("a", ["x"]);
    await on.silence("a", 60_000);
    const send = (messageType: string, content: object) =>
      on.queue.sendMessage({ fromAgent: "a", toAgent: "boss", messageType, content });
    await send("HEARTBEAT", { status: "busy", health_metrics: { cpu: 0.3 } });
    await on.boss.processIncomingMessages();
    const agent = await on.registry.getAgent("a");
    expect(agent).toMatchObject({ status: "busy", metrics: { cpu: 0.3 } });
    expect(Math.abs((agent?.heartbeatAt ?? 0) - Date.now())).toBeLessThan(30_000);
    await send("STATUS_UPDATE", { status: "away", availability: false });
    await on.boss.processIncomingMessages();
    expect(await on.registry.getAgent("a")).toMatchObject({ status: "draining", available: false });
    await send("HEARTBEAT", { status: "active" });
    await on.boss.processIncomingMessages();
    expect(await on.registry.getAgent("a")).toMatchObject({ status: "draining" });
    await send("STATUS_UPDATE", { status: "back", availability: true });
    await on.boss.processIncomingMessages();
    expect(await on.registry.getAgent("a")).toMatchObject({ status: "active", available: true });
    await on.registry.drainAgent("a");
    await send("STATUS_UPDATE", { status: "active", availability: true });
    await on.boss.processIncomingMessages();
    expect(await on.registry.getAgent("a")).toMatchObject({ status: "draining" });
  });

  it("that fail are tried by another agent, up to maxAssignments", async () => {
    await on.agent("a", ["x"], 5);
    await on.agent("b", ["x"], 5);
    const { taskId, agentId } = await on.boss.assignTask({ ...needsX, maxAssignments: 2 });
    const other = agentId === "a" ? "b" : "a";
    const failure = { error_type: "task_execution_failure", error_message: "boom" };
    await on.answer(agentId as string, { ...failure, retry_possible: true }, "ERROR_REPORT");
    await on.boss.processIncomingMessages();
    expect(await on.boss.getTask(taskId)).toMatchObject({
      state: "assigned",
      agentId: other,
      assignment: 2,
      previousAgentId: agentId,
      lastError: { code: "task_execution_failure", message: "boom", agentId },
    });
    await on.answer(other, { status: "failed", retry_possible: true, error_message: "again" });
    await on.boss.processIncomingMessages();
    expect(await on.boss.getTask(taskId)).toMatchObject({
      state: "failed",
      lastError: { message: "again", agentId: other },
    });
    expect(on.taskEvents()).toEqual(["submitted", "assigned", "submitted", "reassigned", "failed"]);
    expect(on.events.filter((event) => event.type === "error")).toHaveLength(1);
  });

  it("that must not be tried again fail at once", async () => {
    await on.agent("a", ["x"]);
    await on.agent("b", ["x"]);
    const { taskId, agentId } = await on.boss.assignTask(needsX);
    const failure = { error_message: "bad input", retry_possible: false, stack_trace: "at x" };
    await on.answer(agentId as string, failure, "ERROR_REPORT");
    await on.boss.processIncomingMessages();
    expect(await on.boss.getTask(taskId)).toMatchObject({
      state: "failed",
      assignment: 1,
      lastError: { message: "bad input", stack: "at x" },
    });
  });

  it("that make no sense are dead letters with a reason, and hold up nothing", async () => {
    await on.agent("a", ["x"]);
    const { taskId } = await on.boss.assignTask(needsX);
    const send = (messageType: string, content: object, fromAgent = "a") =>
      on.queue.sendMessage({ fromAgent, toAgent: "boss", messageType, content });
    await send("TASK_RESPONSE", { task_id: taskId });
    await send("TASK_RESPONSE", { task_id: taskId, status: "sideways" });
    await send("TASK_RESPONSE", { status: "completed" });
    await send("TASK_RESPONSE", { task_id: "nothing", status: "completed" });
    await send("TASK_RESPONSE", {
      task_id: "x'; DROP TABLE outbox_tasks; --",
      status: "completed",
    });
    await send("TASK_RESPONSE", []);
    await send("HEARTBEAT", {}, "nobody");
    await send("CHITCHAT", { hello: 1 });
    await send("ERROR_REPORT", { error_message: "my disk is full" });
    expect(await on.boss.processIncomingMessages()).toBe(9);
    const dead = await on.queue.deadLetters.list({ agentId: "boss" });
    expect(dead.map(({ reason }) => reason)).toEqual([
      "schema",
      "schema",
      "schema",
      "unknown_task",
      "schema",
      "schema",
      "unknown_agent",
      "no_handler",
    ]);
    expect(on.events.find((event) => event.type === "error")).toMatchObject({
      errorMessage: "my disk is full",
    });
  });

  it("of unknown types go to onMessage, whose writes commit with the acknowledgement", async () => {
    const seen: string[] = [];
    const boss = on.supervisor("boss", {
      onMessage: async (message, { tx }) => {
        seen.push(message.messageType);
        await on.queue.sendMessage({ toAgent: "z", messageType: "NOTED", content: {} }, { tx });
        if (seen.length === 1) throw new Error("not yet");
      },
    });
    await on.queue.sendMessage({ toAgent: "boss", messageType: "CHITCHAT", content: {} });
    expect(await boss.processIncomingMessages()).toBe(0);
    await on
      .knex("outbox_messages")
      .where({ to_agent: "boss" })
      .update({ visible_at: 0, due_at: 0 });
    expect(await boss.processIncomingMessages()).toBe(1);
    expect(seen).toEqual(["CHITCHAT", "CHITCHAT"]);
    expect(await on.queue.getMessages("z")).toHaveLength(1);
  });

  it("that onMessage cannot handle hold up no others, also after a retryable error", async () => {
    const boss = on.supervisor("boss", {
      onMessage: (message) => {
        if (message.messageType === "BAD") throw new MessageTimeout("nobody answered");
      },
    });
    await on.queue.sendMessage({
      toAgent: "boss",
      messageType: "BAD",
      content: {},
      priority: 100,
      maxAttempts: 2,
    });
    await on.queue.sendMessage({ toAgent: "boss", messageType: "GOOD", content: {} });
    expect(await boss.processIncomingMessages()).toBe(1);
    await on
      .knex("outbox_messages")
      .where({ to_agent: "boss" })
      .update({ visible_at: 0, due_at: 0 });
    expect(await boss.processIncomingMessages()).toBe(0);
    expect(await on.queue.deadLetters.list({ agentId: "boss" })).toMatchObject([
      { messageType: "BAD", lastError: { code: "MESSAGE_TIMEOUT" } },
    ]);
  });
});
