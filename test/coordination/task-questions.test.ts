import { beforeEach, describe, expect, it } from "vitest";
import { AgentCommunicationError, ValidationFailed } from "../../lib/errors.ts";
import { checkAnswer, checkAnswerSchema } from "../../lib/protocol/task-inputs.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { wipe } from "./stage.ts";
import { taskStage } from "./task-stage.ts";

describe("the schema of an answer", () => {
  it("takes what meets it, and says what does not", () => {
    const schema = {
      type: "object",
      required: ["amount"],
      properties: { amount: { type: "number", minimum: 1 }, who: { enum: ["me", "you"] } },
    };
    checkAnswerSchema(schema);
    expect(() => checkAnswer(schema, { amount: 2, who: "me" })).not.toThrow();
    for (const wrong of [{ amount: 0 }, { who: "me" }, { amount: 1, who: "we" }, "text", null]) {
      expect(() => checkAnswer(schema, wrong)).toThrow(ValidationFailed);
    }
    // Only objects have properties, also where the type is not written down.
    expect(() => checkAnswer({ required: ["amount"] }, "text")).toThrow(ValidationFailed);
    expect(() => checkAnswer(null, "anything")).not.toThrow();
    expect(() => checkAnswerSchema({ type: "sideways" })).toThrow(ValidationFailed);
  });
});

