import { beforeEach, describe, expect, it } from "vitest";
import { Coordination } from "../../lib/coordination/coordination.ts";
import { distribute, type Seat } from "../../lib/coordination/placing/distribute.ts";
import { SupervisorCoordinator } from "../../lib/coordination/supervisor.ts";
import { openOutbox } from "../../lib/outbox.ts";
import type { TaskInput } from "../../lib/protocol/tasks.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { stage, wipe } from "./stage.ts";

const seat = (agentId: string, rest: Partial<Seat> = {}): Seat => ({
  agentId,
  maxConcurrentTasks: 4,
  used: 0,
  weight: 1,
  deprecated: false,
  lastAssignedAt: 0,
  cardHash: null,
  score: 0,
  ...rest,
});
const loads = (count: number) =>
  Array.from({ length: count }, () => ({ owner: "boss", avoid: null as string | null }));

describe("who of several agents gets which task", () => {
  const least = { cost: 1, strategy: "leastLoaded" } as const;

  it("fills the least loaded first, and never beyond the slots", () => {
    const seats = [seat("a", { used: 2 }), seat("b"), seat("c", { maxConcurrentTasks: 1 })];
    const agents = distribute(loads(10), seats, least);
    expect(agents.slice(0, 3)).toEqual(["b", "c", "b"]);
    const count = (id: string | undefined) => agents.filter((agent) => agent === id).length;
    expect([count("a"), count("b"), count("c"), count(undefined)]).toEqual([2, 4, 1, 3]);
    expect(distribute(loads(4), [seat("a")], { ...least, cost: 3 })).toEqual([
      "a",
      undefined,
      undefined,
      undefined,
    ]);
  });

  it("asks who failed a task last, and its own supervisor never", () => {
    const seats = [seat("a"), seat("boss", { maxConcurrentTasks: 9 })];
    const tasks = [
      { owner: "boss", avoid: "a" },
      { owner: "chief", avoid: "a" },
    ];
    expect(distribute(tasks, seats, least)).toEqual(["a", "boss"]);
  });

  it("prefers what meets more preferences, and deprecated ones last", () => {
    const seats = [
      seat("old", { deprecated: true, score: 9 }),
      seat("plain"),
      seat("good", { score: 2, used: 2 }),
    ];
    expect(distribute(loads(4), seats, least)).toEqual(["good", "good", "plain", "plain"]);
  });

  it("goes round, sticks, and draws", () => {
    const seats = [
      seat("a", { lastAssignedAt: 3 }),
      seat("b", { lastAssignedAt: 1, used: 3 }),
      seat("c"),
    ];
    expect(distribute(loads(4), seats, { cost: 1, strategy: "roundRobin" })).toEqual([
      "c",
      "b",
      "a",
      "c",
    ]);
    const sticky = distribute(loads(6), seats, { cost: 1, strategy: "sticky" });
    expect(sticky).toEqual(["a", "a", "a", "a", "b", "c"]);
    const weighted = [seat("light"), seat("heavy", { weight: 3 })];
    const draw = (at: number) =>
      distribute(loads(1), weighted, { cost: 1, strategy: "weighted" }, () => at);
    expect([draw(0), draw(0.24), draw(0.26), draw(0.99)]).toEqual([
      ["light"],
      ["light"],
      ["heavy"],
      ["heavy"],
    ]);
  });
});

const needsX: TaskInput = { taskType: "analyse", requiredCapabilities: ["x"] };

