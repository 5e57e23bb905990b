import { setTimeout as sleep } from "node:timers/promises";
import { beforeEach, expect, it } from "vitest";
import { connect } from "../../lib/store/connect.ts";
import { eachDatabase } from "../support/databases.ts";
import { spawnScript, until } from "../support/processes.ts";
import { checkConsistent, checkOrder, journal, keepJournal, livesOf } from "./journal.ts";
import { emptied, stage, task, undoable } from "./stage.ts";

eachDatabase("supervisors of workflows at once", (database) => {
  let on: Awaited<ReturnType<typeof emptied>>;
  let kept = false;
  beforeEach(async () => {
    if (!kept) await keepJournal(database.knex());
    kept = true;
    on = await emptied(database.knex());
    if (database.dialect !== "mssql") await database.knex()("step_journal").del();
  });

  it("join parallel steps exactly once, whoever hears of the last", async () => {
    const width = 12;
    const branches = Array.from({ length: width }, (_, n) => `s${n}`);
    for (let round = 0; round < 3; round++) {
      const workflowId = `join-${round}`;
      await on.start([...branches.map((id) => task(id)), task("join", { dependsOn: branches })], {
        workflowId,
        mode: "dag",
      });
      expect(await on.work()).toBe(width);
      const others = await Promise.all(
        Array.from({ length: 3 }, async () => {
          const { knex } = connect(database.url(), { poolMax: 2 });
          return { knex, staged: stage(knex) };
        }),
      );
      // Each takes a few of the answers.
      await Promise.all(
        others.map(async ({ staged }) => {
          for (let n = 0; n < width; n++) await staged.boss.processIncomingMessages({ limit: 2 });
        }),
      );
      await on.settle();
      expect((await on.read(workflowId)).state).toBe("completed");
      expect(await on.knex("outbox_tasks").where({ task_type: "join" })).toHaveLength(round + 1);
      await checkConsistent(on.knex);
      for (const { knex } of others) await knex.destroy();
    }
    if (database.dialect === "mssql") return;
    await checkOrder(on.knex);
    const lives = livesOf(await journal(on.knex), "join-0");
    expect(Object.values(lives)).toEqual(
      Array.from({ length: width + 1 }, () => ["running 1", "completed 1"]),
    );
  });

  it("agree where a cancel, a failure, a signal and the end of a step come together", async () => {
    const workflowIds: string[] = [];
    for (let n = 0; n < 8; n++) {
      const { workflowId } = await on.start(
        [
          undoable("a"),
          { stepId: "ok", kind: "signal" },
          task("bad"),
          undoable("join", { dependsOn: ["a", "ok"] }),
        ],
        { mode: "dag", workflowId: `w${n}` },
      );
      workflowIds.push(workflowId);
      await on.work({
        bad: () => {
          throw new Error("bad");
        },
      });
      const { knex } = connect(database.url(), { poolMax: 2 });
      const other = stage(knex);
      const cancel = () => on.workflows.cancel(workflowId, { compensate: true });
      await Promise.all([
        on.round(),
        other.round(),
        other.workflows.signal(workflowId, "ok").catch(() => undefined),
        cancel().catch(() => undefined),
      ]);
      await knex.destroy();
    }
    await on.settle();
    await checkConsistent(on.knex);
    for (const workflowId of workflowIds) {
      const { state, steps } = await on.read(workflowId);
      expect(["compensated", "failed", "canceled"]).toContain(state);
      for (const { state, compensation, stepId } of steps) {
        if (stepId === "a" || stepId === "join") {
          expect(compensation?.state, `${workflowId} ${stepId}`).toBe(
            state === "completed" ? "completed" : undefined,
          );
        }
      }
    }
    if (database.dialect !== "mssql") await checkOrder(on.knex);
  });

  it("are killed again and again, and every workflow comes to its end", async () => {
    const count = 12;
    const ran = new Map<string, number>();
    const agent = on.queue.work(
      "agent",
      async (message, { tx }) => {
        const { task_id, assignment, task_type } = message.content as Record<string, unknown>;
        const about = { task_id, assignment };
        await sleep(5);
        await tx(async (tx) => {
          ran.set(String(task_id), (ran.get(String(task_id)) ?? 0) + 1);
          if (task_type === "bad") {
            const error = { error_type: "broken", error_message: "no", retry_possible: false };
            await message.reply({ ...about, status: "failed", ...error }, { tx });
          } else await message.reply({ ...about, status: "completed", result: task_type }, { tx });
        });
      },
      { concurrency: 4, pollMs: { min: 5, max: 50 } },
    );
    for (let n = 0; n < count; n++) {
      await on.start(
        [
          undoable("a"),
          undoable("b", { dependsOn: ["a"] }),
          undoable("c", { dependsOn: ["a"] }),
          task(n % 2 === 0 ? "bad" : "d", {
            dependsOn: ["b", "c"],
            retry: { maxAttempts: 2, delayMs: 50 },
          }),
        ],
        { mode: "dag", workflowId: `killed-${n}` },
      );
    }
    const over = async () =>
      Number(
        (await on.knex("outbox_workflows").whereNotNull("finished_at").count({ n: "*" }).first())
          ?.n,
      );
    for (let kill = 0; kill < 5; kill++) {
      const script = spawnScript("test/workflows/programs/supervisor.ts", [database.url()]);
      await script.message();
      await sleep(60 + kill * 40);
      script.kill();
      await script.exited;
      // What it had claimed comes back when its leases pass; a death is no attempt.
      await on
        .knex("outbox_messages")
        .where({ to_agent: "workflows" })
        .update({ visible_at: 0, attempt: 0 });
    }
    spawnScript("test/workflows/programs/supervisor.ts", [database.url()]);
    await until(async () => (await over()) === count, { timeoutMs: 150_000 });
    await agent.stop();
    await checkConsistent(on.knex);
    const states = new Map<string, number>();
    for (const { state } of await on.workflows.list()) {
      states.set(state, (states.get(state) ?? 0) + 1);
    }
    expect(Object.fromEntries(states)).toEqual({ completed: count / 2, compensated: count / 2 });
    // Each attempt of each step was done once.
    expect([...ran.values()].every((times) => times === 1)).toBe(true);
    expect(ran.size).toBe((count / 2) * 4 + (count / 2) * (5 + 3));
    if (database.dialect !== "mssql") await checkOrder(on.knex);
  });
});
