import type { Knex } from "knex";
import { beforeEach, expect, it } from "vitest";
import type { TaskInput } from "../../lib/protocol/tasks.ts";
import { MessageQueueManager } from "../../lib/queue/manager.ts";
import { eachDatabase } from "../support/databases.ts";
import { stage, wipe } from "./stage.ts";

const needsX: TaskInput = { taskType: "analyse", requiredCapabilities: ["x"] };

eachDatabase("assigning tasks", (database) => {
  let on: ReturnType<typeof stage>;
  beforeEach(async () => {
    await wipe(database);
    on = stage(database);
  });

  it("gives a task to the best agent, with its message, in one commit", async () => {
    await on.agent("wrong", ["y"]);
    await on.agent("right", ["x", "y"]);
    const task = await on.boss.assignTask({
      taskType: "analyse",
      description: "Look at it",
      parameters: { depth: 3, text: "é😀" },
      requiredCapabilities: ["x", "y"],
      priority: "HIGH",
      deadlineMs: 60_000,
      contextId: "ctx",
      correlationId: "cor",
    });
    expect(task).toMatchObject({
      state: "assigned",
      agentId: "right",
      assignment: 1,
      duplicate: false,
      supervisorId: "boss",
      priority: 30,
      messageId: expect.stringMatching(new RegExp(`^${task.taskId}:1:[0-9a-f]{16}$`)),
      deadlineAt: task.createdAt + 60_000,
      assignedAt: task.createdAt,
      result: null,
    });
    const { duplicate, ...stored } = task;
    expect(await on.boss.getTask(task.taskId)).toEqual(stored);
    const message = await on.next("right");
    expect(message).toMatchObject({
      messageId: task.messageId,
      messageType: "TASK_ASSIGNMENT",
      fromAgent: "boss",
      priority: 30,
      taskId: task.taskId,
      contextId: "ctx",
      correlationId: "cor",
      expiresAt: task.deadlineAt,
      content: {
        task_id: task.taskId,
        task_type: "analyse",
        description: "Look at it",
        parameters: { depth: 3, text: "é😀" },
        required_capabilities: ["x", "y"],
        assignment: 1,
        deadline: new Date(task.deadlineAt as number).toISOString(),
      },
    });
    expect(on.taskEvents()).toEqual(["submitted", "assigned"]);
  });

  it("spreads tasks over equal agents, and parks what nobody has room for", async () => {
    await on.agent("a", ["x"], 2);
    await on.agent("b", ["x"], 2);
    const agents = [];
    for (let n = 0; n < 5; n++) agents.push((await on.boss.assignTask(needsX)).agentId);
    expect(agents.slice(0, 4).sort()).toEqual(["a", "a", "b", "b"]);
    expect(new Set(agents.slice(0, 2)).size).toBe(2);
    expect(agents[4]).toBeNull();
    expect(await on.registry.getRegistryStats()).toMatchObject({
      averageLoad: 1,
      availableAgents: 0,
    });
  });

  it("parks a task until an agent appears", async () => {
    const task = await on.boss.assignTask(needsX);
    expect(task).toMatchObject({ state: "submitted", agentId: null, assignment: 0 });
    expect(await on.boss.processIncomingMessages()).toBe(0);
    expect(await on.boss.getTask(task.taskId)).toMatchObject({ state: "submitted" });
    await on.agent("late", ["x"]);
    await on.boss.processIncomingMessages();
    expect(await on.boss.getTask(task.taskId)).toMatchObject({
      state: "assigned",
      agentId: "late",
      assignment: 1,
    });
    expect((await on.next("late")).content).toMatchObject({ task_id: task.taskId });
    expect(on.taskEvents()).toEqual(["submitted", "assigned"]);
  });

  it("places parked tasks by priority, then by arrival, and lets no need starve another", async () => {
    const impossible: string[] = [];
    for (let n = 0; n < 30; n++) {
      const task = { ...needsX, requiredCapabilities: ["nobody"], priority: 100 };
      impossible.push((await on.boss.assignTask(task)).taskId);
    }
    const order = [];
    for (const priority of ["LOW", "HIGH", "NORMAL", "HIGH"] as const) {
      order.push((await on.boss.assignTask({ ...needsX, priority })).taskId);
    }
    const other = await on.boss.assignTask({ ...needsX, requiredCapabilities: ["z"] });
    await on.agent("a", ["x"], 2);
    await on.agent("z", ["z"]);
    await on.boss.processIncomingMessages();
    const placed = await on.boss.listTasks({ state: "assigned" });
    expect(placed.map(({ taskId }) => taskId)).toEqual([order[1], order[3], other.taskId]);
    const stats = await on.boss.getCoordinationStats();
    expect(stats).toMatchObject({ parked: 32, assigned: 3, capped: false });
  });

  it("sends a message for every assignment, also of an id whose first task was forgotten", async () => {
    await on.agent("a", ["x"]);
    const taskId = "t".repeat(128);
    for (let n = 0; n < 2; n++) {
      const task = await on.boss.assignTask({ ...needsX, taskId });
      expect(task).toMatchObject({ state: "assigned", duplicate: false });
      await on.answer("a", { status: "completed" });
      await on.boss.processIncomingMessages();
      expect(await on.boss.getTask(taskId)).toMatchObject({ state: "completed" });
      await on.knex("outbox_tasks").where({ task_id: taskId }).del();
    }
  });

  it("assigns nothing where the message is not stored", async () => {
    await on.agent("a", ["x"]);
    const queue = new MessageQueueManager(on.knex);
    queue.sendMessages = async () => [{ messageId: "earlier", duplicate: true }];
    const boss = on.supervisor("boss", { queue });
    await expect(boss.assignTask({ ...needsX, taskId: "mine" })).rejects.toMatchObject({
      code: "ALREADY_EXISTS",
    });
    expect(await boss.getTask("mine")).toBeNull();
  });

  it("stores a task id once, also for eight callers at once", async () => {
    await on.agent("a", ["x"], 100);
    const first = await on.boss.assignTask({ ...needsX, taskId: "mine" });
    expect(first.duplicate).toBe(false);
    const again = await on.boss.assignTask({ taskType: "other", taskId: "mine" });
    expect(again).toMatchObject({ duplicate: true, taskType: "analyse", seq: first.seq });
    const many = await Promise.all(
      Array.from({ length: 8 }, (_, n) =>
        on.supervisor(`boss-${n}`).assignTask({ ...needsX, taskId: "contended" }),
      ),
    );
    expect(many.filter(({ duplicate }) => !duplicate)).toHaveLength(1);
    expect(new Set(many.map(({ seq }) => seq)).size).toBe(1);
    expect(await on.queue.getMessages("a", { limit: 10 })).toHaveLength(2);
  });

  it("never gives a supervisor its own tasks, but those of others", async () => {
    await on.agent("boss", ["x"], 20);
    expect(await on.boss.assignTask(needsX)).toMatchObject({ agentId: null });
    await on.boss.processIncomingMessages();
    const other = await on.supervisor("chief").assignTask(needsX);
    expect(other).toMatchObject({ agentId: "boss" });
    expect(await on.boss.getCoordinationStats()).toMatchObject({ parked: 1, assigned: 1 });
  });

  it("takes ids of 128 characters, whose message ids would be too long", async () => {
    await on.agent("a", ["x"]);
    const taskId = "t".repeat(128);
    const task = await on.boss.assignTask({ ...needsX, taskId });
    expect(task.messageId?.length).toBeLessThanOrEqual(128);
    await on.answer("a", { status: "completed" });
    await on.boss.processIncomingMessages();
    expect(await on.boss.getTask(taskId)).toMatchObject({ state: "completed" });
  });

  it("joins the caller's transaction", async () => {
    await on.agent("a", ["x"]);
    const rolledBack = await database
      .knex()
      .transaction(async (tx) => {
        const task = await on.boss.assignTask({ ...needsX, taskId: "t1" }, { tx });
        expect(task.agentId).toBe("a");
        throw new Error("no");
      })
      .catch((error: Error) => error.message);
    expect(rolledBack).toBe("no");
    expect(await on.boss.getTask("t1")).toBeNull();
    expect(await on.queue.getMessages("a")).toEqual([]);
    expect(on.taskEvents()).toEqual([]);
    await database.knex().transaction(async (tx) => {
      await on.boss.assignTask({ ...needsX, taskId: "t1" }, { tx });
      const second = await on.boss.assignTask({ ...needsX, taskId: "t2" }, { tx });
      expect(second.state).toBe("submitted");
    });
    expect(await on.boss.getTask("t1")).toMatchObject({ agentId: "a" });
    expect(await on.queue.getMessages("a")).toHaveLength(1);
    const { knex } = await database.fresh();
    await knex.transaction(async (tx) => {
      await expect(on.boss.assignTask(needsX, { tx })).rejects.toMatchObject({
        code: "FOREIGN_TRANSACTION",
      });
    });
  });

  it.runIf(database.dialect === "postgres")(
    "fails rather than overbook for a caller at REPEATABLE READ (SQLite has one writer, SQL Server no such snapshot)",
    async () => {
      await on.agent("a", ["x"]);
      let refused: unknown;
      const rollback = async (tx: Knex.Transaction) => {
        await tx("outbox_agents").select("agent_id");
        await on.boss.assignTask({ ...needsX, taskId: "first" });
        refused = await on.boss.assignTask(needsX, { tx }).catch((error: unknown) => error);
        throw new Error("rolled back");
      };
      const isolated = on.knex.transaction(rollback, { isolationLevel: "repeatable read" });
      await expect(isolated).rejects.toThrow("rolled back");
      expect(refused).toMatchObject({ code: "SERVICE_UNAVAILABLE", retryable: true });
      expect(await on.boss.listTasks()).toHaveLength(1);
    },
  );
});
