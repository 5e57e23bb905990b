import { beforeEach, expect, it } from "vitest";
import { wipe } from "../coordination/stage.ts";
import { taskStage } from "../coordination/task-stage.ts";
import { eachDatabase } from "../support/databases.ts";

eachDatabase("an auction and what happens meanwhile", (database) => {
  let on: ReturnType<typeof taskStage>;
  beforeEach(async () => {
    await wipe(database);
    await database.knex()("outbox_bids").del();
    on = taskStage(database);
  });

  const auction = async (more: object = {}) => {
    for (const agentId of ["a", "b"]) await on.agent(agentId);
    return on.boss.assignTask(
      on.needsX({ strategy: "auction", auction: { timeLimitMs: 60_000 }, ...more }),
    );
  };
  const bids = async (taskId: string) =>
    (await on.coordination.auctions.bids(taskId)).map(({ agentId, state }) => [agentId, state]);
  const rejected = async () =>
    on.knex("outbox_messages").where({ message_type: "BID_REJECTED" }).orderBy("to_agent");

  it("tells who bid that the task has ended: its parent was canceled", async () => {
    const parent = await on.boss.assignTask(on.needsX({ requiredCapabilities: ["nobody"] }));
    const { taskId } = await auction({ parentTaskId: parent.taskId });
    await on.coordination.auctions.bid(taskId, "a", { amount: 3 });
    await on.tasks.cancel(parent.taskId);
    expect(await on.tasks.get(taskId)).toMatchObject({ state: "canceled", agentId: null });
    expect(await bids(taskId)).toEqual([
      ["a", "lost"],
      ["b", "called"],
    ]);
    expect(await rejected()).toMatchObject([{ to_agent: "a" }]);
    expect(await on.coordination.auctions.bid(taskId, "b", { amount: 1 })).toBe("closed");
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(taskId)).toMatchObject({ state: "canceled", agentId: null });
  });

  it("is not won by an agent that can do less by now", async () => {
    const { taskId } = await auction();
    await on.coordination.auctions.bid(taskId, "a", { amount: 1 });
    await on.agent("a", ["other"]);
    await on.coordination.auctions.bid(taskId, "b", { amount: 9 });
    expect(await on.tasks.get(taskId)).toMatchObject({ agentId: "b" });
    expect(await bids(taskId)).toEqual([
      ["a", "lost"],
      ["b", "won"],
    ]);
  });

  it("waits while its task is paused, and is awarded when it goes on", async () => {
    const { taskId } = await auction();
    await on.tasks.pause(taskId);
    for (const agentId of ["a", "b"]) {
      await on.coordination.auctions.bid(taskId, agentId, { amount: 5 });
    }
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(taskId)).toMatchObject({ agentId: null, state: "submitted" });
    await on.knex("outbox_tasks").update({ auction_ends_at: 1 });
    await on.tasks.resume(taskId);
    await on.boss.processIncomingMessages();
    expect((await on.tasks.get(taskId))?.agentId).not.toBeNull();
    expect(await rejected()).toHaveLength(1);
  });
});
