import { beforeEach, expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { wipe } from "./stage.ts";
import { taskStage } from "./task-stage.ts";

eachDatabase("tasks and mailboxes that are full", (database) => {
  let on: ReturnType<typeof taskStage>;
  beforeEach(async () => {
    await wipe(database);
    for (const table of ["handoffs", "bids"]) await database.knex()(`outbox_${table}`).del();
    on = taskStage(database);
  });

  /** Nothing more goes into this mailbox. */
  const fill = async (agentId: string) => {
    const { queue } = on.coordination.parts;
    await queue.sendMessage({ toAgent: agentId, messageType: "NOTE", content: {} });
    await queue.mailboxes.set(agentId, { maxDepth: 1 });
  };

  it("an end that the giver of a handoff hears of is no later for it", async () => {
    await on.agent("a");
    await on.agent("b", ["y"]);
    const { taskId } = await on.boss.assignTask(on.needsX());
    const { handoffs } = on.coordination;
    const { handoffId } = await handoffs.initiate({ from: "a", to: "b", taskId, reason: "r" });
    await handoffs.accept(handoffId, "b");
    await fill("a");
    const [message] = await on.queue.getMessages("b", { messageTypes: ["TASK_ASSIGNMENT"] });
    await message?.reply({ task_id: taskId, assignment: 2, status: "completed" });
    await message?.ack();
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(taskId)).toMatchObject({ state: "completed" });
    expect(await handoffs.get(handoffId)).toMatchObject({ state: "completed" });
    const told = await on.knex("outbox_messages").where({ message_type: "HANDOFF_COMPLETED" });
    expect(told).toHaveLength(1);
  });

  it("an agent that cannot be told to stop loses its tasks all the same", async () => {
    await on.agent("a", ["x"], 2);
    const late = await on.boss.assignTask(on.needsX({ deadlineMs: 60_000 }));
    const canceled = await on.boss.assignTask(on.needsX());
    for (const message of await on.queue.getMessages("a", { limit: 2 })) await message.ack();
    await on.knex("outbox_tasks").update({ state: "working", started_at: 1 });
    await fill("a");
    expect(await on.tasks.cancel(canceled.taskId)).toBe(true);
    await on.expire(late.taskId);
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(late.taskId)).toMatchObject({ state: "failed" });
    const told = await on.knex("outbox_messages").where({ message_type: "TASK_CANCEL" });
    expect(told).toHaveLength(2);
  });

  it("what an agent has done is not done again because its supervisor is behind", async () => {
    await fill("boss");
    let runs = 0;
    await on.run({ tasks: { work: () => ++runs } });
    const { taskId } = await on.boss.assignTask(on.needsX());
    const answer = () => on.knex("outbox_messages").where({ message_type: "TASK_RESPONSE" });
    await until(async () => (await answer()).length === 1);
    await on.knex("outbox_messages").update({ due_at: 1, visible_at: 1 });
    await until(async () => {
      await on.boss.processIncomingMessages();
      return (await on.tasks.get(taskId))?.state === "completed";
    });
    expect(runs).toBe(1);
  });

  it("an auction is won by the best bidder whose mailbox takes the task", async () => {
    for (const agentId of ["cheap", "dear"]) await on.agent(agentId);
    const { taskId } = await on.boss.assignTask(
      on.needsX({ strategy: "auction", auction: { timeLimitMs: 60_000 } }),
    );
    for (const agentId of ["cheap", "dear"]) await (await on.next(agentId)).ack();
    await fill("cheap");
    await on.coordination.auctions.bid(taskId, "cheap", { amount: 1 });
    await on.coordination.auctions.bid(taskId, "dear", { amount: 9 });
    expect(await on.tasks.get(taskId)).toMatchObject({ agentId: "dear", assignment: 1 });
    const bids = await on.coordination.auctions.bids(taskId);
    expect(bids.map(({ agentId, state }) => [agentId, state])).toEqual([
      ["cheap", "lost"],
      ["dear", "won"],
    ]);
  });

  it("a step of a sweep that fails is told, and holds up no other", async () => {
    on.coordination.parts.sweepSteps.unshift({
      sweep: () => Promise.reject(new Error("a step that always fails")),
    });
    const { taskId } = await on.boss.assignTask(on.needsX({ deadlineMs: 60_000 }));
    const parked = await on.boss.assignTask(on.needsX());
    await on.expire(taskId);
    await on.agent("a");
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(taskId)).toMatchObject({ state: "failed" });
    expect(await on.tasks.get(parked.taskId)).toMatchObject({ agentId: "a" });
    const told = on.events.filter((event) => event.type === "error");
    expect(told).toMatchObject([{ errorMessage: "a step that always fails" }]);
  });
});
