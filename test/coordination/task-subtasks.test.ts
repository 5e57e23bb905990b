import { beforeEach, expect, it } from "vitest";
import type { TaskTree } from "../../lib/coordination/tasks/subtasks.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { wipe } from "./stage.ts";
import { taskStage } from "./task-stage.ts";

eachDatabase("tasks and their parts", (database) => {
  let on: ReturnType<typeof taskStage>;
  beforeEach(async () => {
    await wipe(database);
    on = taskStage(database);
  });

  const names = ({ task, subtasks }: TaskTree): unknown => [task.taskType, ...subtasks.map(names)];

  it("wait for them, and get what became of them", async () => {
    await on.run({
      maxConcurrentTasks: 4,
      tasks: {
        whole: async (_task, { subtask, subtasks }) => {
          for (const n of [1, 2]) {
            await subtask({ taskType: "part", parameters: { n }, requiredCapabilities: ["x"] });
          }
          await subtask({ taskType: "bad", requiredCapabilities: ["x"], maxAssignments: 1 });
          const parts = await subtasks();
          return parts.map(({ state, result }) => [state, result]);
        },
        part: ({ parameters }) => Number(parameters.n) * 10,
        bad: () => {
          throw new Error("no");
        },
      },
    });
    on.supervise();
    const { taskId } = await on.boss.assignTask(
      on.needsX({ taskType: "whole", contextId: "ctx", correlationId: "cor" }),
    );
    expect(await on.tasks.wait(taskId)).toMatchObject({
      state: "completed",
      assignment: 1,
      result: [
        ["completed", 10],
        ["completed", 20],
        ["failed", null],
      ],
    });
    const tree = await on.tasks.tree(taskId);
    expect(names(tree)).toEqual(["whole", ["part"], ["part"], ["bad"]]);
    expect(tree).toMatchObject({
      truncated: false,
      subtasks: [{ task: { contextId: "ctx" } }, {}, {}],
    });
    await expect(on.tasks.tree("nothing")).rejects.toMatchObject({ code: "UNKNOWN_TASK" });
  });

  it("give their place to their parts, and are not made twice by a new run", async () => {
    let runs = 0;
    await on.run({
      // One place: the parts can only run while the whole does not.
      maxConcurrentTasks: 1,
      tasks: {
        whole: async (_task, { subtask, subtasks }) => {
          runs++;
          for (const n of [1, 2, 2]) {
            await subtask({ taskType: "part", parameters: { n }, requiredCapabilities: ["x"] });
          }
          const parts = await subtasks({ waitMs: 0 });
          return parts.map(({ result }) => result);
        },
        part: ({ parameters }) => parameters.n,
      },
    });
    on.supervise();
    const { taskId } = await on.boss.assignTask(on.needsX({ taskType: "whole" }));
    expect(await on.tasks.wait(taskId)).toMatchObject({
      state: "completed",
      result: [1, 2, 2],
      assignment: 2,
      maxAssignments: 4,
    });
    expect(runs).toBe(2);
    expect(await on.tasks.list()).toHaveLength(4);
    expect(await on.queue.deadLetters.list()).toEqual([]);
  });

  it("go on when the last of two parts ends, wherever both end at once", async () => {
    await on.agent("a", ["x"], 10);
    const whole = await on.boss.assignTask(on.needsX());
    const { tasks, family } = on.coordination.parts;
    const fence = { taskId: whole.taskId, assignment: 1, agentId: "a" };
    await tasks.begin(fence);
    const parts = [];
    for (let n = 0; n < 6; n++) {
      parts.push(await on.boss.assignTask(on.needsX({ parentTaskId: whole.taskId })));
    }
    const others = parts.map(() => taskStage(database));
    await Promise.all([
      tasks.transaction(async (trx) => {
        const live = await family.lockLive(trx, whole.taskId, 100);
        return tasks.park(trx, fence, "submitted", live);
      }),
      ...parts.map(({ taskId }, n) => others[n]?.tasks.cancel(taskId)),
    ]);
    expect(await on.tasks.get(whole.taskId)).toMatchObject({ waitsFor: 0, state: "submitted" });
  });

  it("end with the task that they are a part of, however deep", async () => {
    await on.agent("a", ["x"], 100);
    const root = await on.boss.assignTask(on.needsX());
    const make = (parentTaskId: string) => on.boss.assignTask(on.needsX({ parentTaskId }));
    const child = await make(root.taskId);
    const done = await make(root.taskId);
    const grandchild = await make(child.taskId);
    await on.coordination.parts.tasks.begin({
      taskId: grandchild.taskId,
      assignment: 1,
      agentId: "a",
    });
    await on
      .knex("outbox_tasks")
      .where({ task_id: done.taskId })
      .update({ state: "completed", finished_at: 1 });
    await on.tasks.cancel(root.taskId, "not needed");
    expect(await on.tasks.get(child.taskId)).toMatchObject({ state: "canceled" });
    expect(await on.tasks.get(grandchild.taskId)).toMatchObject({
      state: "canceled",
      lastError: { message: expect.stringContaining(child.taskId) },
    });
    expect(await on.tasks.get(done.taskId)).toMatchObject({ state: "completed" });
    expect(await on.queue.getMessages("a", { messageTypes: ["TASK_CANCEL"] })).toMatchObject([
      { taskId: grandchild.taskId },
    ]);
    expect(on.eventNames().filter((event) => event === "cancelled")).toHaveLength(3);
    await expect(make(root.taskId)).rejects.toMatchObject({ code: "TASK_STATE" });
    await expect(make("nothing")).rejects.toMatchObject({ code: "UNKNOWN_TASK" });
    expect(await on.tasks.list({ state: "submitted" })).toEqual([]);
  });

  it("end with a task that fails, and outlive one that completes", async () => {
    await on.agent("a", ["x"], 100);
    const failing = await on.boss.assignTask(on.needsX({ taskId: "failing" }));
    const completing = await on.boss.assignTask(on.needsX({ taskId: "completing" }));
    const lost = await on.boss.assignTask(on.needsX({ parentTaskId: failing.taskId }));
    const kept = await on.boss.assignTask(on.needsX({ parentTaskId: completing.taskId }));
    const report = (task_id: string, status: string) =>
      on.queue.sendMessage({
        fromAgent: "a",
        toAgent: "boss",
        messageType: "TASK_RESPONSE",
        content: { task_id, status, assignment: 1 },
      });
    await report("failing", "failed");
    await report("completing", "completed");
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(lost.taskId)).toMatchObject({ state: "canceled" });
    expect(await on.tasks.get(kept.taskId)).toMatchObject({ state: "assigned" });
  });

  it("go 16 levels deep", async () => {
    let parentTaskId: string | undefined;
    for (let level = 0; level <= 15; level++) {
      parentTaskId = (await on.boss.assignTask(on.needsX({ parentTaskId }))).taskId;
    }
    await expect(on.boss.assignTask(on.needsX({ parentTaskId }))).rejects.toMatchObject({
      code: "TASK_TOO_DEEP",
    });
    const itself = on.needsX({ taskId: "itself", parentTaskId: "itself" });
    await expect(on.boss.assignTask(itself)).rejects.toMatchObject({ code: "TASK_TOO_DEEP" });
    expect(await on.tasks.get("itself")).toBeNull();
  });

  it("that are made while their task ends are never left behind", async () => {
    for (let round = 0; round < 5; round++) {
      const root = await on.boss.assignTask(on.needsX());
      const others = [taskStage(database), taskStage(database), taskStage(database)];
      const made = others.map(async ({ boss }) =>
        boss.assignTask(on.needsX({ parentTaskId: root.taskId })).catch((error: unknown) => error),
      );
      await Promise.all([...made, on.tasks.cancel(root.taskId)]);
      const { subtasks } = await on.tasks.tree(root.taskId);
      for (const { task } of subtasks) expect(task.state).toBe("canceled");
    }
    await until(async () => (await on.tasks.list({ state: "submitted" })).length === 0);
  });
});
