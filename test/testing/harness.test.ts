import { describe, expect, it } from "vitest";
import { MessageTimeout, type TaskInput } from "../../lib/index.ts";
import type { TestOutbox } from "../../lib/testing/index.ts";
import { testOutbox } from "./support.ts";

const add = {
  taskType: "add",
  description: "add two numbers",
  parameters: { a: 2, b: 3 },
  requiredCapabilities: ["arithmetic"],
} satisfies TaskInput;

const sum = (task: { parameters: Readonly<Record<string, unknown>> }) =>
  Number(task.parameters.a) + Number(task.parameters.b);

function adder(harness: TestOutbox, agentId = "adder") {
  return harness.agent({ agentId, capabilities: ["arithmetic"], tasks: { add: sum } });
}

describe("deliver", () => {
  it("hands one message to a handler, and says what came of it", async () => {
    const harness = await testOutbox();
    const delivery = await harness.deliver(
      {
        toAgent: "analysis",
        fromAgent: "detection",
        messageType: "ANALYSIS_REQUEST",
        content: { n: 1 },
      },
      async (message) => {
        await message.reply({ root_cause: "disk" }, { messageType: "ANALYSIS_RESULT" });
        await harness.queue.sendMessage({ toAgent: "log", messageType: "NOTE", content: {} });
        return { status: "SUCCESS" };
      },
    );
    expect(delivery).toMatchObject({
      outcome: "acked",
      returned: { status: "SUCCESS" },
      error: null,
    });
    expect(
      delivery.replies.map(({ toAgent, messageType, content }) => [toAgent, messageType, content]),
    ).toEqual([["detection", "ANALYSIS_RESULT", { root_cause: "disk" }]]);
    expect(delivery.sent.map(({ toAgent }) => toAgent).sort()).toEqual(["detection", "log"]);
  });

  it("tells of failures, dead letters and deferrals", async () => {
    const harness = await testOutbox();
    const to = (messageId: string) => ({
      toAgent: "a",
      messageType: "NOTE",
      content: {},
      messageId,
    });
    const nacked = await harness.deliver(to("1"), () => {
      throw new Error("not today");
    });
    expect(nacked).toMatchObject({
      outcome: "nacked",
      returned: undefined,
      error: { message: "not today" },
    });
    const dead = await harness.deliver(to("2"), (message) => message.deadLetter("rejected"));
    expect(dead.outcome).toBe("dead_lettered");
    const deferred = await harness.deliver(to("3"), (message) => message.defer(1_000));
    expect(deferred.outcome).toBe("released");
  });

  it("leaves the message where nobody works the mailbox, and uses who does", async () => {
    const harness = await testOutbox();
    const note = { toAgent: "a", messageType: "NOTE", content: {} };
    expect((await harness.deliver(note)).outcome).toBe("waiting");
    await harness.consumer("a", () => undefined);
    expect((await harness.deliver(note)).outcome).toBe("acked");
  });
});

