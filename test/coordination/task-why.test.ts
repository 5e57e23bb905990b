import { beforeEach, expect, it, onTestFinished } from "vitest";
import { openOutbox } from "../../lib/outbox.ts";
import type { TaskInput } from "../../lib/protocol/tasks.ts";
import { runCli } from "../cli/support.ts";
import { eachDatabase } from "../support/databases.ts";
import { failure } from "../support/queue.ts";
import { stage, wipe } from "./stage.ts";

const needsX: TaskInput = {
  taskType: "analyse",
  taskId: "t",
  requiredCapabilities: ["x", "python >= 3.11"],
};

eachDatabase("why a task waits", (database) => {
  let on: ReturnType<typeof stage>;
  beforeEach(async () => {
    await wipe(database);
    on = stage(database);
  });
  const why = async (taskId = "t") => {
    const outbox = await openOutbox({ database: database.knex() });
    onTestFinished(() => outbox.close());
    return outbox.tasks.why(taskId);
  };
  const skilled = (agentId: string, maxConcurrentTasks = 1) =>
    on.agent(agentId, ["x", "python@3.12"], maxConcurrentTasks);

  it("for a capability that no agent has, with how many meet each requirement", async () => {
    await on.boss.assignTask(needsX);
    expect(await why()).toMatchObject({
      reason: "no_capable_agent",
      explanation: "no agent is registered",
    });
    for (const id of ["a", "b"]) await on.agent(id, ["x", "python@3.9"]);
    expect(await why()).toMatchObject({
      taskId: "t",
      state: "submitted",
      reason: "no_capable_agent",
      explanation:
        'of 2 agents none meets "python >= 3.11" (python >= 3.11: 0 agents; x: 2 agents)',
      remedy: expect.stringContaining("Register an agent"),
      details: {
        agents: 2,
        capable: 0,
        requirements: [
          { text: "python >= 3.11", agents: 0 },
          { text: "x", agents: 2 },
        ],
      },
    });
    await on.agent("c", ["python@3.12"]);
    expect((await why()).explanation).toContain(
      "each requirement is met by some, but all of them by none",
    );
  });

  it("for agents that are lost, drain, are full, or are its own supervisor", async () => {
    await on.boss.assignTask({ ...needsX, cost: 3 });
    await skilled("boss", 5);
    expect(await why()).toMatchObject({ reason: "only_its_supervisor" });
    await on.registry.deregisterAgent("boss");
    await skilled("a", 2);
    expect(await why()).toMatchObject({
      reason: "none_free",
      explanation: expect.stringContaining("a uses 0 of 2 slots"),
      remedy: "Its cost of 3 is more than any of them has: raise maxConcurrentTasks.",
    });
    await on.silence("a");
    expect(await why()).toMatchObject({ reason: "none_alive", details: { capable: 1, alive: 0 } });
    await skilled("a", 4);
    await on.registry.drainAgent("a");
    expect(await why()).toMatchObject({ reason: "none_taking", details: { alive: 1, taking: 0 } });
    await on.registry.resumeAgent("a");
    await on.boss.assignTask({ ...needsX, cost: 2, taskId: "other" });
    expect(await why()).toMatchObject({
      reason: "none_free",
      explanation: expect.stringContaining("a uses 2 of 4 slots"),
      details: { taking: 1, free: 0, cost: 3 },
    });
    await skilled("b", 3);
    expect(await why()).toMatchObject({
      reason: "about_to_be_assigned",
      details: { free: 1, candidates: ["b"] },
    });
    await on.boss.processIncomingMessages();
    expect(await why()).toMatchObject({ state: "assigned" });
  });

  it("for pauses, auctions, dependencies and questions", async () => {
    await skilled("a", 9);
    await on.boss.assignTasks([
      { ...needsX, taskId: "first" },
      { ...needsX, dependsOn: ["first"] },
    ]);
    expect(await why()).toMatchObject({
      reason: "waiting_on_dependency",
      explanation: "1 task must complete before it (first is assigned)",
      remedy: expect.stringContaining("tasks why first"),
      details: { dependsOn: [{ taskId: "first", state: "assigned" }] },
    });
    const set = (values: object) => on.knex("outbox_tasks").where({ task_id: "t" }).update(values);
    await set({ waits_for: 0, auction_ends_at: 9_000_000_000_000 });
    expect(await why()).toMatchObject({ reason: "in_auction" });
    await set({ paused_at: 1_000 });
    expect(await why()).toMatchObject({
      reason: "paused",
      explanation: "it is paused since 1970-01-01T00:00:01.000Z",
      remedy: expect.stringContaining("tasks resume t"),
    });
    await set({ paused_at: null, state: "input_required" });
    expect(await why()).toMatchObject({ reason: "waiting_on_input" });
  });

  it("once an agent has it: its message, its run, its loss, its end", async () => {
    await skilled("a", 9);
    await on.boss.assignTask(needsX);
    expect(await why()).toMatchObject({
      reason: "not_claimed",
      explanation: expect.stringContaining('given to "a" at'),
    });
    await on.queue.pause("a");
    expect(await why()).toMatchObject({
      reason: "mailbox_paused",
      details: { message: { state: "paused" } },
    });
    await on.queue.resume("a");
    await on.next("a");
    expect(await why()).toMatchObject({ reason: "claimed" });
    const begun = {
      state: "working",
      started_at: 1_000,
      progress: JSON.stringify({ percentage: 40, data: null }),
    };
    await on.knex("outbox_tasks").update(begun);
    expect(await why()).toMatchObject({
      reason: "working",
      explanation: '"a" works on it since 1970-01-01T00:00:01.000Z, 40 % done',
    });
    await on.silence("a");
    expect(await why()).toMatchObject({
      reason: "agent_lost",
      explanation: expect.stringContaining('"a" is lost'),
    });
    await on.boss.cancelTask("t", "no more");
    expect(await why()).toMatchObject({
      reason: "ended",
      explanation: expect.stringMatching(/^canceled at .*no more$/),
    });
    expect(await failure(() => why("nothing"))).toMatchObject({ code: "UNKNOWN_TASK" });
  });

  it("on the command line", async () => {
    await on.boss.assignTask(needsX);
    const told = await runCli(["tasks", "why", "t"], { database: database.url() });
    expect(told.code).toBe(0);
    expect(told.out).toContain("no agent is registered");
    const json = await runCli(["tasks", "why", "t", "--json"], { database: database.url() });
    expect(json.json()).toMatchObject({
      task_id: "t",
      reason: "no_capable_agent",
      details: { capable: 0 },
    });
    expect((await runCli(["tasks", "why", "nothing"], { database: database.url() })).code).not.toBe(
      0,
    );
  });
});
