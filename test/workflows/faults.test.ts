import { beforeEach, expect, it } from "vitest";
import { isOver } from "../../lib/protocol/workflow-states.ts";
import { eachDatabase } from "../support/databases.ts";
import { type DyingProcess, killedAtEachStatement } from "../support/dying-process.ts";
import { checkConsistent, checkOrder, journal, keepJournal, livesOf } from "./journal.ts";
import { boom, emptied, task, undoable } from "./stage.ts";

eachDatabase("a supervisor that dies at any statement of a workflow", (database) => {
  let on: Awaited<ReturnType<typeof emptied>>;
  let kept = false;
  beforeEach(async () => {
    if (!kept) await keepJournal(database.knex());
    kept = true;
    on = await emptied(database.knex());
    if (database.dialect !== "mssql") await database.knex()("step_journal").del();
  });

  const options = {
    supervisorId: "workflows",
    mostStatements: 400,
    check: () => checkConsistent(on.knex),
  };
  const killedEverywhere = (step: (process: DyingProcess) => Promise<unknown>) =>
    killedAtEachStatement(database, options, step);

  /** The answers of agents to dead supervisors: their leases pass, and no death counts as an attempt. */
  const released = () =>
    on
      .knex("outbox_messages")
      .where({ to_agent: "workflows" })
      .update({ visible_at: 0, attempt: 0 });

  const killedRound = () =>
    killedEverywhere(async ({ boss }) => {
      await released();
      await boss.processIncomingMessages();
    });

  const ran: string[] = [];
  /** Agents live; every round of a supervisor is killed at each of its statements. */
  async function killedToTheEnd(workflowId: string, answers: Record<string, () => unknown>) {
    let killed = 0;
    for (let turn = 0; turn < 40; turn++) {
      await on.work(
        Object.fromEntries(
          Object.entries(answers).map(([type, answer]) => [
            type,
            () => {
              ran.push(type);
              return answer();
            },
          ]),
        ),
      );
      killed += await killedRound();
      await on.elapse(60_000);
      const workflow = await on.read(workflowId);
      if (isOver(workflow.state)) return { workflow, killed };
    }
    throw new Error("it never ended");
  }

  it("changes nothing: branches, a retry, a failure and its compensation", async () => {
    ran.length = 0;
    let tries = 0;
    let undos = 0;
    const steps = [
      undoable("root"),
      undoable("left", {
        dependsOn: ["root"],
        compensation: { taskType: "undo-left", retry: { maxAttempts: 3, delayMs: 1_000 } },
      }),
      undoable("right", { dependsOn: ["root"], retry: { maxAttempts: 2, delayMs: 30_000 } }),
      task("skipped", {
        dependsOn: ["root"],
        when: { path: "$.steps.root.result.go", op: "exists" },
      }),
      task("join", { dependsOn: ["left", "right", "skipped"] }),
    ];
    const workflow = { workflowId: "w", workflowType: "t", mode: "dag" as const, steps };
    const starts = await killedEverywhere(({ coordination }) =>
      coordination.workflows.start(workflow),
    );
    expect(starts).toBeGreaterThan(10);
    const { workflow: done, killed } = await killedToTheEnd("w", {
      root: () => ({}),
      left: () => "left",
      right: () => (++tries < 2 ? boom() : "right"),
      join: boom,
      "undo-left": () => (++undos < 2 ? boom() : null),
      "undo-right": () => null,
      "undo-root": () => null,
    });
    expect(killed).toBeGreaterThan(100);
    expect(done).toMatchObject({
      state: "compensated",
      failure: { code: "broken", stepId: "join" },
    });
    // Every effect once per attempt, whatever died in between.
    expect([...ran].sort()).toEqual([
      "join",
      "left",
      "right",
      "right",
      "root",
      "undo-left",
      "undo-left",
      "undo-right",
      "undo-root",
    ]);
    const tasks = await on.knex("outbox_tasks").select("task_id", "assignment", "state");
    expect(tasks).toHaveLength(ran.length);
    expect(tasks.every(({ assignment }) => assignment === 1)).toBe(true);
    if (database.dialect === "mssql") return;
    expect(await checkOrder(on.knex)).toBeGreaterThan(15);
    expect(livesOf(await journal(on.knex), "w")).toEqual({
      root: ["running 1", "completed 1"],
      left: ["running 1", "completed 1"],
      right: ["running 1", "waiting 1", "running 2", "completed 2"],
      skipped: ["skipped 0"],
      join: ["running 1", "failed 1"],
      "undo root": ["running 1", "completed 1"],
      "undo left": ["running 1", "waiting 1", "running 2", "completed 2"],
      "undo right": ["running 1", "completed 1"],
    });
  });

  it("changes nothing: signals, pauses, a cancel with what is under way, and going on after a failure", async () => {
    ran.length = 0;
    const act = (run: (process: DyingProcess) => Promise<unknown>) => killedEverywhere(run);
    await act(({ coordination: { workflows } }) =>
      workflows.start({
        workflowId: "c",
        workflowType: "t",
        mode: "dag",
        steps: [
          undoable("first"),
          { stepId: "approve", kind: "signal", dependsOn: ["first"] },
          task("slow", { dependsOn: ["approve"] }),
          task("other", { dependsOn: ["approve"] }),
        ],
      }),
    );
    await act(({ coordination: { workflows } }) => workflows.signal("c", "approve", "yes"));
    await act(({ coordination: { workflows } }) => workflows.pause("c"));
    await on.work({ first: () => ran.push("first") });
    await killedRound();
    await act(({ coordination: { workflows } }) => workflows.resume("c"));
    expect((await on.read("c")).steps.map(({ state }) => state)).toEqual([
      "completed",
      "completed",
      "running",
      "running",
    ]);
    await act(({ coordination: { workflows } }) => workflows.cancel("c", { compensate: true }));
    const { workflow } = await killedToTheEnd("c", { "undo-first": () => null });
    expect(workflow.state).toBe("compensated");
    expect(ran).toEqual(["first", "undo-first"]);

    await act(({ coordination: { workflows } }) =>
      workflows.start({ workflowId: "r", workflowType: "t", steps: [task("a"), task("b")] }),
    );
    await killedToTheEnd("r", { b: boom });
    await act(async ({ coordination: { workflows } }) => {
      // The one before may have died after its commit.
      if ((await workflows.get("r"))?.state === "failed") await workflows.retry("r");
    });
    const again = await killedToTheEnd("r", { b: () => "done" });
    expect(again.workflow).toMatchObject({ state: "completed", result: { b: "done" } });
    if (database.dialect === "mssql") return;
    await checkOrder(on.knex);
    const entries = await journal(on.knex);
    expect(livesOf(entries, "r")).toEqual({
      a: ["running 1", "completed 1"],
      b: ["running 1", "failed 1", "running 2", "completed 2"],
    });
    expect(livesOf(entries, "c")).toMatchObject({
      slow: ["running 1", "stopping 1", "canceled 1"],
      other: ["running 1", "stopping 1", "canceled 1"],
    });
  });
});
