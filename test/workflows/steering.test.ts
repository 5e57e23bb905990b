import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { failure } from "../support/queue.ts";
import { boom, emptied, stage, statesOf, task, undoable } from "./stage.ts";

eachDatabase("steering workflows", (database) => {
  const on = () => emptied(database.knex());

  it("cancel the tasks of steps that are under way", async () => {
    const { start, work, read, workflows, boss } = await on();
    const { workflowId } = await start([undoable("a"), task("b")]);
    await work();
    await boss.processIncomingMessages();
    const canceled = await workflows.cancel(workflowId, { reason: "no longer needed" });
    expect(canceled).toMatchObject({
      state: "canceled",
      failure: { code: "WORKFLOW_CANCELED", message: "no longer needed" },
    });
    expect(statesOf(canceled)).toEqual({ a: "completed", b: "canceled" });
    const taskId = canceled.steps[1]?.taskId ?? "";
    expect(await boss.getTask(taskId)).toMatchObject({ state: "canceled" });
    expect(await workflows.cancel(workflowId)).toEqual(canceled);
    expect((await read(workflowId)).steps[0]?.compensation).toBeNull();
  });

  it("cancel with compensation", async () => {
    const { start, work, round, settle, read, workflows } = await on();
    const { workflowId } = await start([undoable("a"), task("b")]);
    await work();
    await round();
    expect(await workflows.cancel(workflowId, { compensate: true })).toMatchObject({
      state: "compensating",
    });
    await settle();
    expect(await read(workflowId)).toMatchObject({
      state: "compensated",
      failure: { code: "WORKFLOW_CANCELED" },
    });
  });

  it("begin nothing while paused, and keep what comes in", async () => {
    const { start, settle, read, workflows } = await on();
    const { workflowId } = await start([task("a"), task("b")]);
    expect(await workflows.pause(workflowId)).toMatchObject({ state: "paused" });
    await settle();
    expect(statesOf(await read(workflowId))).toEqual({ a: "completed", b: "pending" });
    expect((await workflows.why(workflowId)).steps[0]).toMatchObject({
      stepId: "b",
      reason: "the workflow is paused",
    });
    expect(await workflows.resume(workflowId)).toMatchObject({ state: "running" });
    await settle();
    expect((await read(workflowId)).state).toBe("completed");
    expect((await failure(() => workflows.pause(workflowId))).code).toBe("WORKFLOW_STATE");
    expect((await failure(() => workflows.resume("nobody"))).code).toBe("UNKNOWN_WORKFLOW");
  });

  it("go on from the failed step, or from one before, and keep what was earlier", async () => {
    const { start, settle, read, workflows } = await on();
    const runs: string[] = [];
    let broken = true;
    const ran = (name: string) => () => {
      runs.push(name);
      return name === "c" && broken ? boom() : name;
    };
    const answers = { a: ran("a"), b: ran("b"), c: ran("c"), d: ran("d") };
    const { workflowId } = await start([task("a"), task("b"), task("c"), task("d")]);
    await settle(answers);
    expect((await read(workflowId)).state).toBe("failed");
    await workflows.retry(workflowId, { fromStep: "b" });
    await settle(answers);
    expect((await read(workflowId)).state).toBe("failed");
    broken = false;
    const again = await workflows.retry(workflowId);
    expect(statesOf(again)).toEqual({ a: "completed", b: "completed", c: "running", d: "pending" });
    await settle(answers);
    expect(runs).toEqual(["a", "b", "c", "b", "c", "c", "d"]);
    expect(await read(workflowId)).toMatchObject({
      state: "completed",
      result: { a: "a", b: "b", c: "c", d: "d" },
      errors: [],
    });
    expect((await failure(() => workflows.retry(workflowId))).code).toBe("WORKFLOW_STATE");
  });

  it("fail at their deadline, and at that of a step", async () => {
    const { start, settle, read, elapse, round, knex } = await on();
    const late = await start([task("a")], { deadlineMs: 60_000 });
    const step = await start([task("b", { timeoutMs: 60_000 })]);
    await elapse(60_000);
    await knex("outbox_tasks").where({ task_type: "b" }).update({ deadline_at: 1 });
    await round();
    await settle();
    expect(await read(late.workflowId)).toMatchObject({
      state: "failed",
      failure: { code: "WORKFLOW_DEADLINE" },
    });
    expect(statesOf(await read(late.workflowId))).toEqual({ a: "canceled" });
    expect(await read(step.workflowId)).toMatchObject({
      state: "failed",
      failure: { code: "TASK_DEADLINE", stepId: "b" },
    });
  });

  it("wait for a signal, take one that came early, and give up on one that never comes", async () => {
    const { start, settle, read, elapse, workflows, round } = await on();
    const approval = (timeoutMs?: number) => ({
      stepId: "approve",
      kind: "signal" as const,
      signal: "approval",
      timeoutMs,
    });
    const { workflowId } = await start([
      task("a"),
      approval(),
      task("b", { inputs: { by: "$.steps.approve.result.by" } }),
    ]);
    expect(await workflows.signal(workflowId, "approval", { by: "early" }, { from: "eve" })).toBe(
      true,
    );
    expect(await workflows.signal(workflowId, "approval", { by: "second" })).toBe(false);
    await settle({ b: (parameters) => parameters });
    expect((await read(workflowId)).result).toMatchObject({
      approve: { by: "early" },
      b: { by: "early" },
    });

    const late = await start([approval(), task("b")]);
    expect((await workflows.why(late.workflowId)).steps[0]).toMatchObject({ signal: "approval" });
    const answers = await Promise.all(
      ["x", "y"].map((by) => workflows.signal(late.workflowId, "approval", by)),
    );
    expect(answers.filter(Boolean)).toHaveLength(1);
    await settle();
    expect((await read(late.workflowId)).state).toBe("completed");

    const never = await start([approval(5_000), task("b")]);
    await round();
    await elapse(5_000);
    await settle();
    expect(await read(never.workflowId)).toMatchObject({
      state: "failed",
      failure: { code: "SIGNAL_TIMEOUT", stepId: "approve" },
    });
    expect((await failure(() => workflows.signal(never.workflowId, "approval"))).code).toBe(
      "WORKFLOW_STATE",
    );
    const other = await start([approval()]);
    expect((await failure(() => workflows.signal(other.workflowId, "aproval"))).code).toBe(
      "VALIDATION_FAILED",
    );
  });

  it("can be waited for", async () => {
    const { start, workflows, settle } = await on();
    const { workflowId } = await start([task("a")]);
    expect((await failure(() => workflows.wait(workflowId, { timeoutMs: 0 }))).code).toBe(
      "MESSAGE_TIMEOUT",
    );
    const stop = new AbortController();
    const stopped = failure(() => workflows.wait(workflowId, { signal: stop.signal }));
    stop.abort(new Error("enough"));
    expect((await stopped).message).toBe("enough");
    const waited = workflows.wait(workflowId);
    await settle();
    expect((await waited).state).toBe("completed");
  });

  it("hear of a task that ended, or went, without them", async () => {
    const { start, read, knex, round, settle } = await on();
    const { workflowId } = await start([
      task("a", { retry: { maxAttempts: 2, delayMs: 0 } }),
      task("b"),
    ]);
    await knex("outbox_tasks").where({ task_type: "a" }).del();
    await round();
    const [lost] = (await read(workflowId)).steps;
    expect(lost).toMatchObject({ state: "running", attempt: 2 });
    await knex("outbox_tasks")
      .where({ task_type: "a" })
      .update({
        state: "completed",
        finished_at: 1,
        result: JSON.stringify("elsewhere"),
      });
    await round();
    expect(await read(workflowId)).toMatchObject({ result: { a: "elsewhere" } });
    await settle();
    expect((await read(workflowId)).state).toBe("completed");
  });

  it("put off a step whose message cannot be sent for now, and fail one that never can", async () => {
    const { start, settle, work, round, read, elapse, queue } = await on();
    const { workflowId } = await start([
      task("a"),
      task("big", { inputs: { x: "$.steps.a.result", y: "$.steps.a.result" } }),
    ]);
    await settle({ a: () => "x".repeat(500_000) });
    expect(await read(workflowId)).toMatchObject({
      state: "failed",
      failure: { code: "STEP_UNSENDABLE", stepId: "big" },
    });

    const held = await start([task("a"), task("b")]);
    await work();
    await queue.sendMessage({ toAgent: "agent", messageType: "NOTE", content: {} });
    await queue.mailboxes.set("agent", { maxDepth: 1 });
    await round();
    expect((await read(held.workflowId)).steps[1]).toMatchObject({ state: "waiting", attempt: 0 });
    await queue.mailboxes.set("agent", { maxDepth: null });
    await elapse(1_000);
    await settle();
    expect((await read(held.workflowId)).state).toBe("completed");
  });

  it("go with the retention of tasks", async () => {
    const { start, settle, workflows, knex } = await on();
    const ended = await start([task("a")]);
    await settle();
    const live = await start([{ stepId: "s", kind: "signal" }]);
    await workflows.signal(live.workflowId, "s").catch(() => undefined);
    const open = await start([{ stepId: "s", kind: "signal" }]);
    await knex("outbox_workflows").whereNotNull("finished_at").update({ finished_at: 1 });
    // Another one, which has not purged anything yet.
    await stage(knex).round();
    expect(await workflows.get(ended.workflowId)).toBeNull();
    expect(await workflows.get(live.workflowId)).toBeNull();
    expect(await knex("outbox_workflow_signals")).toEqual([]);
    expect(await workflows.get(open.workflowId)).not.toBeNull();
    expect(await knex("outbox_workflow_steps")).toHaveLength(1);
  });
});