describe("agents and supervisors", () => {
  it("do a task while the clock stands still", async () => {
    const harness = await testOutbox();
    const supervisor = await harness.supervisor();
    await adder(harness);
    const { taskId } = await supervisor.assignTask(add);
    const task = await harness.waitForTask(taskId);
    expect(task).toMatchObject({ state: "completed", result: 5, agentId: "adder" });
    expect(task.finishedAt).toBe(harness.clock.now);
    expect(
      harness.events
        .filter(({ type }) => type === "task")
        .map((event) => "event" in event && event.event),
    ).toEqual(["submitted", "assigned", "completed"]);
    expect(await harness.sent({ messageType: "TASK_RESPONSE" })).toMatchObject([
      { fromAgent: "adder", toAgent: "supervisor", taskId, content: { result: 5 } },
    ]);
  });

  it("give a task of a crashed agent to another one, by the virtual clock alone", async () => {
    const harness = await testOutbox();
    const supervisor = await harness.supervisor();
    let late: unknown;
    await harness.agent({
      agentId: "first",
      capabilities: ["arithmetic"],
      tasks: {
        add: async (task) => {
          await harness.clock.sleep(3_600_000);
          late = sum(task);
          return "too late";
        },
      },
    });
    const { taskId } = await supervisor.assignTask(add);
    await harness.settle();
    await harness.crashAgent("first");
    await adder(harness, "second");
    await harness.clock.advance(60_000);
    expect(await supervisor.getTask(taskId), "it beat until it crashed").toMatchObject({
      state: "working",
      agentId: "first",
    });
    const task = await harness.waitForTask(taskId);
    expect(task).toMatchObject({ state: "completed", result: 5, agentId: "second", assignment: 2 });
    await harness.clock.advance(7_200_000);
    expect(late, "the dead process ran on, and nobody heard").toBe(5);
    expect(await supervisor.getTask(taskId)).toMatchObject({ result: 5, agentId: "second" });
    await harness.expectNoLoss();
  });

  it("fence off what a frozen agent says when it thaws", async () => {
    const harness = await testOutbox();
    const supervisor = await harness.supervisor();
    await harness.agent({
      agentId: "first",
      capabilities: ["arithmetic"],
      tasks: {
        add: async () => {
          await harness.clock.sleep(10_000);
          return "of the frozen one";
        },
      },
    });
    const { taskId } = await supervisor.assignTask(add);
    await harness.settle();
    harness.freezeAgent("first");
    await adder(harness, "second");
    const task = await harness.waitForTask(taskId);
    expect(task).toMatchObject({ result: 5, agentId: "second" });
    await harness.thawAgent("first");
    await harness.settle();
    expect(await supervisor.getTask(taskId)).toMatchObject({ result: 5, agentId: "second" });
    const other = await supervisor.assignTask({ ...add, taskId: "other" });
    expect(other.state, "it is back").toBe("assigned");
  });

  it("may start again after a crash, under the same id", async () => {
    const harness = await testOutbox();
    const supervisor = await harness.supervisor();
    await adder(harness);
    await harness.crashAgent("adder");
    await expect(adder(harness)).resolves.toMatchObject({ agentId: "adder" });
    await expect(adder(harness)).rejects.toThrow('"adder" runs in this test already');
    const { taskId } = await supervisor.assignTask(add);
    expect((await harness.waitForTask(taskId)).result).toBe(5);
  });

  it("go on when the supervisor crashes and another one takes over", async () => {
    const harness = await testOutbox();
    const supervisor = await harness.supervisor("boss");
    const { taskId } = await supervisor.assignTask(add);
    await harness.crashAgent("boss");
    await adder(harness);
    await harness.supervisor("boss");
    expect((await harness.waitForTask(taskId)).result).toBe(5);
  });

  it("end a task by its deadline, and abort its handler", async () => {
    const harness = await testOutbox();
    const supervisor = await harness.supervisor();
    let reason: unknown;
    await harness.agent({
      agentId: "slow",
      capabilities: ["arithmetic"],
      tasks: {
        add: async (_task, { signal }) => {
          await harness.clock.sleep(3_600_000, { signal }).catch((why: unknown) => {
            reason = why;
          });
        },
      },
    });
    const { taskId } = await supervisor.assignTask({ ...add, deadlineMs: 5_000 });
    const begun = harness.clock.now;
    const task = await harness.waitForTask(taskId);
    expect(task).toMatchObject({ state: "failed", lastError: { code: "TASK_DEADLINE" } });
    expect((task.finishedAt as number) - begun).toBe(5_000);
    await harness.settle();
    expect(String(reason)).toContain("taken back");
  });
});

