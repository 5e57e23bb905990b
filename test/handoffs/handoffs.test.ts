import { beforeEach, expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { failure } from "../support/queue.ts";
import { stage, wipe } from "./stage.ts";

eachDatabase("a handoff", (database) => {
  let on: ReturnType<typeof stage>;
  beforeEach(async () => {
    await wipe(database);
    on = stage(database);
    await on.agent("a");
  });

  const both = async () => {
    const assigned = await on.assigned();
    await on.agent("b");
    return assigned;
  };

  it("offers, is accepted and completes with its task", async () => {
    const { task, message } = await both();
    const offered = await on.offer({
      taskId: task.taskId,
      currentState: { page: 3 },
      context: { accomplished: "read it", dataState: "clean", warnings: ["slow disk"] },
      deliverables: { file_id: "abc" },
      actionsRequired: ["go on", "then tell"],
      priority: "high",
      estimatedEffort: "<5 seconds",
    });
    expect(offered).toMatchObject({
      state: "offered",
      duplicate: false,
      from: "a",
      to: "b",
      assignment: 1,
      currentState: { page: 3 },
      context: { accomplished: ["read it"], dataState: "clean", warnings: ["slow disk"] },
      actionsRequired: ["go on", "then tell"],
      priority: 30,
      dueAt: offered.createdAt + 300_000,
    });
    expect(await on.task(task.taskId)).toMatchObject({ agentId: "a", assignment: 1 });
    const offer = await on.next("b");
    expect(offer).toMatchObject({
      messageType: "AGENT_HANDOFF",
      fromAgent: "a",
      taskId: task.taskId,
      content: { handoff_id: offered.handoffId, current_state: { page: 3 }, priority: "HIGH" },
    });
    const accepted = await on.handoffs.accept(offered.handoffId, "b", { note: "mine" });
    expect(accepted).toMatchObject({ state: "accepted", note: "mine", assignment: 2 });
    await offer.ack();
    expect(await on.task(task.taskId)).toMatchObject({
      agentId: "b",
      previousAgentId: "a",
      assignment: 2,
      maxAssignments: 4,
      state: "assigned",
    });
    // The giver's lease is over, and what it answers changes nothing.
    expect(await message.ack()).toBe("gone");
    await message.reply({ task_id: task.taskId, assignment: 1, status: "completed", result: 1 });
    await on.sweep();
    expect(await on.task(task.taskId)).toMatchObject({ state: "assigned", agentId: "b" });
    expect(await on.waiting("a")).toEqual(["HANDOFF_ACCEPTED"]);

    const work = await on.next("b");
    expect(work).toMatchObject({
      messageType: "TASK_ASSIGNMENT",
      fromAgent: "boss",
      content: { assignment: 2, handoff: { current_state: { page: 3 }, state: "accepted" } },
    });
    await on.handoffs.activate(offered.handoffId, "b");
    await work.reply({ task_id: task.taskId, assignment: 2, status: "completed", result: 2 });
    await work.ack();
    await on.sweep();
    expect(await on.task(task.taskId)).toMatchObject({ state: "completed", result: 2 });
    expect(await on.handoffs.get(offered.handoffId)).toMatchObject({
      state: "completed",
      outcome: "completed",
      endedAt: expect.any(Number),
      startedAt: expect.any(Number),
    });
    expect(await on.waiting("a")).toEqual(["HANDOFF_ACCEPTED", "HANDOFF_COMPLETED"]);
    expect(on.agentEvents().filter((event) => event.startsWith("handoff_"))).toEqual([
      "handoff_offered",
      "handoff_accepted",
      "handoff_active",
      "handoff_completed",
    ]);
  });

  it("leaves the task with the giver when it is rejected or withdrawn", async () => {
    const { task, message } = await both();
    const first = await on.offer({ taskId: task.taskId });
    const rejected = await on.handoffs.reject(first.handoffId, "b", "not my field");
    expect(rejected).toMatchObject({ state: "rejected", note: "not my field" });
    await (await on.next("b")).ack();
    expect(await on.task(task.taskId)).toMatchObject({ agentId: "a", assignment: 1 });
    const told = await on.next("a");
    expect(told.content).toMatchObject({ state: "rejected", note: "not my field", task: "kept" });
    expect(await on.handoffs.reject(first.handoffId, "b", "again")).toMatchObject({
      note: "not my field",
    });

    const second = await on.offer({ taskId: task.taskId });
    await on.handoffs.withdraw(second.handoffId, "a", "found it");
    expect(await on.waiting("b")).toEqual([]);
    expect(await failure(() => on.handoffs.accept(second.handoffId, "b"))).toMatchObject({
      code: "HANDOFF_STATE",
      message: expect.stringContaining("withdrawn (found it)"),
    });
    const third = await on.offer({ taskId: task.taskId });
    await (await on.next("b")).ack();
    await on.handoffs.withdraw(third.handoffId, "a", "once more");
    expect(await on.waiting("b")).toEqual(["HANDOFF_WITHDRAWN"]);
    expect(await message.ack()).toBe("acked");
  });

  it("refuses what is not the giver's to give, or the target's to take", async () => {
    const { task } = await both();
    const code = async (run: () => unknown) => (await failure(run)).code;
    const taskId = task.taskId;
    expect(await code(() => on.offer({ taskId: "none" }))).toBe("UNKNOWN_TASK");
    expect(await code(() => on.offer({ taskId, from: "b", to: "a" }))).toBe("HANDOFF_NOT_OWNER");
    expect(await code(() => on.offer({ taskId, to: "a" }))).toBe("HANDOFF_NOT_OWNER");
    expect(await code(() => on.offer({ taskId, to: "nobody" }))).toBe("UNKNOWN_RECIPIENT");
    expect(await code(() => on.offer({ to: "b", requires: ["x"] }))).toBe("VALIDATION_FAILED");
    expect(await code(() => on.offer({ reason: "" }))).toBe("VALIDATION_FAILED");
    expect(await code(() => on.offer({ currentState: "x".repeat(70_000) }))).toBe(
      "PAYLOAD_TOO_LARGE",
    );
    expect(await code(() => on.offer({ to: undefined, requires: ["gold"] }))).toBe(
      "HANDOFF_NO_TARGET",
    );
    const offered = await on.offer({ taskId, handoffId: "h" });
    expect(await on.offer({ taskId, handoffId: "h" })).toMatchObject({
      duplicate: true,
      seq: offered.seq,
    });
    expect(await code(() => on.offer({ taskId }))).toBe("HANDOFF_STATE");
    expect(await code(() => on.handoffs.accept("h", "a"))).toBe("HANDOFF_NOT_OWNER");
    expect(await code(() => on.handoffs.accept("none", "b"))).toBe("UNKNOWN_HANDOFF");
    expect(await code(() => on.handoffs.withdraw("h", "b", "no"))).toBe("HANDOFF_NOT_OWNER");
    expect(await code(() => on.handoffs.activate("h", "b"))).toBe("HANDOFF_STATE");
    expect(await code(() => on.handoffs.complete("h", "b"))).toBe("HANDOFF_STATE");
    await on.handoffs.accept("h", "b");
    expect(await on.handoffs.accept("h", "b")).toMatchObject({ state: "accepted" });
    expect(await code(() => on.handoffs.reject("h", "b", "late"))).toBe("HANDOFF_STATE");
    expect(await code(() => on.handoffs.withdraw("h", "a", "late"))).toBe("HANDOFF_STATE");
    expect(await on.handoffs.list({ to: "b" })).toMatchObject([{ handoffId: "h" }]);
    expect(await on.handoffs.list({ from: "a", state: "offered" })).toEqual([]);
    expect(await on.handoffs.get("none")).toBeNull();
  });

  it("respects the target's places, and can wait for one", async () => {
    const { task } = await both();
    const other = await on.boss.assignTask({ taskType: "work", requiredCapabilities: ["x"] });
    expect(other.agentId).toBe("b");
    const offered = await on.offer({ taskId: task.taskId });
    const full = await failure(() => on.handoffs.accept(offered.handoffId, "b"));
    expect(full).toMatchObject({
      code: "HANDOFF_NO_ROOM",
      retryable: true,
      details: { agentId: "b", room: "full" },
    });
    expect(await on.task(task.taskId)).toMatchObject({ agentId: "a", assignment: 1 });
    const accepting = on.handoffs.accept(offered.handoffId, "b", { waitMs: 20_000 });
    await on.boss.cancelTask(other.taskId);
    expect(await accepting).toMatchObject({ state: "accepted" });
    // And the giver's place is free.
    expect((await on.registry.getAgent("a"))?.currentTasks).toBe(0);
    expect((await on.registry.getAgent("b"))?.currentTasks).toBe(1);
  });

  it("finds the best agent by what it can do", async () => {
    const { task } = await on.assigned();
    await on.agent("clerk", ["paper"]);
    await on.agent("expert", ["paper", "gold=3"]);
    const offered = await on.offer({ to: undefined, requires: ["gold >= 2"], taskId: task.taskId });
    expect(offered).toMatchObject({ to: "expert", requiredCapabilities: ["gold >= 2"] });
    await on.handoffs.accept(offered.handoffId, "expert");
    expect(await on.task(task.taskId)).toMatchObject({ agentId: "expert" });
  });

  it("goes back: by the target, with the task", async () => {
    const { task } = await both();
    const offered = await on.offer({ taskId: task.taskId });
    await on.handoffs.accept(offered.handoffId, "b");
    const theirs = await on.next("b", ["TASK_ASSIGNMENT"]);
    const returned = await on.handoffs.returnToSender(offered.handoffId, "cannot", {
      agentId: "b",
    });
    expect(returned).toMatchObject({ state: "returned", note: "cannot" });
    expect(await theirs.ack()).toBe("gone");
    expect(await on.task(task.taskId)).toMatchObject({
      agentId: "a",
      previousAgentId: "b",
      assignment: 3,
      state: "assigned",
      lastError: null,
    });
    const types = (await on.waiting("a")).sort();
    expect(types).toEqual(["HANDOFF_ACCEPTED", "HANDOFF_RETURNED", "TASK_ASSIGNMENT"]);
    const again = await on.next("a", ["TASK_ASSIGNMENT"]);
    expect(again.content).toMatchObject({ handoff: { state: "returned", note: "cannot" } });
    // The task can be handed over anew.
    expect(await on.offer({ taskId: task.taskId })).toMatchObject({ assignment: 3 });
  });

  it("goes back to anybody where the giver has no room", async () => {
    const { task } = await both();
    const offered = await on.offer({ taskId: task.taskId });
    await on.handoffs.accept(offered.handoffId, "b");
    expect(await on.boss.assignTask({ taskType: "w", requiredCapabilities: ["x"] })).toMatchObject({
      agentId: "a",
    });
    await on.agent("c");
    await on.handoffs.returnToSender(offered.handoffId, "cannot");
    await on.sweep();
    // Whoever has room, and at once: the one that gave it back is asked last.
    const placed = await until(async () => {
      const now = await on.task(task.taskId);
      return now.agentId !== null && now;
    });
    expect(placed).toMatchObject({
      agentId: "c",
      assignment: 3,
      previousAgentId: "b",
      lastError: { code: "TASK_HANDED_BACK", message: "cannot" },
    });
    const told = (await on.queue.getMessages("a")).map(({ content }) => content);
    expect(told).toContainEqual(expect.objectContaining({ state: "returned", task: "parked" }));
  });

  it("goes back by itself when nobody accepts in time", async () => {
    const { task, message } = await both();
    const offered = await on.offer({ taskId: task.taskId, dueMs: 1_000 });
    expect(offered.dueAt - offered.createdAt).toBe(1_000);
    await on.expire(offered.handoffId);
    expect(await failure(() => on.handoffs.accept(offered.handoffId, "b"))).toMatchObject({
      code: "HANDOFF_STATE",
    });
    await on.sweep();
    expect(await on.handoffs.get(offered.handoffId)).toMatchObject({
      state: "returned",
      note: "not accepted in time",
    });
    expect(await on.waiting("b")).toEqual([]);
    expect(await message.ack()).toBe("acked");
    expect((await on.next("a")).content).toMatchObject({ state: "returned", task: "kept" });
    expect(await on.task(task.taskId)).toMatchObject({ agentId: "a", assignment: 1 });
  });

  it("goes back to the giver when the target is lost", async () => {
    const { task } = await both();
    await on.agent("c");
    const offered = await on.offer({ taskId: task.taskId });
    await on.handoffs.accept(offered.handoffId, "b");
    await on.silence("b");
    await on.sweep();
    expect(await on.handoffs.get(offered.handoffId)).toMatchObject({ state: "returned" });
    expect(await on.task(task.taskId)).toMatchObject({ agentId: "a", assignment: 3 });
    // Without a task as well, also where somebody else marked the agent as lost.
    await on.agent("b");
    const talk = await on.offer({ contextId: "talk" });
    await on.handoffs.accept(talk.handoffId, "b");
    await on.sweep();
    expect(await on.handoffs.get(talk.handoffId)).toMatchObject({ state: "accepted" });
    await on.knex("outbox_agents").where({ agent_id: "b" }).update({ lost_at: 1 });
    await on.sweep();
    expect(await on.handoffs.get(talk.handoffId)).toMatchObject({ state: "returned" });
  });

  it("is acceptable as long as nobody else has the task of a giver who died", async () => {
    const { task } = await on.assigned();
    await on.agent("b", ["other"]);
    const offered = await on.offer({ taskId: task.taskId });
    await on.silence("a");
    await on.sweep();
    expect(await on.task(task.taskId)).toMatchObject({ agentId: null, assignment: 1 });
    expect(await on.handoffs.accept(offered.handoffId, "b")).toMatchObject({ state: "accepted" });
    expect(await on.task(task.taskId)).toMatchObject({ agentId: "b", assignment: 2 });
  });

  it("is withdrawn when its task ends or goes on without it", async () => {
    const { task, message } = await both();
    const first = await on.offer({ taskId: task.taskId });
    await message.reply({ task_id: task.taskId, assignment: 1, status: "completed", result: 1 });
    await on.sweep();
    expect(await on.handoffs.get(first.handoffId)).toMatchObject({
      state: "withdrawn",
      note: "its task has ended: completed",
    });
    expect(await on.waiting("b")).toEqual([]);

    const next = await on.boss.assignTask({ taskType: "w", requiredCapabilities: ["x"] });
    const from = next.agentId as string;
    const second = await on.offer({ taskId: next.taskId, from, to: from === "a" ? "b" : "a" });
    await on.agent("c");
    await on.silence(from);
    await on.silence(from === "a" ? "b" : "a");
    await on.sweep();
    expect(await on.task(next.taskId)).toMatchObject({ agentId: "c" });
    await on.sweep();
    expect(await on.handoffs.get(second.handoffId)).toMatchObject({ state: "withdrawn" });
  });

  it("passes on from hand to hand", async () => {
    const { task } = await both();
    const first = await on.offer({ taskId: task.taskId });
    await on.handoffs.accept(first.handoffId, "b");
    await on.agent("c", ["z"]);
    const second = await on.offer({ taskId: task.taskId, from: "b", to: "c" });
    await on.handoffs.accept(second.handoffId, "c");
    expect(await on.handoffs.get(first.handoffId)).toMatchObject({
      state: "completed",
      outcome: "handed_on",
    });
    expect(await on.task(task.taskId)).toMatchObject({ agentId: "c", assignment: 3 });
    await on.boss.cancelTask(task.taskId, "enough");
    expect(await on.handoffs.get(second.handoffId)).toMatchObject({
      state: "completed",
      outcome: "canceled",
    });
  });

  it("joins the caller's transaction, and is gone with it", async () => {
    const { task } = await both();
    const undone = on.knex.transaction(async (tx) => {
      await on.handoffs.initiate(
        { from: "a", to: "b", reason: "r", taskId: task.taskId, handoffId: "h" },
        { tx },
      );
      await on.handoffs.accept("h", "b", { tx });
      expect(await on.handoffs.get("h", { tx })).toMatchObject({ state: "accepted" });
      throw new Error("no");
    });
    await expect(undone).rejects.toThrow("no");
    expect(await on.handoffs.get("h")).toBeNull();
    expect(await on.task(task.taskId)).toMatchObject({ agentId: "a", assignment: 1 });
    expect(await on.waiting("b")).toEqual([]);
    expect(on.agentEvents().filter((event) => event.startsWith("handoff"))).toEqual([]);
  });

  it("is decided once, whoever asks at the same time", async () => {
    const { task } = await both();
    const offered = await on.offer({ taskId: task.taskId });
    const id = offered.handoffId;
    const answers = await Promise.allSettled([
      on.handoffs.accept(id, "b"),
      on.handoffs.reject(id, "b", "no"),
      on.handoffs.withdraw(id, "a", "mine"),
      on.handoffs.accept(id, "b"),
    ]);
    const states = new Set(
      answers.flatMap((answer) => (answer.status === "fulfilled" ? [answer.value.state] : [])),
    );
    expect(states.size).toBe(1);
    const [state] = states;
    expect(await on.handoffs.get(id)).toMatchObject({ state });
    expect((await on.task(task.taskId)).agentId).toBe(state === "accepted" ? "b" : "a");
  });

  it("is forgotten after the retention", async () => {
    await on.agent("b");
    const done = await on.offer();
    const live = await on.offer();
    await on.handoffs.withdraw(done.handoffId, "a", "no");
    await on.knex("outbox_handoffs").whereNotNull("ended_at").update({ ended_at: 1 });
    await on.sweep();
    expect(await on.handoffs.get(done.handoffId)).toBeNull();
    expect(await on.handoffs.get(live.handoffId)).toMatchObject({ state: "offered" });
  });
});
