import { beforeEach, expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { wipe } from "./stage.ts";
import { taskStage } from "./task-stage.ts";

eachDatabase("an answer that its supervisor has not read yet", (database) => {
  let on: ReturnType<typeof taskStage>;
  beforeEach(async () => {
    await wipe(database);
    await database.knex()("outbox_handoffs").del();
    on = taskStage(database);
  });

  /** A task that the agent has done, and answered in the mailbox of "boss", which is away. */
  const answered = async (
    agentId = "a",
    answer: object = { status: "completed", result: "done" },
  ) => {
    await on.agent(agentId);
    const task = await on.boss.assignTask(on.needsX());
    await on.knex("outbox_tasks").update({ state: "working", started_at: 1 });
    await answers(agentId, answer);
    return task.taskId;
  };
  const answers = async (agentId: string, answer: object) => {
    const [message] = await on.queue.getMessages(agentId, { messageTypes: ["TASK_ASSIGNMENT"] });
    if (message === undefined) throw new Error(`nothing waits for ${agentId}`);
    const { task_id, assignment } = message.content as Record<string, unknown>;
    await message.reply({ task_id, assignment, ...answer });
    await message.ack();
  };
  /** Another supervisor looks after what no message tells. */
  const sweep = () =>
    on.supervisor("other", { coordination: on.coordination }).processIncomingMessages();
  const completes = async (taskId: string) => {
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(taskId)).toMatchObject({ state: "completed", result: "done" });
  };

  it("counts though its agent is lost meanwhile", async () => {
    const taskId = await answered();
    await on.agent("b");
    await on.silence("a");
    await sweep();
    expect(await on.tasks.get(taskId)).toMatchObject({ agentId: "a", assignment: 1 });
    // It is told as lost all the same, and once.
    await sweep();
    const lost = on.events.filter((event) => event.type === "agent" && event.event === "lost");
    expect(lost).toHaveLength(1);
    await completes(taskId);
  });

  it("counts though the limit of its run passes meanwhile", async () => {
    const taskId = await answered();
    await on.knex("outbox_tasks").update({ run_deadline_at: 1 });
    await sweep();
    expect(await on.tasks.get(taskId)).toMatchObject({ agentId: "a", runDeadlineAt: null });
    await completes(taskId);
  });

  it("counts though the task was paused meanwhile", async () => {
    const taskId = await answered();
    await on.tasks.pause(taskId);
    await on.knex("outbox_tasks").update({ paused_at: 1 });
    // The sweep of runs is each supervisor's own.
    await sweep();
    await completes(taskId);
  });

  it("counts though the task is on offer", async () => {
    const { handoffs } = on.coordination;
    await on.agent("b", ["y"]);
    await on.agent("a");
    const { taskId } = await on.boss.assignTask(on.needsX());
    const { handoffId } = await handoffs.initiate({ from: "a", to: "b", taskId, reason: "r" });
    await answers("a", { status: "completed", result: "done" });
    await expect(handoffs.accept(handoffId, "b")).rejects.toMatchObject({ code: "HANDOFF_STATE" });
    await completes(taskId);
    expect(await handoffs.get(handoffId)).toMatchObject({ state: "withdrawn" });
  });

  it("counts though what was handed over is to be given back", async () => {
    const { handoffs } = on.coordination;
    await on.agent("b", ["y"]);
    await on.agent("a");
    const { taskId } = await on.boss.assignTask(on.needsX());
    const { handoffId } = await handoffs.initiate({ from: "a", to: "b", taskId, reason: "r" });
    await handoffs.accept(handoffId, "b");
    await answers("b", { status: "completed", result: "done" });
    await expect(handoffs.returnToSender(handoffId, "no")).rejects.toMatchObject({
      code: "HANDOFF_STATE",
    });
    await on.silence("b");
    await sweep();
    expect(await on.tasks.get(taskId)).toMatchObject({ agentId: "b", assignment: 2 });
    await completes(taskId);
    expect(await handoffs.get(handoffId)).toMatchObject({ state: "completed" });
  });

  it("counts though it is a failure", async () => {
    const taskId = await answered("a", { status: "failed", retry_possible: false });
    await on.agent("b");
    await on.silence("a");
    await sweep();
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(taskId)).toMatchObject({ state: "failed", assignment: 1 });
  });

  it("is not waited for when it vanished after its agent was lost", async () => {
    const taskId = await answered();
    await on.agent("b");
    await on.silence("a");
    await sweep();
    expect(await on.tasks.get(taskId)).toMatchObject({ agentId: "a" });
    await on.knex("outbox_messages").where({ to_agent: "boss" }).del();
    await sweep();
    expect(await on.tasks.get(taskId)).toMatchObject({ agentId: "b", assignment: 2 });
  });

  it("is not waited for when it was taken back or died", async () => {
    const taskId = await answered();
    await on.agent("b");
    await on.silence("a");
    await on.knex("outbox_messages").where({ to_agent: "boss" }).del();
    await sweep();
    await until(async () => (await on.tasks.get(taskId))?.agentId === "b");
  });
});