eachDatabase("placing many tasks at once", (database) => {
  let on: ReturnType<typeof stage>;
  beforeEach(async () => {
    await wipe(database);
    on = stage(database);
  });

  const agentsOf = async () =>
    Object.fromEntries(
      (await on.boss.listTasks({ limit: 1_000 })).map(({ taskId, agentId }) => [taskId, agentId]),
    );

  it("counts what tasks cost, one by one, in batches and when parked", async () => {
    await on.agent("a", ["x"], 10);
    expect(await on.boss.assignTask({ ...needsX, cost: 7 })).toMatchObject({
      agentId: "a",
      cost: 7,
    });
    expect(await on.boss.assignTask({ ...needsX, cost: 4 })).toMatchObject({ agentId: null });
    const batch = await on.boss.assignTasks([2, 2, 1].map((cost) => ({ ...needsX, cost })));
    expect(batch.map(({ agentId }) => agentId)).toEqual(["a", null, "a"]);
    expect(await on.registry.getAgent("a")).toMatchObject({ usedSlots: 10, currentTasks: 3 });
    await on.boss.processIncomingMessages();
    expect(await on.boss.getCoordinationStats()).toMatchObject({ parked: 2, assigned: 3 });
    await on.agent("b", ["x"], 5);
    await on.boss.processIncomingMessages();
    // Which of the two came first is by arrival: the one of cost 4 leaves no room for the other.
    expect(await on.boss.getCoordinationStats()).toMatchObject({ parked: 1, assigned: 4 });
    expect(await on.registry.getAgent("b")).toMatchObject({ usedSlots: 4 });
  });

  it("stores, assigns and sends a batch in one commit, in the order given", async () => {
    for (const id of ["a", "b", "c"]) await on.agent(id, id === "c" ? ["y"] : ["x"], 3);
    const needsY = { ...needsX, requiredCapabilities: ["y"] };
    const tasks = Array.from({ length: 12 }, (_, n) => ({
      ...(n % 3 === 0 ? needsY : needsX),
      taskId: `t${n}`,
    }));
    await expect(
      on.knex.transaction(async (tx) => {
        expect(await on.boss.assignTasks(tasks, { tx })).toHaveLength(12);
        throw new Error("no");
      }),
    ).rejects.toThrow("no");
    expect(await on.boss.listTasks()).toEqual([]);
    expect(on.taskEvents()).toEqual([]);
    const stored = await on.boss.assignTasks(tasks);
    expect(stored.map(({ taskId }) => taskId)).toEqual(tasks.map(({ taskId }) => taskId));
    const count = (id: string | null) => stored.filter(({ agentId }) => agentId === id).length;
    expect([count("a"), count("b"), count("c"), count(null)]).toEqual([3, 3, 3, 3]);
    for (const id of ["a", "b", "c"]) {
      const messages = await on.queue.getMessages(id, { limit: 10 });
      const own = stored.filter(({ agentId }) => agentId === id);
      expect(messages.map(({ messageId }) => messageId).sort()).toEqual(
        own.map(({ messageId }) => messageId).sort(),
      );
    }
    expect(on.taskEvents().filter((event) => event === "submitted")).toHaveLength(12);
    expect(on.taskEvents().filter((event) => event === "assigned")).toHaveLength(9);
    const again = await on.boss.assignTasks([...tasks, { ...needsX, taskId: "new" }]);
    expect(again.map(({ duplicate }) => duplicate)).toEqual([...tasks.map(() => true), false]);
    expect(await on.boss.assignTasks([])).toEqual([]);
    await expect(
      on.boss.assignTasks([
        { ...needsX, taskId: "z" },
        { ...needsX, taskId: "z" },
      ]),
    ).rejects.toMatchObject({
      code: "VALIDATION_FAILED",
      message: expect.stringContaining('"z" is there twice'),
    });
    await expect(on.boss.assignTasks([needsX, { taskType: 3 } as never])).rejects.toThrow(
      "tasks.1.taskType",
    );
  });

  it("stores an id once when eight callers bring batches with it at once", async () => {
    await on.agent("a", ["x"], 100);
    const tasks = Array.from({ length: 20 }, (_, n) => ({ ...needsX, taskId: `shared-${n}` }));
    const answers = await Promise.all(
      Array.from({ length: 8 }, (_, n) =>
        on.supervisor("boss").assignTasks(n % 2 === 0 ? tasks : [...tasks].reverse()),
      ),
    );
    const fresh = answers.flat().filter(({ duplicate }) => !duplicate);
    expect(new Set(fresh.map(({ taskId }) => taskId)).size).toBe(20);
    expect(fresh).toHaveLength(20);
    for (const answer of answers) expect(answer).toHaveLength(20);
    await on.boss.processIncomingMessages();
    const messages = await on.queue.getMessages("a", { limit: 100 });
    expect(new Set(messages.map(({ taskId }) => taskId)).size).toBe(20);
    expect(messages).toHaveLength(20);
  });

  it("places the most urgent first: priority, then deadline, then arrival, also between needs", async () => {
    // Nothing looks in the background: a look that began before an agent came may find the second task first.
    const { knex } = await database.fresh();
    const quiet = new Coordination(knex, { prefix: "outbox_" });
    await quiet.close();
    const boss = new SupervisorCoordinator("boss", knex, { coordination: quiet });
    const needsXy = { ...needsX, requiredCapabilities: ["x", "y"] };
    const inOrder = [
      { ...needsXy, priority: 90, taskId: "first" },
      { ...needsX, priority: 80, deadlineMs: 50_000, taskId: "second" },
      { ...needsXy, priority: 80, deadlineMs: 90_000, taskId: "third" },
      { ...needsX, priority: 80, taskId: "fourth" },
      { ...needsX, priority: 10, deadlineMs: 40_000, taskId: "fifth" },
    ];
    await boss.assignTasks([...inOrder].reverse());
    for (let n = 1; n <= inOrder.length; n++) {
      await quiet.registry.registerAgent({
        agentId: "a",
        capabilities: ["x", "y"],
        maxConcurrentTasks: n,
      });
      await boss.processIncomingMessages();
      const placed = await boss.listTasks({ state: "assigned" });
      expect(placed.map(({ taskId }) => taskId).sort()).toEqual(
        inOrder
          .slice(0, n)
          .map(({ taskId }) => taskId)
          .sort(),
      );
    }
  });

  it("lets nobody's tasks be held up by those of a supervisor that could only do them itself", async () => {
    await on.agent("boss", ["x"], 20);
    await on.boss.assignTasks(Array.from({ length: 5 }, () => ({ ...needsX, priority: 90 })));
    await on.knex("outbox_agents").update({ status: "draining" });
    const other = await on.supervisor("chief").assignTask(needsX);
    expect(other.agentId).toBeNull();
    await on.knex("outbox_agents").update({ status: "active" });
    await on.boss.processIncomingMessages();
    expect(await on.boss.getTask(other.taskId)).toMatchObject({ agentId: "boss" });
    expect(await on.boss.getCoordinationStats()).toMatchObject({ parked: 5 });
  });

  it("fails the one task that cannot be sent, and places the others of its batch", async () => {
    const list = await on.boss.assignTasks(Array.from({ length: 4 }, () => ({ ...needsX })));
    const bad = list[1]?.taskId as string;
    await on
      .knex("outbox_tasks")
      .where({ task_id: bad })
      .update({ progress: JSON.stringify({ percentage: 1, data: "x".repeat(1_100_000) }) });
    await on.agent("a", ["x"], 10);
    for (let n = 0; n < 2; n++) await on.boss.processIncomingMessages();
    expect(await on.boss.getTask(bad)).toMatchObject({
      state: "failed",
      lastError: { code: "TASK_UNSENDABLE" },
    });
    expect(await on.boss.getCoordinationStats()).toMatchObject({ parked: 0, assigned: 3 });
  });

  it("leaves tasks alone that are paused, or whose auction is open", async () => {
    const tasks = ["paused", "auctioned", "plain"].map((taskId) => ({ ...needsX, taskId }));
    await on.boss.assignTasks(tasks);
    await on.knex("outbox_tasks").where({ task_id: "paused" }).update({ paused_at: 1 });
    await on
      .knex("outbox_tasks")
      .where({ task_id: "auctioned" })
      .update({ auction_ends_at: 9_000_000_000_000 });
    await on.agent("a", ["x"], 10);
    await on.boss.processIncomingMessages();
    expect(await agentsOf()).toEqual({ paused: null, auctioned: null, plain: "a" });
  });

  describe("without any sweep", () => {
    const opened = async () => {
      const outbox = await openOutbox({ database: database.url() });
      return { outbox, boss: outbox.supervisor("boss") };
    };

    it("gives parked tasks to an agent that registers, resumes or frees up in this process", async () => {
      const { outbox, boss } = await opened();
      try {
        const [first, second] = await boss.assignTasks([needsX, needsX]);
        await outbox.agents.registerAgent({ agentId: "a", capabilities: ["x"] });
        const one = await until(async () => (await boss.getTask(first?.taskId as string))?.agentId);
        expect(one).toBe("a");
        expect(await boss.getTask(second?.taskId as string)).toMatchObject({ agentId: null });
        await boss.cancelTask(first?.taskId as string);
        await until(async () => (await boss.getTask(second?.taskId as string))?.agentId === "a");
        await outbox.agents.drainAgent("a");
        const third = await boss.assignTask(needsX);
        await boss.cancelTask(second?.taskId as string);
        await outbox.agents.resumeAgent("a");
        await until(async () => (await boss.getTask(third.taskId))?.agentId === "a");
        // Another capability.
        const other = await boss.assignTask({ ...needsX, requiredCapabilities: ["new"] });
        await outbox.agents.registerAgent({
          agentId: "a",
          capabilities: ["x", "new"],
          maxConcurrentTasks: 2,
        });
        await until(async () => (await boss.getTask(other.taskId))?.agentId === "a");
      } finally {
        await outbox.close();
      }
    });

    it("leaves nothing running when it is closed", async () => {
      const { outbox, boss } = await opened();
      await boss.assignTasks(Array.from({ length: 50 }, () => needsX));
      await outbox.agents.registerAgent({
        agentId: "a",
        capabilities: ["x"],
        maxConcurrentTasks: 100,
      });
      await outbox.close();
      const before = await agentsOf();
      await new Promise((resolve) => setTimeout(resolve, 50));
      expect(await agentsOf()).toEqual(before);
    });
  });
});
