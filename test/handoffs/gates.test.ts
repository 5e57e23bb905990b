import { writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, expect, it, onTestFinished } from "vitest";
import { z } from "zod";
import { AgentRunner, type AgentRunnerOptions } from "../../lib/coordination/agent-runner.ts";
import type { Gate, GateSubject, GatesInput } from "../../lib/index.ts";
import {
  agentDocCurrent,
  auditExists,
  errorsAreStructured,
  requiredContext,
  schemaGate,
  stagesComplete,
  withinSla,
} from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { failure } from "../support/queue.ts";
import { stage, wipe } from "./stage.ts";

const fails = (name: string, more: object = {}): Gate => ({
  name,
  check: () => ({ ok: false, message: `${name} is unhappy`, severity: "critical", ...more }),
});

eachDatabase("quality gates", (database) => {
  beforeEach(() => wipe(database));

  const two = async (gates: GatesInput) => {
    const on = stage(database, gates);
    await on.agent("a");
    const { task } = await on.assigned();
    await on.agent("b");
    return { on, taskId: task.taskId };
  };

  it("block a handoff with all that they find, and their remedies", async () => {
    const { on, taskId } = await two({
      beforeHandoff: [
        fails("first", { remedy: "Do this." }),
        { name: "fine", check: () => true },
        fails("second", { remedy: "Do that.", retryable: false }),
        fails("mild", { severity: "warning" }),
        {
          name: "broken",
          check: () => {
            throw new Error("ouch");
          },
        },
        { name: "odd", check: () => false as never },
      ],
    });
    const error = await failure(() => on.offer({ taskId }));
    expect(error).toMatchObject({
      name: "GateFailed",
      code: "GATE_FAILED",
      retryable: false,
      recoverySuggestion: expect.stringMatching(/^Do this\. Do that\. /),
      details: {
        stage: "beforeHandoff",
        taskId,
        failures: [
          { gate: "first", severity: "critical", message: "first is unhappy", remedy: "Do this." },
          { gate: "second", severity: "critical", remedy: "Do that." },
          { gate: "mild", severity: "warning" },
          { gate: "broken", message: "threw: ouch" },
          { gate: "odd", message: expect.stringContaining("neither true nor") },
        ],
      },
    });
    expect(await on.handoffs.list()).toEqual([]);
    expect(await on.waiting("b")).toEqual([]);
    expect(on.agentEvents().filter((event) => event.startsWith("gate_"))).toEqual([
      "gate_failed",
      "gate_failed",
      "gate_warning",
      "gate_failed",
      "gate_failed",
    ]);
  });

  it("see the sheet and the transaction; warnings are noted, infos are told", async () => {
    let seen: GateSubject | undefined;
    const { on, taskId } = await two({
      beforeHandoff: [
        {
          name: "looks",
          check: async (subject, { tx }) => {
            seen = subject;
            const [row] = await tx("outbox_tasks").where({ task_id: subject.taskId ?? "" });
            return { ok: false, message: String(row.agent_id), severity: "warning" };
          },
        },
        fails("hint", { severity: "info" }),
      ],
    });
    const offered = await on.offer({ taskId, deliverables: { n: 1 } });
    expect(offered.warnings).toEqual([{ gate: "looks", message: "a" }]);
    expect(seen).toMatchObject({
      stage: "beforeHandoff",
      agentId: "a",
      taskId,
      task: { taskId, agentId: "a" },
      handoff: { from: "a", to: "b", reason: "expertise_required" },
      output: { n: 1 },
    });
    expect(await on.handoffs.get(offered.handoffId)).toMatchObject({ warnings: offered.warnings });
    expect(on.agentEvents().filter((event) => event.startsWith("gate_"))).toEqual([
      "gate_warning",
      "gate_info",
    ]);
  });

  it("cannot hold the commit for ever", async () => {
    let aborted = false;
    const { on, taskId } = await two({
      beforeHandoff: [
        {
          name: "hangs",
          timeoutMs: 50,
          check: (_, { signal, tx }) =>
            new Promise((_resolve, reject) => {
              signal.addEventListener("abort", () => {
                aborted = true;
                // What it does too late fails for nobody.
                setTimeout(() => void tx("outbox_tasks").then(reject, reject), 20);
              });
            }),
        },
      ],
    });
    const error = await failure(() => on.offer({ taskId }));
    expect(error.message).toContain("hangs: did not answer within 50 ms");
    expect(aborted).toBe(true);
    // The task is not locked any more.
    expect(await on.boss.cancelTask(taskId)).toBe(true);
  });

  it("are checked at the door", () => {
    const code = (gates: unknown) => failure(() => stage(database, gates as GatesInput));
    return Promise.all(
      [{ beforeHandoff: [{ name: "x" }] }, { later: [] }, { beforeRespond: [{ check: 1 }] }].map(
        async (gates) => expect(await code(gates)).toMatchObject({ code: "VALIDATION_FAILED" }),
      ),
    );
  });

  const answering = async (
    gates: GatesInput,
    tasks: AgentRunnerOptions["tasks"],
    more: object = {},
  ) => {
    const on = stage(database);
    const runner = new AgentRunner(on.knex, {
      agentId: "a",
      capabilities: ["x"],
      coordination: on.coordination,
      tasks,
      gates,
    });
    onTestFinished(() => runner.stop({ deadlineMs: 500 }));
    await runner.start();
    const { taskId } = await on.boss.assignTask({
      taskType: "work",
      requiredCapabilities: ["x"],
      ...more,
    });
    const task = await on.boss.waitForTask(taskId, { timeoutMs: 60_000 });
    await runner.stop({ deadlineMs: 500 });
    return { on, task };
  };

  it("hold an answer back, and let the task be tried again as they say", async () => {
    const gate = schemaGate(z.object({ good: z.literal(true) }));
    const again = await answering(
      { beforeRespond: [gate, requiredContext(["good", "next_steps"])] },
      {
        work: ({ assignment }) =>
          assignment === 1 ? { good: false } : { good: true, next_steps: ["none"] },
      },
    );
    expect(again.task).toMatchObject({
      state: "completed",
      assignment: 2,
      result: { good: true },
      lastError: {
        message: expect.stringMatching(/schema: good: .*; required_context: missing: next_steps/),
      },
    });
    await wipe(database);
    const never = await answering(
      { beforeRespond: [fails("strict", { retryable: false })] },
      { work: () => 1 },
    );
    expect(never.task).toMatchObject({ state: "failed", assignment: 1, result: null });
    const [report] = await never.on
      .knex("outbox_archive")
      .where({ message_type: "ERROR_REPORT" })
      .pluck("content");
    expect(typeof report === "string" ? JSON.parse(report) : report).toMatchObject({
      error_code: "GATE_FAILED",
      errors: [{ code: "strict", severity: "critical", recovery_suggestion: expect.any(String) }],
    });
  });

  it("undo what a handler wrote in its transaction", async () => {
    const knex = database.knex();
    await knex.schema.createTable("gated", (table) => void table.string("task_id"));
    onTestFinished(async () => void (await knex.schema.dropTable("gated")));
    const { task } = await answering(
      {
        beforeRespond: [
          {
            name: "twice",
            check: ({ task: asked }) =>
              asked?.assignment === 2 || { ok: false, message: "once more", severity: "critical" },
          },
        ],
      },
      {
        work: ({ taskId }, context) =>
          context.tx(async (tx) => void (await tx("gated").insert({ task_id: taskId }))),
      },
    );
    expect(task).toMatchObject({ state: "completed", assignment: 2 });
    expect(await knex("gated")).toHaveLength(1);
  });

  it("note their warnings on the task", async () => {
    const { task } = await answering(
      { beforeRespond: [fails("mild", { severity: "warning" })] },
      { work: () => "done" },
    );
    expect(task).toMatchObject({
      state: "completed",
      result: "done",
      warnings: [{ code: "mild", message: "mild is unhappy" }],
    });
  });

  it("that are shipped say what is missing", async () => {
    const on = stage(database);
    await on.registry.registerAgent({
      agentId: "a",
      capabilities: ["x"],
      card: { sla: { targetMs: 100, maxMs: 1_000 } },
    });
    const { task } = await on.assigned();
    const part = await on.boss.assignTask({
      taskType: "part",
      requiredCapabilities: ["nobody"],
      parentTaskId: task.taskId,
    });
    const ask = async (gate: Gate, subject: Partial<GateSubject> = {}) => {
      const full = { stage: "beforeRespond" as const, agentId: "a", taskId: task.taskId, task };
      return on.knex.transaction((tx) =>
        Promise.resolve(
          gate.check(
            { output: {}, ...full, ...subject },
            {
              tx,
              queue: on.queue,
              agent: () => on.coordination.parts.agents.get("a", tx),
              pendingSubtasks: () => on.handoffs.moving.store.pendingParts(task.taskId, 100, tx),
              pendingSteps: (workflowId) =>
                on.handoffs.moving.store.pendingSteps(
                  workflowId,
                  subject.taskId ?? task.taskId,
                  100,
                  tx,
                ),
              signal: new AbortController().signal,
            },
          ),
        ),
      );
    };
    const says = (message: unknown, severity = "critical") => ({ ok: false, message, severity });
    const errors = [{ code: "E", message: "m", severity: "bad" }, "text"];
    expect(await ask(errorsAreStructured(), { output: { errors } })).toMatchObject(
      says("errors.0: severity, recovery_suggestion; errors.1: all of it"),
    );
    const good = { code: "E", message: "m", severity: "info", recovery_suggestion: "r" };
    expect(await ask(errorsAreStructured(), { output: { errors: [good] } })).toBe(true);
    expect(await ask(errorsAreStructured(), { output: "text" })).toBe(true);
    expect(await ask(auditExists())).toBe(true);
    expect(await ask(auditExists(), { task: { ...task, messageId: "gone" } })).toMatchObject(
      says(expect.stringContaining("no record")),
    );
    expect(await ask(withinSla(), { elapsedMs: 100 })).toBe(true);
    expect(await ask(withinSla(), { elapsedMs: 500 })).toMatchObject(
      says("took 500 ms, more than the 100 ms that are meant", "warning"),
    );
    expect(await ask(withinSla(), { elapsedMs: 2_000 })).toMatchObject({
      ...says(expect.stringContaining("1000 ms that are allowed")),
      retryable: false,
    });
    expect(await ask(withinSla({ maxMs: 9_000 }), { elapsedMs: 2_000 })).toMatchObject(
      says(expect.any(String), "warning"),
    );
    expect(await ask(stagesComplete())).toMatchObject(says(`not complete: ${part.taskId}`));
    expect(await ask(stagesComplete("none"))).toMatchObject(says('there is no workflow "none"'));
    const { workflowId } = await on.coordination.workflows.start({
      workflowType: "pipeline",
      supervisorId: "boss",
      steps: [{ stepId: "one", taskType: "one", requiredCapabilities: ["nobody"] }],
    });
    expect(await ask(stagesComplete(workflowId))).toMatchObject(says("not complete: one"));
    const own = await on
      .knex("outbox_workflow_steps")
      .where({ workflow_id: workflowId })
      .first("task_id");
    expect(
      await ask(
        stagesComplete(() => workflowId),
        { taskId: own.task_id },
      ),
    ).toBe(true);
    expect(
      await ask(requiredContext(["id", "deep.list"]), { output: { id: 1, deep: { list: [] } } }),
    ).toMatchObject(says("missing: deep.list"));

    const file = join(tmpdir(), `AGENT-${task.taskId}.md`);
    expect(await ask(agentDocCurrent(file))).toMatchObject(
      says(expect.stringContaining("cannot be read")),
    );
    const hash = (await on.registry.getAgent("a"))?.cardHash;
    await writeFile(file, `---\ncard_hash: ${hash}\n---\n# a\n`);
    expect(await ask(agentDocCurrent(file))).toBe(true);
    await writeFile(file, "---\ncard_hash: 00ff\n---\n# a\n");
    expect(await ask(agentDocCurrent(file, { severity: "info" }))).toMatchObject(
      says(expect.stringContaining("earlier card"), "info"),
    );
  });
});
