import { beforeEach, describe, expect, it } from "vitest";
import {
  canMove,
  END_STATES,
  type EndState,
  TASK_STATES,
  type TaskState,
  taskStateOf,
  toA2aState,
  toMcpStatus,
} from "../../lib/protocol/states.ts";
import type { Task } from "../../lib/protocol/tasks.ts";
import { eachDatabase } from "../support/databases.ts";
import { wipe } from "./stage.ts";
import { taskStage } from "./task-stage.ts";

describe("task states in other protocols", () => {
  it("have a word in each, and come back from it", () => {
    const words = TASK_STATES.map((state) => [state, toA2aState(state), toMcpStatus(state)]);
    expect(words).toEqual([
      ["submitted", "TASK_STATE_SUBMITTED", "working"],
      ["assigned", "TASK_STATE_WORKING", "working"],
      ["working", "TASK_STATE_WORKING", "working"],
      ["input_required", "TASK_STATE_INPUT_REQUIRED", "input_required"],
      ["auth_required", "TASK_STATE_AUTH_REQUIRED", "input_required"],
      ["completed", "TASK_STATE_COMPLETED", "completed"],
      ["failed", "TASK_STATE_FAILED", "failed"],
      ["canceled", "TASK_STATE_CANCELED", "cancelled"],
      ["rejected", "TASK_STATE_REJECTED", "cancelled"],
    ]);
    for (const state of TASK_STATES) {
      const back = state === "assigned" ? "working" : state;
      expect(taskStateOf(toA2aState(state))).toBe(back);
    }
    expect(taskStateOf(toMcpStatus("canceled"))).toBe("canceled");
    expect(taskStateOf("input-required")).toBe("input_required");
  });
});

eachDatabase("moves of tasks", (database) => {
  let on: ReturnType<typeof taskStage>;
  beforeEach(async () => {
    await wipe(database);
    on = taskStage(database);
  });

  const store = () => on.coordination.parts.tasks;

  /** Asks the store for a move to this state, as whoever makes it does. */
  async function move(task: Task, to: TaskState): Promise<Task | undefined> {
    const fence = { taskId: task.taskId, assignment: task.assignment, agentId: task.agentId };
    if ((END_STATES as readonly TaskState[]).includes(to) && to !== "canceled") {
      return store().finish(on.knex, fence, to as EndState, {});
    }
    switch (to) {
      case "submitted":
        return store().giveBack(on.knex, fence, { code: "c", message: "" });
      case "assigned":
        return store().assign(on.knex, task, "b", "m2");
      case "canceled":
        return store().cancel(on.knex, task.taskId, { code: "c", message: "" });
      default:
        return store().report(fence, to, undefined);
    }
  }

  it("are made where the table says so, and nowhere else: every pair of states", async () => {
    await on.agent("a");
    for (const from of TASK_STATES) {
      for (const to of TASK_STATES) {
        const { taskId } = await on.boss.assignTask(on.needsX({ requiredCapabilities: ["none"] }));
        const ended = (END_STATES as readonly TaskState[]).includes(from);
        const held = from !== "submitted";
        await on
          .knex("outbox_tasks")
          .where({ task_id: taskId })
          .update({
            state: from,
            agent_id: held ? "a" : null,
            assignment: held ? 1 : 0,
            finished_at: ended ? 1 : null,
          });
        const before = (await on.tasks.get(taskId)) as Task;
        const moved = await move(before, to);
        const legal = canMove(from, to);
        expect(moved?.state, `${from} -> ${to}`).toBe(legal ? to : undefined);
        if (!legal) expect(await on.tasks.get(taskId)).toEqual(before);
        await on.knex("outbox_tasks").where({ task_id: taskId }).del();
      }
    }
  });

  it("are not made for an older assignment, another agent, or one that is to get no agent", async () => {
    await on.agent("a");
    const { taskId } = await on.boss.assignTask(on.needsX());
    const fence = { taskId, assignment: 1, agentId: "a" };
    expect(await store().begin({ ...fence, agentId: "b" })).toBeUndefined();
    expect(await store().begin({ ...fence, assignment: 0 })).toBeUndefined();
    expect(await store().begin({ ...fence, assignment: 2 })).toBeUndefined();
    expect(await store().begin(fence)).toMatchObject({ state: "working", runDeadlineAt: null });
    const parked = await store().park(on.knex, fence, "submitted", 1);
    expect(parked).toMatchObject({ waitsFor: 1, agentId: null });
    const waiting = parked as Task;
    expect(await store().assign(on.knex, waiting, "b", "m2")).toBeUndefined();
    expect(await store().partEnded(on.knex, taskId)).toMatchObject({ waitsFor: 0 });
    expect(await store().partEnded(on.knex, taskId)).toBeUndefined();
    await store().pause(on.knex, taskId);
    expect(await store().assign(on.knex, waiting, "b", "m2")).toBeUndefined();
    await store().resume(on.knex, taskId);
    expect(await store().assign(on.knex, waiting, "b", "m2")).toMatchObject({ assignment: 2 });
    expect(await store().begin(fence)).toBeUndefined();
  });

  it("of one moment: of two results, a result and a cancel, two ends, one wins", async () => {
    await on.agent("a", ["x"], 100);
    const stages = [taskStage(database), taskStage(database), taskStage(database)];
    for (let round = 0; round < 4; round++) {
      const { taskId } = await on.boss.assignTask(on.needsX());
      const fence = { taskId, assignment: 1, agentId: "a" };
      const ends = await Promise.all([
        store().finish(on.knex, fence, "completed", { result: 1 }),
        stages[0]?.coordination.parts.tasks.finish(stages[0].knex, fence, "failed", {}),
        stages[1]?.tasks.cancel(taskId).then((won) => (won ? { state: "canceled" } : undefined)),
        stages[2]?.coordination.parts.tasks.finish(stages[2].knex, fence, "rejected", {}),
      ]);
      const won = ends.filter((end) => end !== undefined);
      expect(won).toHaveLength(1);
      expect(await on.tasks.get(taskId)).toMatchObject({ state: won[0]?.state });
    }
  });

  it("that come late are acknowledged, change nothing, and are told as stale", async () => {
    await on.agent("a");
    const { taskId } = await on.boss.assignTask(on.needsX());
    const send = (content: object, messageType = "TASK_RESPONSE") =>
      on.queue.sendMessage({
        fromAgent: "a",
        toAgent: "boss",
        messageType,
        content: { task_id: taskId, ...content },
      });
    await send({ status: "completed", result: 1, assignment: 1 });
    await send({ status: "completed", result: 1, assignment: 1 });
    await send({ status: "failed", assignment: 0 });
    await send({ error_message: "boom" }, "ERROR_REPORT");
    await send({ status: "working", completion_percentage: 5 }, "STATUS_UPDATE");
    expect(await on.boss.processIncomingMessages()).toBe(5);
    expect(await on.tasks.get(taskId)).toMatchObject({ state: "completed", result: 1 });
    expect(await on.queue.deadLetters.list()).toEqual([]);
    const stale = on.taskEvents().filter(({ event }) => event === "stale");
    expect(stale.map(({ data }) => [data.message_type, data.from, data.state])).toEqual([
      ["TASK_RESPONSE", "a", "completed"],
      ["TASK_RESPONSE", "a", "completed"],
      ["ERROR_REPORT", "a", "completed"],
      ["STATUS_UPDATE", "a", "completed"],
    ]);
  });
});
