import { beforeEach, expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { spawnScript, until } from "../support/processes.ts";
import { TIMED } from "../support/timed.ts";
import { wipe } from "./stage.ts";
import { taskStage } from "./task-stage.ts";

const AGENT = "test/coordination/programs/agent.ts";
/** Heartbeats and a lease that a machine busy with other things does not miss. */
const PATIENT = ["10000", "60000"] as const;
const ASKING = "test/coordination/programs/asking-agent.ts";

eachDatabase("tasks in processes of their own", (database) => {
  let on: ReturnType<typeof taskStage>;
  beforeEach(async () => {
    await wipe(database);
    await database.knex()("outbox_task_inputs").del();
    on = taskStage(database);
  });

  it(
    "are stopped by a cancel within two seconds, also while all places are taken",
    TIMED,
    async () => {
      const agent = spawnScript(AGENT, [database.url(), "p", ...PATIENT]);
      await agent.message();
      const tasks = [
        await on.boss.assignTask(on.needsX({ taskType: "slow" })),
        await on.boss.assignTask(on.needsX({ taskType: "slow" })),
      ];
      await agent.message();
      await agent.message();
      const since = performance.now();
      await on.tasks.cancel(String(tasks[1]?.taskId));
      expect(await agent.message()).toEqual({ aborted: tasks[1]?.taskId });
      if (database.dialect !== "mssql") expect(performance.now() - since).toBeLessThan(2_000);
      expect(await on.tasks.get(String(tasks[0]?.taskId))).toMatchObject({ state: "working" });
      // Its place is free again.
      const quick = await on.boss.assignTask(on.needsX({ taskType: "quick" }));
      expect(await agent.message()).toMatchObject({ began: quick.taskId });
    },
  );

  it("are stopped in a frozen process as soon as it wakes up", async () => {
    const agent = spawnScript(AGENT, [database.url(), "p", ...PATIENT]);
    await agent.message();
    const { taskId } = await on.boss.assignTask(on.needsX({ taskType: "slow" }));
    await agent.message();
    agent.kill("SIGSTOP");
    await on.tasks.cancel(taskId);
    agent.kill("SIGCONT");
    expect(await agent.message()).toEqual({ aborted: taskId });
    expect(await on.tasks.get(taskId)).toMatchObject({ state: "canceled" });
  });

  it.each([
    ["while it waits with its place", "60000"],
    ["after it gave its place away", "0"],
  ])("ask nothing twice when their agent is killed %s", async (_when, waitMs) => {
    on.supervise();
    const doomed = spawnScript(ASKING, [database.url(), "p", waitMs]);
    await doomed.message();
    const { taskId } = await on.boss.assignTask(on.needsX({ taskType: "ask", maxAssignments: 5 }));
    expect(await doomed.message()).toEqual({ began: 1 });
    await until(async () => (await on.tasks.inputs()).length === 1);
    doomed.kill("SIGKILL");
    const [first] = await on.tasks.inputs();
    await on.tasks.answer(String(first?.inputId), 1);
    const other = spawnScript(ASKING, [database.url(), "q", waitMs]);
    await other.message();
    await until(async () => (await on.tasks.inputs()).some(({ prompt }) => prompt === "Second?"), {
      timeoutMs: 20_000,
    });
    const [second] = await on.tasks.inputs();
    await on.tasks.answer(String(second?.inputId), 2);
    expect(await on.tasks.wait(taskId, { timeoutMs: 60_000 })).toMatchObject({
      state: "completed",
      result: { first: 1, second: 2 },
    });
    expect(await on.tasks.inputs({ all: true })).toHaveLength(2);
    const sent = await on.queue.getMessages("boss", { messageTypes: ["INPUT_REQUEST"] });
    const handled = await on.knex("outbox_archive").where({ message_type: "INPUT_REQUEST" });
    expect(sent.length + handled.length).toBe(2);
  });
});
