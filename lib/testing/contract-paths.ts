import { type AgentContract, must, Stage, WITHIN_MS } from "./contract-stage.ts";
import type { TestOutboxOptions } from "./options.ts";

export const CONTRACT_PATHS = [
  "success",
  "error",
  "timeout",
  "handoff",
  "rollback",
  "permission",
  "outage",
  "crash",
] as const;
export type ContractPath = (typeof CONTRACT_PATHS)[number];

interface Path {
  readonly title: string;
  /** Why the path cannot be walked with this agent. */
  readonly missing?: (agent: AgentContract) => string | undefined;
  readonly run: (agent: AgentContract, options?: TestOutboxOptions) => Promise<void>;
}

const path = (
  title: string,
  act: (stage: Stage) => Promise<void>,
  missing?: Path["missing"],
): Path => ({
  title,
  ...(missing === undefined ? {} : { missing }),
  run: (agent, options) => Stage.with(agent, options, act),
});

/** A deadline by the virtual clock, and a run that is late by far. */
const DEADLINE_MS = 60_000;
const LATE_MS = 300_000;

const success = path("does its task, and answers once", async (stage) => {
  await stage.start();
  await stage.succeeded(await stage.assign(stage.agent.success));
});

const error = path(
  "reports what it cannot do as an error, and goes on working",
  async (stage) => {
    const { error: wrong } = stage.agent;
    if (wrong === undefined) return;
    await stage.start();
    const task = await stage.ended(await stage.assign(wrong));
    must(
      task.state === "failed" || task.state === "rejected",
      `the task "${wrong.taskType}", which cannot be done, is ${task.state}`,
      task.state,
      "failed",
    );
    const failure = task.lastError;
    must(failure !== null && failure.message !== "", "the error says nothing", failure);
    if (failure !== null) await wrong.expect?.(failure);
    await stage.goesOn();
  },
  ({ error: wrong }) => (wrong === undefined ? "no task is given that it cannot do" : undefined),
);

const timeout = path(
  "ends with its deadline, and its late answer counts for nothing",
  async (stage) => {
    const { harness } = stage;
    let aborted: boolean | undefined;
    let held = false;
    await stage.start(1, async (_task, { signal }, run) => {
      if (held) return run();
      held = true;
      await harness.clock.sleep(LATE_MS);
      aborted = signal.aborted;
      return run();
    });
    const taskId = await stage.assign(stage.agent.success, { deadlineMs: DEADLINE_MS });
    const task = await stage.ended(taskId);
    must(
      task.lastError?.code === "TASK_DEADLINE",
      `the task ended as ${task.state}, not by its deadline`,
      task.lastError?.code,
      "TASK_DEADLINE",
    );
    await harness.clock.advance(LATE_MS);
    must(aborted === true, "the signal of the late run did not abort", aborted, true);
    const after = await stage.supervisor.getTask(taskId);
    must(after?.state === "failed", "the late answer changed the task", after?.state, "failed");
    await stage.goesOn();
  },
);

const handoff = path("hands its task to another of its kind, which completes it", async (stage) => {
  const { agent, harness } = stage;
  const to = `${agent.name}-2`;
  let given = false;
  await stage.start(1, async (_task, { handOff }, run) => {
    if (given) return run();
    given = true;
    await handOff({ to, reason: "contract", actionsRequired: "do it" });
    return undefined;
  });
  const taskId = await stage.assign(agent.success);
  await stage.start(2);
  const task = await stage.succeeded(taskId);
  must(task.agentId === to, `the task was completed by "${task.agentId}"`, task.agentId, to);
  const handoffs = await harness.outbox.handoffs.list({ taskId });
  must(
    handoffs.length === 1 && handoffs[0]?.state === "completed",
    "the handoff is not completed",
    handoffs.map(({ state }) => state),
    ["completed"],
  );
});

const rollback = path(
  "undoes its task when a later step of a workflow fails",
  async (stage) => {
    const { agent, harness, supervisor } = stage;
    const { rollback: undo } = agent;
    if (undo === undefined) return;
    await stage.start();
    const { workflowId } = await harness.outbox.workflows.start({
      workflowType: "contract",
      supervisorId: supervisor.supervisorId,
      steps: [
        {
          stepId: "done",
          taskType: agent.success.taskType,
          parameters: { ...agent.success.parameters },
          requiredCapabilities: [],
          compensation: {
            taskType: undo.taskType,
            parameters: { ...undo.parameters },
            inputs: { result: { from: "$.steps.done.result", default: null } },
          },
        },
        // Nobody sends that signal: the step fails, and no agent but this one is there to be asked.
        { kind: "signal", stepId: "never", timeoutMs: 1_000 },
      ],
    });
    const workflow = await harness.waitForWorkflow(workflowId, { withinMs: WITHIN_MS });
    const [step] = workflow.steps;
    must(step?.state === "completed", `the first step is ${step?.state}`, step?.state, "completed");
    const undone = step?.compensation;
    must(
      undone?.state === "completed",
      `what was done is not undone: ${undone?.error?.message ?? undone?.state ?? "nothing was begun"}`,
      undone?.state,
      "completed",
    );
    if (undone?.taskId != null) {
      await undo.expect?.((await supervisor.getTask(undone.taskId))?.result);
    }
    await harness.expectNoLoss();
  },
  ({ rollback: undo }) => (undo === undefined ? "no task is given that undoes another" : undefined),
);

const permission = path(
  "refuses a task that it is not made for, without touching it",
  async (stage) => {
    let called = 0;
    await stage.start(1, (_task, _context, run) => {
      called++;
      return run();
    });
    const task = await stage.ended(
      await stage.assign({ taskType: "contract-forbidden", parameters: { sudo: true } }),
    );
    must(task.state === "rejected", `the task is ${task.state}`, task.state, "rejected");
    must(called === 0, "a handler was called for it", called, 0);
    await stage.goesOn();
  },
);

const outage = path(
  "survives that its answer cannot be stored, and answers once",
  async (stage) => {
    let struck = false;
    await stage.start(1, async (_task, _context, run) => {
      const result = await run();
      if (!struck) stage.harness.faults.failNext("settle");
      struck = true;
      return result;
    });
    await stage.succeeded(await stage.assign(stage.agent.success));
    must(stage.harness.faults.outstanding === 0, "the answer was stored without acknowledging");
  },
);

const crash = path("leaves its task to another of its kind when it dies", async (stage) => {
  const { agent, harness } = stage;
  await stage.start(1, async (_task, _context, run) => {
    await harness.clock.sleep(WITHIN_MS);
    return run();
  });
  const taskId = await stage.assign(agent.success);
  await harness.settle();
  await harness.crashAgent(`${agent.name}-1`);
  await stage.start(2);
  const task = await stage.succeeded(taskId);
  const heir = `${agent.name}-2`;
  must(task.agentId === heir, `the task was completed by "${task.agentId}"`, task.agentId, heir);
});

export const PATHS: Readonly<Record<ContractPath, Path>> = {
  success,
  error,
  timeout,
  handoff,
  rollback,
  permission,
  outage,
  crash,
};
