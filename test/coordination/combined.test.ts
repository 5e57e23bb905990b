import { setTimeout as sleep } from "node:timers/promises";
import { beforeEach, expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { wipe } from "./stage.ts";
import { taskStage } from "./task-stage.ts";

eachDatabase("what happens to one task at once", (database) => {
  let on: ReturnType<typeof taskStage>;
  beforeEach(async () => {
    await wipe(database);
    for (const table of ["handoffs", "task_inputs", "bids", "consumers", "limits"]) {
      await on
        ?.knex(`outbox_${table}`)
        .del()
        .catch(() => undefined);
    }
    on = taskStage(database);
  });

  it("the limit of a run ends with it: an offer that waits is no run", async () => {
    await on.agent("b", ["y"]);
    await on.run({
      tasks: {
        work: {
          timeoutMs: 60_000,
          run: async (_, { handOff }) => {
            await handOff({ to: "b", reason: "expertise_required" });
          },
        },
      },
    });
    const { taskId } = await on.boss.assignTask(on.needsX({ maxAssignments: 1 }));
    await until(async () => (await on.coordination.handoffs.list()).length === 1);
    await on.knex("outbox_tasks").whereNotNull("run_deadline_at").update({ run_deadline_at: 1 });
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(taskId)).toMatchObject({
      agentId: "a",
      assignment: 1,
      lastError: null,
    });
    const [offer] = await on.coordination.handoffs.list();
    expect(offer).toMatchObject({ state: "offered" });
  });

  it.each(["cancel", "pause"] as const)(
    "an agent that has only reported is told: %s",
    async (verb) => {
      await on.agent("a");
      const { taskId } = await on.boss.assignTask(on.needsX());
      const message = await on.next("a");
      await message.ack();
      await on.queue.sendMessage({
        fromAgent: "a",
        toAgent: "boss",
        messageType: "STATUS_UPDATE",
        content: { task_id: taskId, assignment: 1, status: "working", completion_percentage: 5 },
      });
      await on.boss.processIncomingMessages();
      await on.tasks[verb](taskId);
      const told = await on.next("a");
      expect(told).toMatchObject({
        messageType: "TASK_CANCEL",
        content: { task_id: taskId, assignment: 1 },
      });
    },
  );

  it("a paused task is not taken over", async () => {
    await on.agent("a");
    await on.agent("b", ["y"]);
    const { taskId } = await on.boss.assignTask(on.needsX());
    await on.knex("outbox_tasks").update({ state: "working", started_at: 1 });
    const { handoffs } = on.coordination;
    const offer = await handoffs.initiate({ from: "a", to: "b", taskId, reason: "r" });
    await on.tasks.pause(taskId);
    await expect(handoffs.accept(offer.handoffId, "b")).rejects.toMatchObject({
      code: "HANDOFF_NO_ROOM",
    });
    expect(await on.tasks.get(taskId)).toMatchObject({ agentId: "a", assignment: 1 });
    await on.tasks.resume(taskId);
    await handoffs.accept(offer.handoffId, "b");
    expect(await on.tasks.get(taskId)).toMatchObject({ agentId: "b", assignment: 2 });
  });

  it("an offer of a run that is over keeps the next run from offering nothing", async () => {
    await on.agent("a");
    await on.agent("b", ["y"]);
    const { handoffs } = on.coordination;
    const { taskId } = await on.boss.assignTask(on.needsX());
    const first = await handoffs.initiate({ from: "a", to: "b", taskId, reason: "r" });
    await on.silence("a");
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(taskId)).toMatchObject({ agentId: null });
    // It comes back, and is given the task again before anybody has looked at its offer.
    await on.agent("a");
    await on.coordination.placement.run();
    expect(await on.tasks.get(taskId)).toMatchObject({ agentId: "a", assignment: 2 });
    const second = await handoffs.initiate({ from: "a", to: "b", taskId, reason: "r" });
    expect(await handoffs.get(first.handoffId)).toMatchObject({ state: "withdrawn" });
    await expect(
      handoffs.initiate({ from: "a", to: "b", taskId, reason: "r" }),
    ).rejects.toMatchObject({ code: "HANDOFF_STATE" });
    await handoffs.accept(second.handoffId, "b");
    expect(await on.tasks.get(taskId)).toMatchObject({ agentId: "b", assignment: 3 });
  });

  it("a task that a lost agent is given anew at that very moment is taken from it as well", async () => {
    await on.agent("a");
    await on.agent("b", ["y"]);
    const { handoffs } = on.coordination;
    const { taskId } = await on.boss.assignTask(on.needsX());
    await (await on.next("a")).ack();
    const draft = { from: "a", to: "b", taskId, reason: "r" };
    const options = { gates: [], detached: true };
    const { handoffId } = await on.knex.transaction((tx) => handoffs.offer(tx, draft, options));
    await on.silence("a");
    const tx = await on.knex.transaction();
    await handoffs.reject(handoffId, "b", "no", { tx });
    // It waits for the task, which is the agent's in another assignment then.
    const sweep = on.supervisor("other").processIncomingMessages();
    await sleep(300);
    await tx.commit();
    await sweep;
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(taskId)).toMatchObject({ agentId: null, state: "submitted" });
  });

  it("the question of a run that is over does not end the run that goes on", async () => {
    await on.agent("a");
    const { taskId } = await on.boss.assignTask(on.needsX());
    await on.knex("outbox_tasks").update({ state: "working", started_at: 1 });
    const { inputId } = await on.tasks.requestInput(taskId, { prompt: "which?", dueMs: 60_000 });
    await on.silence("a");
    await on.agent("b");
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(taskId)).toMatchObject({ agentId: "b", assignment: 2 });
    await on.knex("outbox_task_inputs").update({ due_at: 1 });
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(taskId)).toMatchObject({ agentId: "b", state: "assigned" });
    expect((await on.tasks.answer(inputId, "this")).outcome).toBe("lapsed");
  });
});
