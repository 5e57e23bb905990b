import { beforeEach, expect, it, onTestFinished } from "vitest";
import { AgentRunner, type AgentRunnerOptions } from "../../lib/coordination/agent-runner.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { stage, wipe } from "./stage.ts";

eachDatabase("an agent that runs and hands over", (database) => {
  let on: ReturnType<typeof stage>;
  beforeEach(async () => {
    await wipe(database);
    on = stage(database);
  });

  const run = async (
    agentId: string,
    options: Partial<AgentRunnerOptions> & Pick<AgentRunnerOptions, "tasks">,
  ) => {
    const { coordination } = on;
    const runner = new AgentRunner(on.knex, {
      agentId,
      capabilities: [agentId],
      coordination,
      ...options,
    });
    onTestFinished(() => runner.stop({ deadlineMs: 500 }));
    return runner.start();
  };
  const work = (more: object = {}) =>
    on.boss.assignTask({ taskType: "work", requiredCapabilities: ["a"], ...more });
  const ended = (taskId: string) => on.boss.waitForTask(taskId, { timeoutMs: 60_000 });

  it("gives its task to another agent, with what it has reached", async () => {
    const seen: unknown[] = [];
    await run("a", {
      tasks: {
        work: async (task, context) => {
          await context.progress(40, { page: 4 });
          const offered = await context.handOff({
            to: "b",
            reason: "expertise_required",
            currentState: { page: 4 },
            actionsRequired: "read on",
          });
          seen.push([task.handoff, offered.state, offered.assignment]);
          return "this is no answer";
        },
      },
    });
    await run("b", {
      tasks: {
        work: (task) => {
          seen.push([task.assignment, task.progress, task.handoff]);
          return "done by b";
        },
      },
    });
    const { taskId } = await work();
    expect(await ended(taskId)).toMatchObject({
      state: "completed",
      result: "done by b",
      agentId: "b",
      assignment: 2,
    });
    expect(seen).toEqual([
      [null, "offered", 1],
      [
        2,
        { percentage: 40, data: { page: 4 } },
        expect.objectContaining({
          from: "a",
          state: "accepted",
          currentState: { page: 4 },
          actionsRequired: ["read on"],
        }),
      ],
    ]);
    const [handoff] = await on.handoffs.list({ taskId });
    expect(handoff).toMatchObject({ state: "completed", outcome: "completed" });
    // The answers to the giver are no dead letters, and wait for nobody.
    await until(async () => (await on.waiting("a")).length === 0);
    expect(await on.queue.deadLetters.list()).toEqual([]);
  });

  it("gets the task back when nobody takes it", async () => {
    const runs: unknown[] = [];
    await run("a", {
      tasks: {
        work: async ({ handoff, assignment }, context) => {
          runs.push([assignment, handoff?.state ?? null, handoff?.note ?? null]);
          if (assignment < 3) {
            await context.handOff({ to: "b", reason: "not mine", dueMs: 60_000 });
            return;
          }
          return "then I do it";
        },
      },
    });
    await on.agent("b", ["b"]);
    const { taskId } = await work();
    const open = async () => {
      const [handoff] = await on.handoffs.list({ taskId, state: "offered" });
      return handoff?.handoffId;
    };
    // The run is over, and the task is the giver's all the same.
    const first = await until(open);
    await until(async () => (await on.waiting("a")).length === 0);
    expect(await on.task(taskId)).toMatchObject({ agentId: "a", assignment: 1, state: "working" });
    await on.handoffs.reject(first, "b", "nor mine");
    const second = await until(open);
    await on.expire(second);
    await on.sweep();
    expect(await ended(taskId)).toMatchObject({ state: "completed", result: "then I do it" });
    expect(runs).toEqual([
      [1, null, null],
      [2, "rejected", "nor mine"],
      [3, "returned", "not accepted in time"],
    ]);
  });

  it("rejects what it has no handler for, and takes a task when it has room", async () => {
    const runs: string[] = [];
    await run("a", {
      tasks: {
        work: async ({ handoff }, context) => {
          if (handoff !== null) return handoff.note;
          await context.handOff({ to: "b", reason: "r" });
        },
        other: (_, context) => context.handOff({ to: "b", reason: "r" }),
      },
    });
    let release = () => {};
    const hold = new Promise<void>((resolve) => {
      release = resolve;
    });
    await run("b", {
      tasks: {
        long: async () => {
          await hold;
        },
        other: (task) => void runs.push(task.taskId),
      },
    });
    const { taskId } = await work();
    expect(await ended(taskId)).toMatchObject({
      result: 'the agent "b" has no handler for tasks of the type "work"',
    });
    const long = await on.boss.assignTask({ taskType: "long", requiredCapabilities: ["b"] });
    const other = await work({ taskType: "other" });
    const offer = await until(
      async () => (await on.handoffs.list({ taskId: other.taskId, state: "offered" }))[0],
    );
    // Asked again and again, and not dead-lettered.
    await until(async () => {
      const message = await on.queue.getMessage(offer.messageId);
      return message?.state === "scheduled";
    });
    expect(runs).toEqual([]);
    release();
    await ended(long.taskId);
    expect(await ended(other.taskId)).toMatchObject({ agentId: "b", state: "completed" });
    expect(runs).toEqual([other.taskId]);
    const talk = await on.handoffs.initiate({ from: "a", to: "b", reason: "r", contextId: "talk" });
    await until(async () => (await on.handoffs.get(talk.handoffId))?.state === "rejected");
  });

  it("decides over offers by its own rule", async () => {
    const told: string[] = [];
    await run("a", {
      tasks: {
        work: async ({ handoff }, context) => {
          if (handoff?.state === "rejected") return `back: ${handoff.note}`;
          await context.handOff({ to: "b", reason: "r", priority: "low" });
        },
      },
      onMessage: ({ messageType }) => void told.push(messageType),
    });
    await run("b", {
      tasks: { work: () => "by b" },
      onHandoff: async (handoff, { accept, reject }) => {
        if (handoff.priority > 10 || handoff.taskId === null) await accept("gladly");
        else await reject("too low");
      },
    });
    const { taskId } = await work();
    expect(await ended(taskId)).toMatchObject({ result: "back: too low", agentId: "a" });
    const talk = await on.handoffs.initiate({ from: "a", to: "b", reason: "r" });
    const accepted = await until(async () => {
      const handoff = await on.handoffs.get(talk.handoffId);
      return handoff?.state === "accepted" && handoff;
    });
    expect(accepted).toMatchObject({ note: "gladly" });
    await until(() => told.length === 2);
    expect(told).toEqual(["HANDOFF_REJECTED", "HANDOFF_ACCEPTED"]);
  });

  it("goes on with its task when it cannot be offered", async () => {
    await run("a", {
      tasks: {
        work: async (_, context) => {
          const refused = await context
            .handOff({ to: "nobody", reason: "r" })
            .catch((error: { code: string }) => error.code);
          return { refused };
        },
      },
    });
    const { taskId } = await work();
    expect(await ended(taskId)).toMatchObject({ result: { refused: "UNKNOWN_RECIPIENT" } });
  });

  it("tells a running handler to stop when its task was handed over from outside", async () => {
    let reason = "";
    await run("a", {
      tasks: {
        work: (_, { signal }) =>
          new Promise<void>((resolve) => {
            signal.addEventListener("abort", () => {
              reason = String(signal.reason);
              resolve();
            });
          }),
      },
    });
    const { taskId } = await work();
    await until(async () => (await on.task(taskId)).state === "working");
    await run("b", { tasks: { work: () => "by b" } });
    await on.handoffs.initiate({ from: "a", to: "b", taskId, reason: "r" });
    expect(await ended(taskId)).toMatchObject({ result: "by b", assignment: 2 });
    await until(() => reason.includes('handed over to "b"'));
  });

  it("is listened to outside of a runner", async () => {
    await on.agent("a", ["a"]);
    await on.agent("b", ["b"]);
    const seen: string[] = [];
    const worker = on.handoffs.on("b", async (handoff, { accept }) => {
      seen.push(handoff.reason);
      if (handoff.reason === "fails" && seen.length === 1) throw new Error("once");
      await accept();
    });
    onTestFinished(() => worker.stop());
    // What is not for it stays in the mailbox.
    await on.queue.sendMessage({ toAgent: "b", messageType: "NOTE", content: {} });
    const { handoffId } = await on.handoffs.initiate({ from: "a", to: "b", reason: "fails" });
    await until(async () => (await on.handoffs.get(handoffId))?.state === "accepted");
    expect(seen).toEqual(["fails", "fails"]);
    expect(await on.waiting("b")).toEqual(["NOTE"]);
  });
});
