import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { type Script, spawnScript, until } from "../support/processes.ts";
import { checkConsistent, checkJournal, keepJournal } from "./journal.ts";
import { stage } from "./stage.ts";

const PROGRAM = "test/handoffs/programs/agent.ts";
const STEPS = ["began", "offered", "asked", "accepted", "began"] as const;

eachDatabase("two agents that are killed while they hand over", (database) => {
  it("lose no task, and no task has two owners", async () => {
    const on = stage(database);
    await keepJournal(on.knex);
    const start = async (agentId: string): Promise<Script> => {
      const script = spawnScript(PROGRAM, [database.url(), agentId, agentId === "a" ? "b" : "a"]);
      for (;;) if ((await script.message<{ step: string }>()).step === "ready") return script;
    };
    const agents = { a: await start("a"), b: await start("b") };
    on.boss.start({ intervalMs: 50 });
    const assign = (n: number) =>
      on.boss.assignTask({
        taskId: `t-${n}`,
        taskType: "relay",
        requiredCapabilities: ["a"],
        // An agent that a busy machine holds up counts as lost, and is given the task again.
        maxAssignments: 100,
      });
    let tasks = 0;
    try {
      for (const [n, step] of STEPS.entries()) {
        await assign(tasks++);
        await assign(tasks++);
        // The giver at its own steps, the target at the others; it comes back under its own name.
        const victim = step === "offered" || n === 0 ? "a" : "b";
        for (;;) {
          const told = await agents[victim].message<{ step: string }>();
          if (told.step === step) break;
        }
        agents[victim].kill();
        await agents[victim].exited;
        agents[victim] = await start(victim);
      }
      for (let n = 0; n < tasks; n++) {
        const ended = await on.boss.waitForTask(`t-${n}`, { timeoutMs: 60_000 });
        expect(ended).toMatchObject({ state: "completed", result: { by: expect.any(String) } });
      }
    } finally {
      await on.boss.stop();
    }
    // Every handoff has come to an end, and every answer was given once.
    await until(async () => {
      const live = await on.knex("outbox_handoffs").whereNull("ended_at");
      return live.length === 0;
    });
    expect(await on.handoffs.list({ state: "completed" })).not.toEqual([]);
    await checkConsistent(on.knex);
    if (database.dialect !== "mssql") expect(await checkJournal(on.knex)).toBe(tasks);
    expect(await on.queue.deadLetters.list()).toEqual([]);
  });
});