eachDatabase("questions of a running task", (database) => {
  let on: ReturnType<typeof taskStage>;
  beforeEach(async () => {
    await wipe(database);
    await database.knex()("outbox_task_inputs").del();
    on = taskStage(database);
  });

  const open = async () => {
    await until(async () => (await on.tasks.inputs()).length > 0);
    const [input] = await on.tasks.inputs();
    return input as NonNullable<typeof input>;
  };

  it("are asked, answered and go on in the same run", async () => {
    const seen: unknown[] = [];
    await on.run({
      tasks: {
        work: async (_task, context) => {
          seen.push("run");
          const answer = await context.requestInput({
            prompt: "How many?",
            schema: { type: "integer", minimum: 1 },
          });
          return { answer };
        },
      },
    });
    on.supervise();
    const { taskId } = await on.boss.assignTask(on.needsX({ requestedBy: "alice" }));
    const input = await open();
    expect(input).toMatchObject({
      taskId,
      kind: "input",
      prompt: "How many?",
      state: "open",
      askedBy: "a",
      assignment: 1,
      answer: null,
    });
    expect(await on.tasks.get(taskId)).toMatchObject({ state: "input_required", agentId: "a" });
    const asked = await on.next("alice");
    expect(asked).toMatchObject({
      messageType: "INPUT_REQUEST",
      fromAgent: "a",
      replyTo: "boss",
      taskId,
      content: { input_id: input.inputId, prompt: "How many?", kind: "input" },
    });
    await expect(on.tasks.answer(input.inputId, "many")).rejects.toThrow(ValidationFailed);
    expect(await on.tasks.answer(input.inputId, 3, { by: "alice" })).toMatchObject({
      outcome: "answered",
      input: { answer: 3, answeredBy: "alice", state: "answered" },
    });
    expect(await on.tasks.wait(taskId)).toMatchObject({
      state: "completed",
      result: { answer: 3 },
      assignment: 1,
      maxAssignments: 3,
    });
    expect(seen).toEqual(["run"]);
    expect(await on.tasks.answer(input.inputId, 4)).toMatchObject({
      outcome: "already_answered",
      input: { answer: 3 },
    });
    expect(await on.tasks.inputs()).toEqual([]);
    expect(await on.tasks.inputs({ taskId, all: true })).toHaveLength(1);
    expect(on.eventNames()).toEqual([
      "submitted",
      "assigned",
      "input_required",
      "input_answered",
      "completed",
      "stale",
    ]);
    await expect(on.tasks.answer("nothing", 1)).rejects.toMatchObject({ code: "UNKNOWN_INPUT" });
  });

  it("give the place away, and a new run finds the answer: nothing is asked twice", async () => {
    const runs: unknown[] = [];
    await on.run({
      tasks: {
        work: async (task, context) => {
          runs.push(task.inputs.map(({ answer }) => answer));
          await context.progress(10, { step: runs.length });
          const name = await context.requestInput({ prompt: "Name?", waitMs: 0 });
          const key = await context.requestInput({ prompt: "Key?", kind: "auth", waitMs: 0 });
          return { name, key, progress: task.progress?.data };
        },
        other: () => "the place is free",
      },
    });
    on.supervise();
    const { taskId } = await on.boss.assignTask(on.needsX());
    const name = await open();
    await until(async () => (await on.tasks.get(taskId))?.agentId === null);
    expect(await on.tasks.get(taskId)).toMatchObject({
      state: "input_required",
      waitsFor: 1,
      runDeadlineAt: null,
      maxAssignments: 4,
    });
    const other = await on.boss.assignTask(on.needsX({ taskType: "other" }));
    expect(await on.tasks.wait(other.taskId)).toMatchObject({ result: "the place is free" });
    await on.tasks.answer(name.inputId, "Ada");
    await on.becomes(taskId, "auth_required");
    const key = await open();
    expect(key).toMatchObject({ kind: "auth", prompt: "Key?", assignment: 2 });
    await until(async () => (await on.tasks.get(taskId))?.agentId === null);
    await on.tasks.answer(key.inputId, "secret");
    expect(await on.tasks.wait(taskId)).toMatchObject({
      state: "completed",
      assignment: 3,
      result: { name: "Ada", key: "secret", progress: { step: 2 } },
    });
    expect(runs).toEqual([[], ["Ada"], ["Ada", "secret"]]);
    const sent = await on.knex("outbox_archive").where({ message_type: "INPUT_REQUEST" });
    const waiting = await on.knex("outbox_messages").where({ message_type: "INPUT_REQUEST" });
    expect(sent.length + waiting.length).toBe(2);
    expect(await on.queue.deadLetters.list()).toEqual([]);
  });

  it("survive the agent: another one asks the same, and gets the first answer", async () => {
    await on.agent("a");
    const { taskId } = await on.boss.assignTask(on.needsX());
    await on.next("a");
    const first = await on.tasks.requestInput(taskId, { prompt: "Name?", key: "name" });
    expect(await on.tasks.requestInput(taskId, { prompt: "Other words", key: "name" })).toEqual(
      first,
    );
    await on.silence("a");
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(taskId)).toMatchObject({ state: "submitted", agentId: null });
    // Answered while nobody has the task: it stays where it is.
    await on.tasks.answer(first.inputId, "Ada");
    expect(await on.tasks.get(taskId)).toMatchObject({ state: "submitted" });
    await on.run({
      agentId: "b",
      tasks: {
        work: async (task, context) => ({
          inputs: task.inputs.length,
          name: await context.requestInput({ prompt: "Name?", key: "name" }),
        }),
      },
    });
    on.supervise();
    expect(await on.tasks.wait(taskId)).toMatchObject({ result: { inputs: 1, name: "Ada" } });
  });

  it("are answered by messages, by whoever was asked", async () => {
    await on.run({
      tasks: {
        work: async (_task, context) =>
          Promise.all([
            context.requestInput({ prompt: "One?", to: "one", schema: { type: "string" } }),
            context.requestInput({ prompt: "Two?", to: "two" }),
          ]),
      },
    });
    const { taskId } = await on.boss.assignTask(on.needsX());
    await until(async () => (await on.tasks.inputs()).length === 2);
    const one = await on.next("one");
    const { input_id } = one.content as { input_id: string };
    const send = (content: object) =>
      on.queue.sendMessage({
        fromAgent: "x",
        toAgent: "boss",
        messageType: "INPUT_RESPONSE",
        content,
      });
    await send({ input_id, answer: 7 });
    await send({ input_id: "nothing", answer: 7 });
    await one.reply({ input_id, answer: "1" });
    await one.ack();
    await send({ input_id, answer: "late" });
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(taskId)).toMatchObject({ state: "input_required" });
    expect((await on.queue.deadLetters.list()).map(({ reason }) => reason)).toEqual([
      "schema",
      "unknown_input",
    ]);
    const two = await on.next("two");
    const { input_id: second } = two.content as { input_id: string };
    await send({ input_id: second, answer: null });
    on.supervise();
    expect(await on.tasks.wait(taskId)).toMatchObject({ result: ["1", null] });
    const all = await on.tasks.inputs({ all: true });
    expect(all.find(({ prompt }) => prompt === "One?")).toMatchObject({ answeredBy: "one" });
    expect(on.taskEvents().filter(({ event }) => event === "stale")).toMatchObject([
      { taskId, data: { input_id, reason: "already_answered" } },
    ]);
  });

  it("that nobody answers in time fail the task; those of an ended task are closed", async () => {
    await on.agent("a", ["x"], 2);
    const due = await on.boss.assignTask(on.needsX());
    const ended = await on.boss.assignTask(on.needsX());
    const asked = await on.tasks.requestInput(due.taskId, { prompt: "Quick?", dueMs: 60_000 });
    const other = await on.tasks.requestInput(ended.taskId, { prompt: "Slow?" });
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(due.taskId)).toMatchObject({ state: "input_required" });
    await on.knex("outbox_task_inputs").where({ input_id: asked.inputId }).update({ due_at: 1 });
    // Before any sweep saw it.
    expect(await on.tasks.answer(asked.inputId, 1)).toMatchObject({ outcome: "lapsed" });
    await on.tasks.cancel(ended.taskId);
    expect(await on.tasks.answer(other.inputId, 1)).toMatchObject({ outcome: "task_ended" });
    expect(await on.tasks.inputs()).toHaveLength(1);
    await on.boss.processIncomingMessages();
    expect(await on.tasks.get(due.taskId)).toMatchObject({
      state: "failed",
      lastError: { code: "INPUT_TIMEOUT", message: expect.stringContaining("Quick?") },
    });
    const all = await on.tasks.inputs({ all: true });
    expect(all.map(({ state }) => state)).toEqual(["closed", "closed"]);
  });

  it("are answered once, by whoever is first", async () => {
    await on.agent("a");
    const { taskId } = await on.boss.assignTask(on.needsX());
    const { inputId } = await on.tasks.requestInput(taskId, { prompt: "Who?" });
    const others = Array.from({ length: 8 }, () => taskStage(database));
    const results = await Promise.all(
      others.map(({ tasks }, n) => tasks.answer(inputId, n, { by: `p${n}` })),
    );
    const won = results.filter(({ outcome }) => outcome === "answered");
    expect(won).toHaveLength(1);
    expect(results.filter(({ outcome }) => outcome === "already_answered")).toHaveLength(7);
    const [stored] = await on.tasks.inputs({ all: true });
    expect(stored?.answer).toBe(won[0]?.input.answer);
    expect(await on.tasks.get(taskId)).toMatchObject({ state: "working" });
  });

  it("are forgotten with their task, whose id may be used again", async () => {
    await on.agent("a");
    const { taskId } = await on.boss.assignTask(on.needsX({ taskId: "again" }));
    const { inputId } = await on.tasks.requestInput(taskId, { prompt: "Who?" });
    await on.tasks.answer(inputId, "me");
    await on.tasks.cancel(taskId);
    expect(await on.coordination.history.purge(60_000, 10)).toBe(0);
    await on.knex("outbox_tasks").where({ task_id: taskId }).update({ finished_at: 1 });
    expect(await on.coordination.history.purge(60_000, 10)).toBe(1);
    await on.boss.assignTask(on.needsX({ taskId: "again" }));
    const anew = await on.tasks.requestInput(taskId, { prompt: "Who?" });
    expect(anew).toMatchObject({ inputId, state: "open", answer: null });
    expect(await on.tasks.why(taskId)).toMatchObject({ reason: "waiting_on_input" });
  });

  it("need a task that an agent has", async () => {
    const { taskId } = await on.boss.assignTask(on.needsX());
    await expect(on.tasks.requestInput(taskId, { prompt: "?" })).rejects.toMatchObject({
      code: "TASK_STATE",
    });
    await expect(on.tasks.requestInput("nothing", { prompt: "?" })).rejects.toThrow(
      AgentCommunicationError,
    );
  });
});
