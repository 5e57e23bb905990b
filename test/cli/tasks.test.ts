import { expect, it, onTestFinished } from "vitest";
import { openOutbox } from "../../lib/outbox.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { mailbox } from "../support/queue.ts";
import { type CliOptions, runCli } from "./support.ts";

eachDatabase("the command line's tasks", (database) => {
  const cli = (argv: string[], options: CliOptions = {}) =>
    runCli(argv, { database: database.url(), ...options });

  it("draws a task with its parts", async () => {
    const [agent, capability] = [mailbox("agent"), mailbox("skill")];
    await cli(["agents", "register", agent, "-c", capability, "--max-concurrent-tasks", "10"]);
    const make = (id: string, ...more: string[]) =>
      cli(["tasks", "assign", "build", "-c", capability, "--id", `${agent}-${id}`, ...more]);
    await make("root");
    await make("one", "--parent", `${agent}-root`);
    await make("two", "--parent", `${agent}-root`);
    await make("deep", "--parent", `${agent}-one`, "--operation", "batch");
    const tree = await cli(["tasks", "tree", `${agent}-root`]);
    expect(tree.out.split("\n").map((line) => line.split("  ").slice(0, 3).join("|"))).toEqual([
      `${agent}-root|build|assigned`,
      `├─ ${agent}-one|build|assigned`,
      `│  └─ ${agent}-deep|build|assigned`
        .replace("│  └", "│|└")
        .replace("|build|assigned", "|build"),
      `└─ ${agent}-two|build|assigned`,
      "",
    ]);
    const json = await cli(["tasks", "tree", `${agent}-root`, "--json"]);
    expect(json.json()).toMatchObject({
      task: { task_id: `${agent}-root` },
      subtasks: [{ subtasks: [{ task: { operation: "batch" } }] }, { subtasks: [] }],
      truncated: false,
    });
    expect((await cli(["tasks", "tree", "never-seen"])).code).toBe(4);
    expect((await cli(["tasks", "cancel", `${agent}-root`])).code).toBe(0);
    const gone = await cli(["tasks", "show", `${agent}-deep`, "--json"]);
    expect(gone.json()).toMatchObject({ state: "canceled" });
    const late = await make("late", "--parent", `${agent}-root`);
    expect(late).toMatchObject({ code: 1, err: expect.stringContaining("is canceled") });
  });

  it("pauses and resumes", async () => {
    const [agent, capability] = [mailbox("agent"), mailbox("skill")];
    const id = `${agent}-1`;
    await cli(["tasks", "assign", "build", "-c", capability, "--id", id]);
    expect((await cli(["tasks", "pause", id])).out).toContain(`Paused ${id}.`);
    expect(await cli(["tasks", "pause", id])).toMatchObject({
      code: 1,
      err: expect.stringContaining("cannot be paused: it is paused"),
    });
    await cli(["agents", "register", agent, "-c", capability]);
    const show = await cli(["tasks", "show", id]);
    expect(show.out).toMatch(/state +submitted, paused/);
    expect(show.out).toMatch(/agent +none: it is paused/);
    expect((await cli(["tasks", "resume", id, "--json"])).json()).toEqual({
      task_id: id,
      paused: false,
    });
    await until(async () => {
      const { agent_id } = (await cli(["tasks", "show", id, "--json"])).json();
      return agent_id === agent;
    });
    expect((await cli(["tasks", "resume", id])).code).toBe(1);
    expect((await cli(["tasks", "resume", "never-seen"])).code).toBe(4);
  });

  it("shows what agents ask, and answers", async () => {
    const [agent, capability] = [mailbox("agent"), mailbox("skill")];
    const outbox = await openOutbox({ database: database.url() });
    onTestFinished(() => outbox.close());
    await outbox.runAgent({
      agentId: agent,
      capabilities: [capability],
      tasks: {
        build: async (_task, { requestInput }) =>
          Promise.all([
            requestInput({ prompt: "Which way?", schema: { enum: ["left", "right"] } }),
            requestInput({ prompt: "How far?", kind: "auth" }),
          ]),
      },
    });
    const id = `${agent}-1`;
    const asking = cli(
      ["tasks", "assign", "build", "-c", capability, "--id", id].concat([
        "--wait-ms",
        "20000",
        "--json",
      ]),
    );
    await until(async () => (await outbox.tasks.inputs({ taskId: id })).length === 2);
    const table = await cli(["tasks", "inputs", "--task", id]);
    expect(table.out).toMatch(/^INPUT .*QUESTION/);
    expect(table.out).toContain("Which way?");
    const open = (await cli(["tasks", "inputs", "-t", id, "--json"])).json<
      { input_id: string; prompt: string; schema: unknown }[]
    >();
    const which = open.find(({ prompt }) => prompt === "Which way?");
    const far = open.find(({ prompt }) => prompt === "How far?");
    expect(which?.schema).toEqual({ enum: ["left", "right"] });
    const answer = (input: string | undefined, ...more: string[]) =>
      cli(["tasks", "answer", String(input), ...more]);
    expect(await answer(which?.input_id, "straight")).toMatchObject({ code: 2 });
    expect((await answer(which?.input_id, "left", "--by", "alice")).out).toContain("goes on");
    expect(await answer(which?.input_id, "right")).toMatchObject({
      code: 1,
      err: expect.stringContaining("answered already"),
    });
    expect((await answer(far?.input_id, '{"km":3}', "--json")).json()).toMatchObject({
      outcome: "answered",
      input: { answer: { km: 3 }, answered_by: "operator" },
    });
    expect((await asking).json()).toMatchObject({
      state: "completed",
      result: ["left", { km: 3 }],
    });
    expect((await cli(["tasks", "inputs", "-t", id])).out).toContain("Nobody asks");
    const all = await cli(["tasks", "inputs", "-t", id, "--all", "--json"]);
    expect(all.json<unknown[]>()).toHaveLength(2);
    expect((await answer("never-seen", "x")).code).toBe(4);
  });
});
