import { setTimeout as sleep } from "node:timers/promises";
import { beforeEach, expect, it, onTestFinished } from "vitest";
import {
  AgentRunner,
  type AgentRunnerOptions,
  runAgent,
} from "../../lib/coordination/agent-runner.ts";
import { ValidationFailed } from "../../lib/errors.ts";
import { Observers } from "../../lib/protocol/events.ts";
import { eachDatabase } from "../support/databases.ts";
import { spawnScript, until } from "../support/processes.ts";
import { elapse } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";
import { stage, wipe } from "./stage.ts";

/** Of agents in processes of their own: how often they beat, and their lease. A machine that holds them up for a second loses none. */
const PATIENT = ["2000", "10000"] as const;

eachDatabase("an agent that runs", (database) => {
  let on: ReturnType<typeof stage>;
  beforeEach(async () => {
    await wipe(database);
    on = stage(database);
  });

  const run = async (options: Partial<AgentRunnerOptions> & Pick<AgentRunnerOptions, "tasks">) => {
    const runner = await runAgent(on.knex, { agentId: "a", capabilities: ["x"], ...options });
    onTestFinished(() => runner.stop({ deadlineMs: 500 }));
    return runner;
  };
  const assign = (taskType: string, more: object = {}) =>
    on.boss.assignTask({ taskType, requiredCapabilities: ["x"], ...more });
  const ended = (taskId: string) => on.boss.waitForTask(taskId, { timeoutMs: 60_000 });

  it.each([
    ["results", "done", () => "done", { state: "completed", result: "done" }],
    [
      "errors",
      "broken",
      () => {
        throw new ValidationFailed("broken");
      },
      { state: "failed", lastError: { message: "broken" } },
    ],
  ])("sends %s that outlive supervisors which die with them", async (_, type, handler, end) => {
    await run({ tasks: { [type]: handler } });
    const { taskId, messageId } = await assign(type);
    const answerId = `${type === "done" ? "response" : "error"}-${messageId}`;
    await until(async () => (await on.queue.getMessage(answerId)) !== null);
    for (let death = 1; death <= 5; death++) {
      const [claimed] = await on.queue.getMessages("boss");
      expect(claimed).toMatchObject({ messageId: answerId, attempt: death });
      await elapse(on.knex, 600_000, answerId);
    }
    expect(await ended(taskId)).toMatchObject(end);
  });

  it("does tasks by their type and sends the result", async () => {
    const runner = await run({
      maxConcurrentTasks: 3,
      metadata: { version: "1" },
      tasks: {
        add: ({ parameters, description, assignment, progress }) => ({
          sum: Number(parameters.a) + Number(parameters.b),
          description,
          assignment,
          progress,
        }),
        nothing: async () => undefined,
        scalar: () => "text",
      },
    });
    expect(await on.registry.getAgent("a")).toMatchObject({
      capabilities: ["x"],
      maxConcurrentTasks: 3,
      metadata: { version: "1" },
      staleAfterMs: 90_000,
      available: true,
    });
    const add = await assign("add", { parameters: { a: 2, b: 3 }, description: "two and three" });
    expect(await ended(add.taskId)).toMatchObject({
      state: "completed",
      result: { sum: 5, description: "two and three", assignment: 1, progress: null },
      progress: { percentage: 100 },
    });
    expect(await ended((await assign("nothing")).taskId)).toMatchObject({ result: null });
    expect(await ended((await assign("scalar")).taskId)).toMatchObject({ result: "text" });
    const answer = await on.queue.getMessage(`response-${add.messageId}`);
    expect(answer).toMatchObject({
      state: "processed",
      content: { status: "completed", completion_percentage: 100, assignment: 1 },
    });
    await runner.stop();
    expect(await on.registry.getAgent("a")).toMatchObject({ status: "offline", available: false });
  });

  it("never does more at once than its limit", async () => {
    let active = 0;
    let most = 0;
    await run({
      maxConcurrentTasks: 2,
      tasks: {
        work: async () => {
          most = Math.max(most, ++active);
          // Long enough for a second one to begin beside it, also where a claim takes its time.
          for (let n = 0; n < 100 && most < 2; n++) await sleep(20);
          await sleep(20);
          active--;
        },
      },
    });
    on.boss.start({ intervalMs: 20 });
    onTestFinished(() => on.boss.stop());
    const tasks = [];
    for (let n = 0; n < 8; n++) tasks.push(await assign("work"));
    for (const { taskId } of tasks)
      expect(await ended(taskId)).toMatchObject({ state: "completed" });
    expect(most).toBe(2);
  });

  it("reports failures: tried again, or not, and unknown types as rejected", async () => {
    const seen: number[] = [];
    await run({
      tasks: {
        flaky: ({ assignment }) => {
          seen.push(assignment);
          if (assignment === 1) throw new Error("not today");
          return "better";
        },
        hopeless: () => {
          throw Object.assign(new Error("never"), { retryable: false });
        },
        unsendable: () => 10n,
        huge: () => "x".repeat(2_000_000),
        odd: () => {
          throw "just text\u0000";
        },
      },
    });
    expect(await ended((await assign("flaky")).taskId)).toMatchObject({
      state: "completed",
      result: "better",
      assignment: 2,
      lastError: { code: "task_execution_failure", message: "not today", agentId: "a" },
    });
    expect(seen).toEqual([1, 2]);
    expect(await ended((await assign("hopeless")).taskId)).toMatchObject({
      state: "failed",
      assignment: 1,
      lastError: { message: "never", stack: expect.stringContaining("Error: never") },
    });
    expect(await ended((await assign("unsendable")).taskId)).toMatchObject({
      state: "failed",
      assignment: 1,
    });
    expect(await ended((await assign("huge")).taskId)).toMatchObject({
      state: "failed",
      assignment: 1,
    });
    expect(await ended((await assign("odd", { maxAssignments: 1 })).taskId)).toMatchObject({
      state: "failed",
      lastError: { message: "just text␀" },
    });
    expect(await ended((await assign("unknown")).taskId)).toMatchObject({
      state: "rejected",
      lastError: { message: expect.stringContaining('"unknown"') },
    });
    expect(await on.queue.deadLetters.list()).toEqual([]);
  });

  it("stores progress, and hands it to the next run", async () => {
    let progress: unknown;
    await run({
      tasks: {
        long: async (task, context) => {
          if (task.assignment === 2) {
            progress = task.progress;
            return "done";
          }
          await context.progress(30, { page: 3 });
          const stored = await on.boss.getTask(task.taskId);
          expect(stored).toMatchObject({
            state: "working",
            progress: { percentage: 30, data: { page: 3 } },
          });
          expect(stored?.startedAt).not.toBeNull();
          await expect(context.progress(101)).rejects.toThrow(ValidationFailed);
          throw new Error("half way");
        },
      },
    });
    expect(await ended((await assign("long")).taskId)).toMatchObject({ result: "done" });
    expect(progress).toEqual({ percentage: 30, data: { page: 3 } });
  });

  it("writes in the transaction that ends the task, exactly once", async () => {
    await on.knex.schema.createTable("effects", (table) => void table.string("task_id"));
    onTestFinished(async () => void (await on.knex.schema.dropTable("effects")));
    await run({
      tasks: {
        write: async (task, context) => {
          await context.tx(async (tx) => {
            await tx("effects").insert({ task_id: task.taskId });
            await context.progress(90);
            if (task.assignment === 1) throw new Error("rolled back");
            return { written: true };
          });
        },
      },
    });
    const { taskId } = await assign("write");
    expect(await ended(taskId)).toMatchObject({ result: { written: true }, assignment: 2 });
    expect(await on.knex("effects")).toEqual([{ task_id: taskId }]);
  });

  it("stops a task that is canceled, also while all its places are taken", async () => {
    let aborted: unknown;
    let progressed: unknown;
    await run({
      tasks: {
        endless: async (task, { signal, progress }) => {
          await new Promise((done) => signal.addEventListener("abort", done));
          aborted = signal.reason;
          progressed = await progress(1).catch((error: unknown) => error);
          return task.taskId;
        },
      },
    });
    const { taskId } = await assign("endless");
    await until(async () => (await on.boss.getTask(taskId))?.state === "working");
    expect(await on.boss.cancelTask(taskId, "enough")).toBe(true);
    await until(() => progressed !== undefined);
    expect(String(aborted)).toMatch(/enough/);
    expect(progressed).toMatchObject({ code: "LEASE_LOST" });
    await on.boss.processIncomingMessages();
    expect(await on.boss.getTask(taskId)).toMatchObject({ state: "canceled", result: null });
    await until(async () => (await on.queue.getQueueStats("a")).leased === 0);
    expect(await on.queue.getQueueStats("a")).toMatchObject({ pending: 0, leased: 0, dead: 0 });
  });

  it("does not begin a task that was taken away, and drops one that is", async () => {
    const began: string[] = [];
    let stopped = false;
    const runner = await run({
      heartbeatIntervalMs: 50,
      maxConcurrentTasks: 2,
      tasks: {
        work: async ({ taskId }, { signal }) => {
          began.push(taskId);
          await new Promise((done) => signal.addEventListener("abort", done));
          stopped = true;
        },
      },
    });
    // It beats often, to be told soon; a machine that holds it up is not to make it lost.
    await on.knex("outbox_agents").update({ stale_after_ms: 86_400_000 });
    // As if a supervisor had given it to another agent, and the cancelled message had been claimed before.
    await on.queue.pause("a");
    const stale = await assign("work");
    await on
      .knex("outbox_tasks")
      .where({ task_id: stale.taskId })
      .update({ assignment: 2, agent_id: "b" });
    await on.queue.resume("a");
    await until(
      async () => (await on.queue.getMessage(stale.messageId as string))?.state === "processed",
    );
    const taken = await assign("work");
    await until(() => began.length === 1);
    await on
      .knex("outbox_tasks")
      .where({ task_id: taken.taskId })
      .update({ assignment: 2, agent_id: "b" });
    await until(() => stopped);
    expect(began).toEqual([taken.taskId]);
    expect(runner.agentId).toBe("a");
  });

  it("does tasks that a plain message brings, without a supervisor", async () => {
    await run({ tasks: { greet: ({ parameters }) => `hello ${parameters.name}` } });
    await on.queue.sendMessage({
      fromAgent: "someone",
      toAgent: "a",
      messageType: "TASK_REQUEST",
      content: { task_id: "plain", task_type: "greet", parameters: { name: "you" } },
    });
    const [answer] = await on.queue.getMessages("someone", { waitMs: 10_000 });
    expect(answer).toMatchObject({
      messageType: "TASK_RESPONSE",
      content: { task_id: "plain", status: "completed", result: "hello you" },
    });
    await on.queue.sendMessage({
      toAgent: "a",
      messageType: "TASK_REQUEST",
      content: { nonsense: 1 },
    });
    await until(async () => (await on.queue.deadLetters.list({ agentId: "a" })).length === 1);
    expect((await on.queue.deadLetters.list())[0]).toMatchObject({ reason: "schema" });
  });

  it("leaves other messages alone, or hands them to onMessage", async () => {
    await run({ agentId: "quiet", tasks: {} });
    const heard: string[] = [];
    await run({
      agentId: "listener",
      tasks: {},
      onMessage: (message) => heard.push(message.messageType),
    });
    await on.queue.sendMessage({
      toAgent: ["quiet", "listener"],
      messageType: "NEWS",
      content: {},
    });
    await until(() => heard.length === 1);
    expect(heard).toEqual(["NEWS"]);
    expect(await on.queue.getMessages("quiet")).toHaveLength(1);
  });

  it(
    "beats, comes back after it was removed, and leaves tasks to others when it stops",
    TIMED,
    async () => {
      let load = 0;
      const runner = await run({
        heartbeatIntervalMs: 50,
        metrics: () => ({ load: ++load }),
        tasks: {
          endless: (_, { signal }) =>
            new Promise((_done, fail) =>
              signal.addEventListener("abort", () => fail(signal.reason)),
            ),
        },
      });
      await until(async () => (await on.registry.getAgent("a"))?.metrics.load !== undefined);
      await on.registry.deregisterAgent("a");
      await until(async () => (await on.registry.getAgent("a")) !== null);
      const { taskId } = await assign("endless");
      await until(() => runner.activeTasks === 1);
      const before = performance.now();
      await runner.stop({ deadlineMs: 300 });
      expect(performance.now() - before).toBeLessThan(2_500);
      await on.agent("b", ["x"]);
      await on.boss.processIncomingMessages();
      expect(await on.boss.getTask(taskId)).toMatchObject({ agentId: "b", assignment: 2 });
      await expect(runner.start()).rejects.toMatchObject({ code: "CLOSED" });
    },
  );

  it("beats on without metrics that cannot be had or stored, and tells each cause once", async () => {
    const faults: [string, () => unknown, RegExp][] = [
      ["throws", () => fail(new Error(`no figures ${Math.random()}`)), /no figures/],
      ["rejects", async () => fail(new Error("no promise")), /no promise/],
      ["hangs", () => new Promise(() => undefined), /took longer/],
      ["nan", () => ({ load: Number.NaN }), /NaN|finite|number/],
      ["huge", () => ({ load: "x".repeat(70_000) }), /large|bytes|65/i],
      ["text", () => "busy", /metrics/],
    ];
    const fail = (error: Error) => {
      throw error;
    };
    let well = false;
    const told: [string, string][] = [];
    const observers = new Observers();
    observers.add((events) => {
      for (const event of events) {
        if (event.type === "error") told.push([String(event.agentId), event.errorMessage]);
      }
    });
    for (const [agentId, metrics] of faults) {
      await run({
        agentId,
        observers,
        tasks: {},
        heartbeatIntervalMs: 50,
        metrics: (() => (well && agentId !== "hangs" ? { well } : metrics())) as never,
      });
    }
    const agents = () => on.registry.listAgents();
    const since = Math.max(...(await agents()).map(({ heartbeatAt }) => heartbeatAt));
    await until(async () => (await agents()).every((agent) => agent.heartbeatAt > since + 400));
    for (const [agentId, , message] of faults) {
      expect(told.filter(([id]) => id === agentId)).toEqual([
        [agentId, expect.stringMatching(message)],
      ]);
    }
    well = true;
    await until(async () => (await on.registry.getAgent("huge"))?.metrics.well === true);
  });

  it("waits for metrics that come soon", async () => {
    await run({ tasks: {}, heartbeatIntervalMs: 50, metrics: async () => ({ load: 7 }) });
    await until(async () => (await on.registry.getAgent("a"))?.metrics.load === 7);
  });

  it("does not begin to work when it is stopped while it starts", async () => {
    for (const agentId of ["p", "q"]) {
      const runner = new AgentRunner(on.knex, { agentId, capabilities: ["x"], tasks: {} });
      const starting = runner.start().catch((error: unknown) => error);
      if (agentId === "q") await Promise.resolve();
      await runner.stop();
      expect(await starting).toMatchObject({ code: "CLOSED" });
      expect(await on.registry.getAgent(agentId)).toMatchObject({ status: "offline" });
    }
    expect(await assign("work")).toMatchObject({ agentId: null });
  });

  it("loses its tasks to another one when its process is killed", async () => {
    const scripts = ["p", "q"].map((agentId) =>
      spawnScript("test/coordination/programs/agent.ts", [database.url(), agentId, ...PATIENT]),
    );
    await Promise.all(scripts.map((script) => script.message()));
    const { taskId, agentId } = await assign("slow");
    const [doomed, other] = agentId === "p" ? scripts : [...scripts].reverse();
    expect(await doomed?.message()).toEqual({ began: taskId, assignment: 1 });
    doomed?.kill("SIGKILL");
    await until(async () => {
      await on.boss.processIncomingMessages();
      return (await on.boss.getTask(taskId))?.assignment === 2;
    });
    expect(await other?.message()).toEqual({ began: taskId, assignment: 2 });
    const quick = await assign("quick");
    expect(await ended(quick.taskId)).toMatchObject({ state: "completed" });
  });

  it("drops its task when its process was frozen and wakes up", async () => {
    const args = [database.url(), "frozen", ...PATIENT];
    const frozen = spawnScript("test/coordination/programs/agent.ts", args);
    await frozen.message();
    const { taskId } = await assign("slow");
    expect(await frozen.message()).toEqual({ began: taskId, assignment: 1 });
    frozen.kill("SIGSTOP");
    await on.agent("b", ["x"]);
    await until(async () => {
      await on.boss.processIncomingMessages();
      return (await on.boss.getTask(taskId))?.agentId === "b";
    });
    frozen.kill("SIGCONT");
    expect(await frozen.message()).toEqual({ aborted: taskId });
    await on.answer("b", { status: "completed", result: "b did it" });
    await on.boss.processIncomingMessages();
    expect(await on.boss.getTask(taskId)).toMatchObject({ state: "completed", result: "b did it" });
  });

  it("refuses bad options", () => {
    const tasks = {};
    for (const options of [
      undefined,
      {},
      { agentId: "a" },
      { agentId: "a b", tasks },
      { agentId: "a", tasks: [] },
      { agentId: "a", tasks: { t: "text" } },
      { agentId: "a", tasks, maxConcurrentTasks: 0 },
      { agentId: "a", tasks, heartbeatIntervalMs: 1 },
      { agentId: "a", tasks, leaseMs: "30s" },
      { agentId: "a", tasks, onMessage: 3 },
      { agentId: "a", tasks, unknown: 1 },
    ]) {
      expect(() => new AgentRunner(on.knex, options as never), JSON.stringify(options)).toThrow(
        ValidationFailed,
      );
    }
  });
});
