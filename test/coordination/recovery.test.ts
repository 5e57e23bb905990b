import { beforeEach, describe, expect, it } from "vitest";
import type { TaskInput } from "../../lib/protocol/tasks.ts";
import { eachDatabase } from "../support/databases.ts";
import { stage, wipe } from "./stage.ts";

const needsX: TaskInput = { taskType: "analyse", requiredCapabilities: ["x"] };

eachDatabase("tasks in trouble", (database) => {
  let on: ReturnType<typeof stage>;
  beforeEach(async () => {
    await wipe(database);
    on = stage(database);
  });

  describe("lost agents", () => {
    it("lose their tasks to others; what they still answer is stale", async () => {
      await on.agent("frozen", ["x"], 3);
      const first = await on.boss.assignTask(needsX);
      const second = await on.boss.assignTask(needsX);
      const claimed = await on.next("frozen");
      await on.agent("other", ["x"], 3);
      await on.silence("frozen");
      await on.boss.processIncomingMessages();
      for (const { taskId } of [first, second]) {
        expect(await on.boss.getTask(taskId)).toMatchObject({
          state: "assigned",
          agentId: "other",
          assignment: 2,
          previousAgentId: "frozen",
          messageId: expect.stringContaining(`${taskId}:2:`),
          lastError: { code: "AGENT_LOST", agentId: "frozen" },
        });
      }
      expect(
        on.events.find((event) => event.type === "agent" && event.event === "lost"),
      ).toMatchObject({ agentId: "frozen", data: { tasks: 2 } });
      // It wakes up: its claim is gone, its mailbox empty, its late result changes nothing.
      const { task_id, assignment } = claimed.content as Record<string, unknown>;
      await claimed.reply({ task_id, assignment, status: "completed", result: "late" });
      expect(await claimed.ack()).toBe("gone");
      expect(await on.queue.getMessages("frozen")).toEqual([]);
      await on.registry.updateHeartbeat("frozen");
      await on.boss.processIncomingMessages();
      expect(await on.boss.getTask(task_id as string)).toMatchObject({ state: "assigned" });
      await on.answer("other", { status: "completed", result: "fresh" });
      await on.answer("other", { status: "completed", result: "fresh" });
      await on.boss.processIncomingMessages();
      expect(await on.boss.getTask(first.taskId)).toMatchObject({ result: "fresh" });
      expect(await on.registry.getAgent("frozen")).toMatchObject({ available: true, lost: false });
    });

    it("are told once, and keep nothing of a task that nobody else can do", async () => {
      await on.agent("only", ["x"]);
      const { taskId } = await on.boss.assignTask(needsX);
      await on.silence("only");
      await on.boss.processIncomingMessages();
      await on.boss.processIncomingMessages();
      expect(await on.boss.getTask(taskId)).toMatchObject({ state: "submitted", agentId: null });
      expect(
        on.events.filter((event) => event.type === "agent" && event.event === "lost"),
      ).toHaveLength(1);
      await on.registry.updateHeartbeat("only");
      await on.boss.processIncomingMessages();
      expect(await on.boss.getTask(taskId)).toMatchObject({ agentId: "only", assignment: 2 });
    });

    it("end a task after maxAssignments", async () => {
      const { taskId } = await on.boss.assignTask({ ...needsX, maxAssignments: 2 });
      for (const agentId of ["a", "b"]) {
        await on.agent(agentId, ["x"]);
        await on.boss.processIncomingMessages();
        await on.silence(agentId);
        await on.boss.processIncomingMessages();
      }
      await on.agent("c", ["x"]);
      await on.boss.processIncomingMessages();
      expect(await on.boss.getTask(taskId)).toMatchObject({
        state: "failed",
        assignment: 2,
        agentId: "b",
        lastError: { code: "AGENT_LOST" },
      });
    });

    it("also lose them by deregistering, and are gone then", async () => {
      await on.agent("leaver", ["x"]);
      const { taskId } = await on.boss.assignTask(needsX);
      await on.registry.deregisterAgent("leaver");
      await on.agent("other", ["x"]);
      await on.boss.processIncomingMessages();
      expect(await on.boss.getTask(taskId)).toMatchObject({ agentId: "other", assignment: 2 });
      expect(await on.knex("outbox_agents").where({ agent_id: "leaver" })).toEqual([]);
      expect(on.events.filter((event) => event.type === "agent" && event.event === "lost")).toEqual(
        [],
      );
    });

    it("also lose them by going offline, and are not called lost", async () => {
      await on.agent("leaver", ["x"]);
      const { taskId } = await on.boss.assignTask(needsX);
      await on.registry.updateHeartbeat("leaver", { status: "offline" });
      await on.agent("other", ["x"]);
      await on.boss.processIncomingMessages();
      expect(await on.boss.getTask(taskId)).toMatchObject({ agentId: "other", assignment: 2 });
      expect(on.events.filter((event) => event.type === "agent" && event.event === "lost")).toEqual(
        [],
      );
      await on.registry.updateHeartbeat("leaver");
      expect(await on.registry.getAgent("leaver")).toMatchObject({
        status: "active",
        available: true,
      });
    });

    it("hand on what they had reached", async () => {
      await on.agent("a", ["x"]);
      const { taskId } = await on.boss.assignTask(needsX);
      await on.queue.sendMessage({
        fromAgent: "a",
        toAgent: "boss",
        messageType: "STATUS_UPDATE",
        content: {
          task_id: taskId,
          status: "working",
          completion_percentage: 60,
          details: { at: 6 },
        },
      });
      await on.boss.processIncomingMessages();
      await on.silence("a");
      await on.agent("b", ["x"]);
      await on.boss.processIncomingMessages();
      expect((await on.next("b")).content).toMatchObject({
        assignment: 2,
        progress: { percentage: 60, data: { at: 6 } },
      });
    });
  });

  it("takes a task back whose message died, and fails it after maxAssignments", async () => {
    await on.agent("a", ["x"], 5);
    await on.agent("b", ["x"], 5);
    const { taskId, agentId } = await on.boss.assignTask({ ...needsX, maxAssignments: 2 });
    await (await on.next(agentId as string)).deadLetter("max_attempts", {
      error: new Error("crash"),
    });
    await on.boss.processIncomingMessages();
    const other = agentId === "a" ? "b" : "a";
    expect(await on.boss.getTask(taskId)).toMatchObject({
      agentId: other,
      assignment: 2,
      lastError: { code: "TASK_UNDELIVERED", message: expect.stringContaining("crash") },
    });
    await (await on.next(other)).deadLetter("max_attempts");
    await on.boss.processIncomingMessages();
    expect(await on.boss.getTask(taskId)).toMatchObject({
      state: "failed",
      lastError: { code: "TASK_UNDELIVERED" },
    });
  });

  it("takes a task back whose message was cancelled, but not one that was acknowledged", async () => {
    await on.agent("a", ["x"], 5);
    const early = await on.boss.assignTask(needsX);
    await (await on.next("a")).ack();
    const { taskId, messageId } = await on.boss.assignTask({ ...needsX, maxAssignments: 1 });
    expect(await on.queue.cancelMessage(messageId as string)).toBe(true);
    await on.boss.processIncomingMessages();
    expect(await on.boss.getTask(taskId)).toMatchObject({
      state: "failed",
      lastError: { code: "TASK_UNDELIVERED", message: "its message was cancelled" },
    });
    expect(await on.boss.getTask(early.taskId)).toMatchObject({ state: "assigned", assignment: 1 });
  });

  it("fails a task whose deadline passed, wherever it is", async () => {
    await on.agent("a", ["x"], 2);
    const parked = await on.boss.assignTask({
      ...needsX,
      requiredCapabilities: ["none"],
      deadlineMs: 60_000,
    });
    const waiting = await on.boss.assignTask({ ...needsX, deadlineMs: 60_000 });
    const inTime = await on.boss.assignTask({ ...needsX, deadlineMs: 60_000 });
    await on.expire(parked.taskId);
    await on.expire(waiting.taskId);
    await on.boss.processIncomingMessages();
    for (const { taskId } of [parked, waiting]) {
      expect(await on.boss.getTask(taskId)).toMatchObject({
        state: "failed",
        lastError: { code: "TASK_DEADLINE" },
      });
    }
    expect(await on.boss.getTask(inTime.taskId)).toMatchObject({ state: "assigned" });
    // Only the one in time is still in the mailbox.
    const left = await on.queue.getMessages("a", { limit: 10 });
    expect(left.map(({ taskId }) => taskId)).toEqual([inTime.taskId]);
  });

  describe("canceling", () => {
    it("takes back a message that nobody has, and a parked task", async () => {
      const parked = await on.boss.assignTask(needsX);
      expect(await on.boss.cancelTask(parked.taskId)).toBe(true);
      await on.agent("a", ["x"]);
      const { taskId } = await on.boss.assignTask(needsX);
      expect(await on.boss.cancelTask(taskId, "changed our mind")).toBe(true);
      expect(await on.boss.cancelTask(taskId)).toBe(false);
      expect(await on.boss.getTask(taskId)).toMatchObject({
        state: "canceled",
        lastError: { code: "canceled", message: "changed our mind" },
      });
      expect(await on.queue.getMessages("a")).toEqual([]);
      expect(await on.registry.getAgent("a")).toMatchObject({ currentTasks: 0 });
      await expect(on.boss.cancelTask("nothing")).rejects.toMatchObject({ code: "UNKNOWN_TASK" });
    });

    it("tells an agent that has begun, and ignores its result", async () => {
      await on.agent("a", ["x"]);
      const { taskId } = await on.boss.assignTask(needsX);
      const message = await on.next("a");
      await on.knex("outbox_tasks").update({ state: "working", started_at: 1 });
      await on.boss.cancelTask(taskId, "stop");
      const cancel = await on.next("a");
      expect(cancel).toMatchObject({
        messageType: "TASK_CANCEL",
        kind: "control",
        fromAgent: "boss",
        taskId,
        content: { task_id: taskId, assignment: 1, reason: "stop" },
      });
      await message.reply({ task_id: taskId, status: "completed" });
      expect(await message.ack()).toBe("gone");
      await on.boss.processIncomingMessages();
      expect(await on.boss.getTask(taskId)).toMatchObject({ state: "canceled", result: null });
    });
  });
});
