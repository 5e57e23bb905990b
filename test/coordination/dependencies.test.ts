import { beforeEach, expect, it } from "vitest";
import type { TaskInput } from "../../lib/protocol/tasks.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { failure } from "../support/queue.ts";
import { stage, wipe } from "./stage.ts";

const needsX: TaskInput = { taskType: "analyse", requiredCapabilities: ["x"] };

eachDatabase("tasks that depend on others", (database) => {
  let on: ReturnType<typeof stage>;
  beforeEach(async () => {
    await wipe(database);
    await database.knex()("outbox_task_dependencies").del();
    on = stage(database);
  });

  const task = (taskId: string, dependsOn: string[] = [], rest: Partial<TaskInput> = {}) => ({
    ...needsX,
    taskId,
    dependsOn,
    ...rest,
  });
  const stateOf = async (taskId: string) => (await on.boss.getTask(taskId))?.state;
  const finish = async (status: string) => {
    await on.answer("a", { status, retry_possible: false });
    await on.boss.processIncomingMessages();
  };

  it("get an agent when all of them have completed, in the order of the graph", async () => {
    await on.agent("a", ["x"], 10);
    const stored = await on.boss.assignTasks([
      task("end", ["left", "right"]),
      task("left", ["start"]),
      task("right", ["start", "start"]),
      task("start"),
    ]);
    expect(stored.map(({ taskId, agentId, waitsFor }) => [taskId, agentId, waitsFor])).toEqual([
      ["end", null, 2],
      ["left", null, 1],
      ["right", null, 1],
      ["start", "a", 0],
    ]);
    await finish("completed");
    expect([await stateOf("left"), await stateOf("right")]).toEqual(["assigned", "assigned"]);
    await finish("completed");
    expect(await on.boss.getTask("end")).toMatchObject({ state: "submitted", waitsFor: 1 });
    await finish("completed");
    expect(await on.boss.getTask("end")).toMatchObject({ state: "assigned", waitsFor: 0 });
    expect(await on.knex("outbox_task_dependencies")).toEqual([]);
    // What has completed is waited for by nobody.
    expect(await on.boss.assignTask(task("late", ["start"]))).toMatchObject({ agentId: "a" });
  });

  it.each(["failed", "rejected", "canceled"])(
    "fail with all that depend on them when one is %s, unless they run all the same",
    async (end) => {
      await on.agent("a", ["x"], 10);
      await on.boss.assignTask(task("start"));
      await on.boss.assignTasks([
        task("direct", ["start"]),
        task("far", ["direct"]),
        task("anyway", ["start"], { whenDependencyFails: "run" }),
        task("after", ["far"], { whenDependencyFails: "run" }),
      ]);
      if (end === "canceled") {
        await on.boss.cancelTask("start");
        await on.boss.processIncomingMessages();
      } else await finish(end);
      expect(await stateOf("start")).toBe(end);
      for (const [id, by] of [
        ["direct", "start"],
        ["far", "direct"],
      ] as const) {
        expect(await on.boss.getTask(id)).toMatchObject({
          state: "failed",
          lastError: { code: "DEPENDENCY_FAILED", message: expect.stringContaining(`"${by}"`) },
        });
      }
      expect([await stateOf("anyway"), await stateOf("after")]).toEqual(["assigned", "assigned"]);
      // Those that come later fail at once, also through each other.
      const late = await on.boss.assignTasks([task("b", ["a1"]), task("a1", ["start"]), task("c")]);
      expect(late.map(({ state }) => state)).toEqual(["failed", "failed", "assigned"]);
      const one = await on.boss.assignTask(task("d", ["start"]));
      expect(one).toMatchObject({ state: "failed", lastError: { code: "DEPENDENCY_FAILED" } });
      expect(
        await on.boss.assignTask(task("e", ["start"], { whenDependencyFails: "run" })),
      ).toMatchObject({
        agentId: "a",
      });
    },
  );

  it("name tasks that are there, and never go in a circle", async () => {
    expect(await failure(() => on.boss.assignTask(task("t", ["nothing"])))).toMatchObject({
      code: "UNKNOWN_TASK",
      details: { taskId: "nothing" },
    });
    const circle = [task("a", ["c"]), task("b", ["a"]), task("c", ["b"])];
    expect(await failure(() => on.boss.assignTasks(circle))).toMatchObject({
      code: "VALIDATION_FAILED",
      message: expect.stringContaining("depends on itself"),
    });
    expect(await failure(() => on.boss.assignTasks([task("a", ["a"])]))).toMatchObject({
      code: "VALIDATION_FAILED",
    });
    expect((await failure(() => on.boss.assignTask(task("a", ["a"])))).code).toBe(
      "VALIDATION_FAILED",
    );
    expect(await on.boss.listTasks()).toEqual([]);
    const chain = Array.from({ length: 1_000 }, (_, n) =>
      task(`n${n}`, n === 0 ? [] : [`n${n - 1}`]),
    );
    expect(await on.boss.assignTasks(chain.reverse())).toHaveLength(1_000);
  });

  it("fail all, also where one commit would be too large: a long chain, and many that wait for one", async () => {
    await on.boss.assignTask(task("start"));
    const wide = Array.from({ length: 450 }, (_, n) => task(`wide-${n}`, ["start"]));
    const long = Array.from({ length: 450 }, (_, n) =>
      task(`long-${n}`, [n === 0 ? "start" : `long-${n - 1}`]),
    );
    await on.boss.assignTasks([...wide, ...long]);
    await on.boss.cancelTask("start");
    await until(
      async () => (await on.boss.listTasks({ state: "failed", limit: 1_000 })).length === 900,
      { timeoutMs: 100_000 },
    );
    expect(await on.knex("outbox_task_dependencies")).toEqual([]);
  });

  it("are found by a sweep when a crash came in between", async () => {
    await on.agent("a", ["x"], 10);
    await on.boss.assignTasks([task("good"), task("bad")]);
    await on.boss.assignTasks([
      task("t", ["good"]),
      task("u", ["bad"]),
      task("gone", ["good", "bad"]),
    ]);
    // As if the process had died after the commit that ended them, with more to do.
    await on
      .knex("outbox_tasks")
      .where({ task_id: "good" })
      .update({ state: "completed", finished_at: Date.now() });
    await on
      .knex("outbox_tasks")
      .where({ task_id: "bad" })
      .update({ state: "failed", finished_at: Date.now() });
    await on
      .knex("outbox_tasks")
      .where({ task_id: "gone" })
      .update({ state: "canceled", finished_at: Date.now() });
    await on.boss.processIncomingMessages();
    expect([await stateOf("t"), await stateOf("u"), await stateOf("gone")]).toEqual([
      "assigned",
      "failed",
      "canceled",
    ]);
    expect(await on.knex("outbox_task_dependencies")).toEqual([]);
  });

  it("hang never, though their dependency ends in the moment in which they are stored", async () => {
    await on.agent("a", ["x"], 200);
    for (let round = 0; round < 15; round++) {
      const first = `first-${round}`;
      const second = `second-${round}`;
      await on.boss.assignTasks([task(first), task(second)]);
      const other = on.supervisor(`other-${round}`);
      await Promise.all([
        on.boss.cancelTask(first),
        other.assignTask(task(`x-${round}`, [second, first], { whenDependencyFails: "run" })),
        other.assignTasks([task(`y-${round}`, [first, second], { whenDependencyFails: "run" })]),
        on.supervisor().cancelTask(second),
      ]);
    }
    await on.boss.processIncomingMessages();
    const waiting = (await on.boss.listTasks({ limit: 1_000 })).filter(
      ({ waitsFor }) => waitsFor > 0,
    );
    expect(waiting).toEqual([]);
    expect(await on.knex("outbox_task_dependencies")).toEqual([]);
  });
});