describe("what waits for others", () => {
  it("rests while an agent asks, and goes on with the answer", async () => {
    const harness = await testOutbox();
    const supervisor = await harness.supervisor();
    let runs = 0;
    await harness.agent({
      agentId: "asker",
      capabilities: ["arithmetic"],
      tasks: {
        add: async (task, { requestInput }) => {
          runs++;
          return sum(task) + Number(await requestInput({ prompt: "and how much more?" }));
        },
      },
    });
    const { taskId } = await supervisor.assignTask(add);
    await harness.settle();
    expect((await supervisor.getTask(taskId))?.state).toBe("input_required");
    const [question] = await harness.outbox.tasks.inputs();
    expect(question?.prompt).toBe("and how much more?");
    await harness.outbox.tasks.answer(String(question?.inputId), 10);
    expect((await harness.waitForTask(taskId)).result).toBe(15);
    expect(runs).toBe(2);
  });

  it("rests while parts of a task are done by others", async () => {
    const harness = await testOutbox();
    const supervisor = await harness.supervisor();
    await adder(harness);
    await harness.agent({
      agentId: "splitter",
      capabilities: ["splitting"],
      tasks: {
        split: async (_task, { subtask, subtasks }) => {
          for (const a of [1, 2, 3]) await subtask({ ...add, parameters: { a, b: 1 } });
          return (await subtasks()).map(({ result }) => result);
        },
      },
    });
    const { taskId } = await supervisor.assignTask({
      taskType: "split",
      description: "in three",
      requiredCapabilities: ["splitting"],
    });
    expect((await harness.waitForTask(taskId)).result).toEqual([2, 3, 4]);
  });

  it("ends a run that takes longer than it may, by the virtual clock", async () => {
    const harness = await testOutbox();
    const supervisor = await harness.supervisor();
    await harness.agent({
      agentId: "slow",
      capabilities: ["arithmetic"],
      tasks: {
        add: {
          timeoutMs: 20_000,
          run: (_task, { signal }) => harness.clock.sleep(3_600_000, { signal }),
        },
      },
    });
    const { taskId } = await supervisor.assignTask({ ...add, maxAssignments: 1 });
    const begun = harness.clock.now;
    const task = await harness.waitForTask(taskId);
    expect(task).toMatchObject({ state: "failed", lastError: { code: "TASK_TIMEOUT" } });
    expect((task.finishedAt as number) - begun).toBeLessThan(60_000);
  });

  it("runs workflows to their end, with the pauses between their attempts", async () => {
    const harness = await testOutbox();
    await harness.supervisor("workflows");
    let runs = 0;
    await harness.agent({
      agentId: "adder",
      tasks: {
        add: (task) => {
          if (++runs < 3) throw Object.assign(new Error("not yet"), { retryable: false });
          return sum(task);
        },
      },
    });
    const { workflowId } = await harness.outbox.workflows.start({
      workflowType: "sum",
      steps: [
        {
          stepId: "one",
          taskType: "add",
          parameters: { a: 1, b: 1 },
          retry: { maxAttempts: 3, delayMs: 60_000 },
        },
      ],
    });
    const begun = harness.clock.now;
    const workflow = await harness.waitForWorkflow(workflowId);
    expect(workflow).toMatchObject({ state: "completed", result: { one: 2 } });
    expect(harness.clock.now - begun).toBeGreaterThanOrEqual(180_000);
    const endless = await harness.outbox.workflows.start({
      workflowType: "question",
      steps: [{ kind: "signal", stepId: "approval" }],
    });
    await expect(harness.waitForWorkflow(endless.workflowId, { withinMs: 1_000 })).rejects.toThrow(
      /the workflow ".*" is running after 1000 ms of virtual time: /,
    );
  });
});

describe("what happens by itself, happens by the virtual clock", () => {
  it("fires schedules at their times", async () => {
    const harness = await testOutbox();
    const fired: number[] = [];
    await harness.consumer("reporter", () => {
      fired.push(harness.clock.now);
    });
    const begun = harness.clock.now;
    await harness.queue.schedules.set(
      "hourly",
      { everyMs: 3_600_000 },
      { toAgent: "reporter", messageType: "REPORT", content: {} },
    );
    await harness.clock.advance(3 * 3_600_000);
    expect(fired.map((at) => (at - begun) / 3_600_000)).toEqual([1, 2, 3]);
  });

  it("buries what nobody takes before it expires", async () => {
    const harness = await testOutbox();
    const { messageId } = await harness.queue.sendMessage({
      ...{ toAgent: "nobody", messageType: "NOTE", content: {}, ttlMs: 5_000 },
    });
    await harness.clock.advance(4_999);
    await expect(harness.assertDeadLettered(messageId)).rejects.toThrow("is ready, not dead");
    await harness.clock.advance(1);
    await harness.assertDeadLettered(messageId, "expired");
  });

  it("awards what is auctioned when the time for bids is over", async () => {
    const harness = await testOutbox();
    const supervisor = await harness.supervisor();
    for (const [agentId, price] of [
      ["a-dear", 9],
      ["b-cheap", 2],
    ] as const) {
      await harness.agent({
        agentId,
        capabilities: ["arithmetic"],
        tasks: { add: sum },
        bid: () => price,
      });
    }
    const { taskId } = await supervisor.assignTask({ ...add, strategy: "auction" });
    const task = await harness.waitForTask(taskId);
    expect(task).toMatchObject({ state: "completed", agentId: "b-cheap" });
  });
});

describe("waitForTask", () => {
  it("ends with the task's state when it does not end in time", async () => {
    const harness = await testOutbox();
    const supervisor = await harness.supervisor();
    const { taskId } = await supervisor.assignTask(add);
    const begun = harness.clock.now;
    const error = await harness.waitForTask(taskId, { withinMs: 60_000 }).catch((thrown) => thrown);
    expect(error).toBeInstanceOf(MessageTimeout);
    expect(error.message).toContain("is submitted after 60000 ms of virtual time: ");
    expect(error.message, "and why").toMatch(/arithmetic/);
    expect(harness.clock.now - begun).toBe(60_000);
    await expect(harness.waitForTask("nothing")).rejects.toThrow('there is no task "nothing"');
  });
});
