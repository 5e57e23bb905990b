import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { failure } from "../support/queue.ts";
import { boom, emptied, statesOf, task, undoable } from "./stage.ts";

eachDatabase("workflows", (database) => {
  const on = () => emptied(database.knex());

  it("run steps one after the other, with inputs from what came before", async () => {
    const { start, settle, work, read, told, round } = await on();
    const seen: unknown[] = [];
    const started = await start(
      [
        task("fetch", { inputs: { file: "$.input.file" } }),
        task("parse", {
          parameters: { strict: true },
          inputs: {
            first: "$.steps.fetch.result.rows[0]",
            odd: '$.steps.fetch.result["a key"]',
            other: { from: "$.steps.fetch.result.missing", default: 7 },
          },
        }),
        task("sync", { inputs: { all: "$.steps.parse.result" } }),
      ],
      { input: { file: "a.csv" }, contextId: "conversation", workflowId: "seq" },
    );
    expect(started).toMatchObject({ duplicate: false, state: "running", correlationId: "seq" });
    expect(statesOf(started)).toEqual({ fetch: "running", parse: "pending", sync: "pending" });
    const answers = {
      fetch: (parameters: object) => {
        seen.push(parameters);
        return { rows: ["one", "two"], "a key": null };
      },
      parse: (parameters: object) => {
        seen.push(parameters);
        return [1, 2];
      },
      sync: (parameters: object) => {
        seen.push(parameters);
        return "done";
      },
    };
    expect(await work(answers)).toBe(1);
    // The end of the one step and the message that begins the next are one commit.
    expect(statesOf(await read("seq"))).toMatchObject({ fetch: "running" });
    await round();
    expect(statesOf(await read("seq"))).toMatchObject({ fetch: "completed", parse: "running" });
    await settle(answers);
    const done = await read("seq");
    expect(done).toMatchObject({
      state: "completed",
      failure: null,
      errors: [],
      warnings: [],
      result: { fetch: { rows: ["one", "two"], "a key": null }, parse: [1, 2], sync: "done" },
    });
    expect(seen).toEqual([
      { file: "a.csv" },
      { strict: true, first: "one", odd: null, other: 7 },
      { all: [1, 2] },
    ]);
    expect(done.finishedAt).toBeGreaterThanOrEqual(done.createdAt);
    expect(told("seq")).toEqual([
      "workflow_started",
      "workflow_step_started fetch",
      "workflow_step_completed fetch",
      "workflow_step_started parse",
      "workflow_step_completed parse",
      "workflow_step_started sync",
      "workflow_step_completed sync",
      "workflow_completed",
    ]);
  });

  it("carry the workflow's context and correlation in their messages", async () => {
    const { start, queue } = await on();
    await start([task("a")], { contextId: "c1", correlationId: "k1" });
    const [message] = await queue.getMessages("agent");
    expect(message).toMatchObject({ contextId: "c1", correlationId: "k1" });
  });

  it("started again with the same id are the first one", async () => {
    const { start, workflows } = await on();
    const first = await start([task("a")], { workflowId: "twice" });
    const again = await start([task("b"), task("c")], { workflowId: "twice" });
    expect(again).toEqual({ ...first, duplicate: true });
    const many = await Promise.all(
      Array.from({ length: 5 }, () => start([task("a")], { workflowId: "at-once" })),
    );
    expect(many.filter(({ duplicate }) => !duplicate)).toHaveLength(1);
    expect(await workflows.list()).toHaveLength(2);
    expect(await workflows.list({ limit: 1, afterSeq: first.seq })).toMatchObject([
      { workflowId: "at-once" },
    ]);
  });

  it("start in the caller's transaction, or not at all", async () => {
    const { workflows, knex, queue } = await on();
    const steps = [task("a")];
    await failure(() =>
      knex.transaction(async (tx) => {
        await workflows.start({ workflowType: "t", workflowId: "tx", steps }, { tx });
        throw new Error("no");
      }),
    );
    expect(await workflows.get("tx")).toBeNull();
    expect(await queue.getMessages("agent")).toEqual([]);
    await knex.transaction(async (tx) => {
      const { state } = await workflows.start(
        { workflowType: "t", workflowId: "tx", steps },
        { tx },
      );
      expect(state).toBe("running");
    });
    expect(await queue.getMessages("agent")).toHaveLength(1);
  });

  it("run all steps at once in the mode parallel, more than one commit begins", async () => {
    const { start, work, settle, read } = await on();
    const ids = Array.from({ length: 60 }, (_, n) => `s${n}`);
    const { workflowId, steps } = await start(
      ids.map((id) => task(id)),
      { mode: "parallel" },
    );
    expect(steps.filter(({ state }) => state === "running")).toHaveLength(60);
    expect(await work()).toBe(60);
    await settle();
    const done = await read(workflowId);
    expect(done.state).toBe("completed");
    expect(
      done.steps.map(({ completion }) => completion).sort((a, b) => (a ?? 0) - (b ?? 0)),
    ).toEqual(ids.map((_, n) => n + 1));
  });

  it("run a graph, skip by condition, and join once", async () => {
    const { start, settle, read, knex } = await on();
    const { workflowId } = await start(
      [
        task("root"),
        task("left", { dependsOn: ["root"] }),
        task("right", {
          dependsOn: ["root"],
          when: { path: "$.steps.root.result.go", op: "=", value: "right" },
        }),
        task("join", {
          dependsOn: ["left", "right"],
          inputs: { right: { from: "$.steps.right.result", default: null } },
        }),
      ],
      { mode: "dag" },
    );
    await settle({ root: () => ({ go: "left" }), join: (parameters) => parameters });
    const done = await read(workflowId);
    expect(statesOf(done)).toEqual({
      root: "completed",
      left: "completed",
      right: "skipped",
      join: "completed",
    });
    expect(done).toMatchObject({ state: "completed", result: { join: { right: null } } });
    expect(await knex("outbox_tasks").where({ task_type: "join" })).toHaveLength(1);
  });

  it("are tried again after a delay that grows, each attempt a task of its own", async () => {
    const { start, settle, read, elapse, told, workflows } = await on();
    const { workflowId } = await start([
      task("flaky", { retry: { maxAttempts: 3, delayMs: 60_000, factor: 3 } }),
    ]);
    let runs = 0;
    const answers = {
      flaky: () => {
        runs++;
        return runs < 3 ? boom() : "at last";
      },
    };
    await settle(answers);
    const waiting = (await read(workflowId)).steps[0];
    expect(waiting).toMatchObject({ state: "waiting", attempt: 1, error: { code: "broken" } });
    expect((await workflows.why(workflowId)).steps).toMatchObject([
      { stepId: "flaky", state: "waiting", dueAt: waiting?.dueAt },
    ]);
    await elapse(60_000);
    await settle(answers);
    const again = (await read(workflowId)).steps[0];
    expect(again?.attempt).toBe(2);
    expect((again?.dueAt ?? 0) - (waiting?.dueAt ?? 0)).toBeGreaterThan(100_000);
    await elapse(179_000);
    await settle(answers);
    expect(runs).toBe(2);
    await elapse(1_000);
    await settle(answers);
    const done = await read(workflowId);
    expect(done).toMatchObject({ state: "completed", result: { flaky: "at last" }, errors: [] });
    expect(done.steps[0]?.attempt).toBe(3);
    expect(
      told(workflowId).filter((event) => event === "workflow_step_retried flaky"),
    ).toHaveLength(2);
  });

  it("are failed by what is critical, warned by what is a warning, and only note an info", async () => {
    const { start, settle, read } = await on();
    const answers = { bad: boom };
    const of = (severity: "critical" | "warning" | "info") =>
      start([task("bad", { severity }), task("next")]);
    const [critical, warning, info] = [await of("critical"), await of("warning"), await of("info")];
    await settle(answers);
    expect(await read(critical.workflowId)).toMatchObject({
      state: "failed",
      failure: { code: "broken", message: "boom", stepId: "bad", agentId: "agent" },
      errors: [{ code: "broken", stepId: "bad" }],
      warnings: [],
    });
    expect(statesOf(await read(critical.workflowId))).toEqual({ bad: "failed", next: "canceled" });
    const warned = await read(warning.workflowId);
    expect(warned).toMatchObject({ state: "completed_with_warnings", failure: null, errors: [] });
    expect(warned.warnings).toMatchObject([{ code: "broken", message: "boom", stepId: "bad" }]);
    expect(warned.result).toEqual({ next: { done: "next" } });
    const noted = await read(info.workflowId);
    expect(noted).toMatchObject({ state: "completed", errors: [], warnings: [] });
    expect(noted.steps[0]).toMatchObject({ state: "failed", error: { code: "broken" } });
  });

  it("fail with a type where a reference leads to nothing", async () => {
    const { start, settle, read } = await on();
    const { workflowId } = await start([
      task("a"),
      task("b", { inputs: { x: "$.steps.a.result.no.such[0]" } }),
    ]);
    await settle();
    expect(await read(workflowId)).toMatchObject({
      state: "failed",
      failure: { code: "STEP_INPUT_MISSING", stepId: "b" },
    });
  });

  it("are undone in the reverse order of completion, and only what completed", async () => {
    const { start, settle, read, told, knex } = await on();
    const { workflowId } = await start(
      [
        undoable("a"),
        undoable("b", {
          dependsOn: ["a"],
          compensation: {
            taskType: "undo-b",
            inputs: { made: "$.steps.b.result.id", input: "$.input" },
          },
        }),
        task("plain", { dependsOn: ["b"] }),
        undoable("bad", { dependsOn: ["plain"] }),
        undoable("never", { dependsOn: ["bad"] }),
      ],
      { mode: "dag", input: [1] },
    );
    const undone: unknown[] = [];
    await settle({
      b: () => ({ id: "made" }),
      bad: boom,
      "undo-b": (parameters) => undone.push(["b", parameters]),
      "undo-a": (parameters) => undone.push(["a", parameters]),
    });
    expect(undone).toEqual([
      ["b", { made: "made", input: [1] }],
      ["a", {}],
    ]);
    const done = await read(workflowId);
    expect(done).toMatchObject({ state: "compensated", failure: { stepId: "bad" } });
    expect(done.steps.map(({ compensation }) => compensation?.state ?? null)).toEqual([
      "completed",
      "completed",
      null,
      null,
      null,
    ]);
    expect(told(workflowId).slice(-6)).toEqual([
      "workflow_compensating",
      "workflow_step_started b",
      "workflow_step_compensated b",
      "workflow_step_started a",
      "workflow_step_compensated a",
      "workflow_compensated",
    ]);
    expect(await knex("outbox_tasks").where({ task_type: "never" })).toEqual([]);
  });

  it("stop where a compensation fails for good, until an operator lets it go on", async () => {
    const { start, settle, read, workflows } = await on();
    const retry = { maxAttempts: 2, delayMs: 0 };
    const { workflowId } = await start([
      task("a", { compensation: { taskType: "undo-a", retry } }),
      task("bad"),
    ]);
    let broken = true;
    let tries = 0;
    const answers = {
      bad: boom,
      "undo-a": () => {
        tries++;
        return broken ? boom() : null;
      },
    };
    await settle(answers);
    const stuck = await read(workflowId);
    expect(stuck).toMatchObject({
      state: "compensation_failed",
      failure: { code: "broken", stepId: "a" },
    });
    expect(stuck.errors.map(({ stepId }) => stepId)).toEqual(["bad", "a"]);
    expect(tries).toBe(2);
    broken = false;
    expect(await workflows.retry(workflowId)).toMatchObject({ state: "compensating" });
    await settle(answers);
    expect(await read(workflowId)).toMatchObject({
      state: "compensated",
      failure: { stepId: "bad" },
    });
  });

  it("do not undo anything with onFailure stop, unless somebody cancels it so", async () => {
    const { start, settle, read, workflows } = await on();
    const { workflowId } = await start([undoable("a"), task("bad")], { onFailure: "stop" });
    await settle({ bad: boom });
    expect((await read(workflowId)).state).toBe("failed");
    await workflows.cancel(workflowId, { compensate: true });
    await settle();
    expect((await read(workflowId)).state).toBe("compensated");
  });

  it("stop what is under way elsewhere before they fail, and undo what completed meanwhile", async () => {
    const { start, work, round, settle, read } = await on();
    const { workflowId } = await start([undoable("slow"), task("bad")], { mode: "parallel" });
    // Only "bad" answers; the answer of "slow" is on its way when the workflow fails.
    await work({ bad: boom });
    await round();
    await settle();
    const done = await read(workflowId);
    // It had answered before it could be canceled, or not: either way nothing is left done.
    const [slow] = done.steps;
    expect(slow?.state === "completed" ? slow.compensation?.state : slow?.state).toBe(
      slow?.state === "completed" ? "completed" : "canceled",
    );
    expect(done.state).toBe(slow?.state === "completed" ? "compensated" : "failed");
  });
});
