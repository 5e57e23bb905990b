import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { type Script, spawnScript, until } from "../support/processes.ts";
import { faultsOf, keepTaskJournal, readTaskJournal, type TaskChange } from "./task-journal.ts";

const SLOTS: Record<string, number> = { s1: 4, s2: 3, c1: 5 };
const SUPERVISORS = ["boss-1", "boss-2", "boss-3"];
const TASKS = 60;

describe("the checker of the tasks' history", () => {
  const at = (state: string, agentId: string | null, assignment: number, ended = false) => ({
    state,
    agentId,
    assignment,
    ended,
  });
  const change = (
    id: number,
    taskId: string,
    before: TaskChange["before"],
    after: TaskChange["after"],
    cost = 1,
  ): TaskChange => ({ id, taskId, cost, before, after });
  const parked = at("submitted", null, 0);
  const given = at("assigned", "a", 1);

  it("finds what must never be", () => {
    const good = [
      change(1, "t", null, parked),
      change(2, "t", parked, given),
      change(3, "t", given, at("completed", "a", 1, true)),
    ];
    expect(faultsOf(good, { a: 1 })).toEqual([]);
    expect(faultsOf(good, { a: 0 })).toEqual(["change 2 of t: a has 1 of 0 slots"]);
    expect(faultsOf([...good, change(4, "u", null, given, 2)], { a: 1 })).toEqual([
      "change 4 of u: a has 2 of 1 slots",
    ]);
    expect(
      faultsOf([...good, change(4, "t", at("completed", "a", 1, true), parked)], { a: 1 })[0],
    ).toContain("had ended");
    const stolen = [...good.slice(0, 2), change(3, "t", given, at("assigned", "b", 2))];
    expect(faultsOf(stolen, { a: 1, b: 1 })).toEqual([
      "change 3 of t: a still had it, and b has it",
      "change 3 of t: its assignment number went up by 1",
    ]);
    expect(faultsOf([change(1, "t", null, at("assigned", "a", 2))], { a: 1 })).toHaveLength(1);
    expect(faultsOf([change(1, "t", parked, given)], { a: 1 })).toHaveLength(1);
  });
});

eachDatabase("supervisors and agents in processes that are killed", (database) => {
  it.skipIf(database.dialect === "mssql")(
    "never exceed slots, give a task to two, or lose one (SQL Server keeps no journal: no OUTPUT with triggers)",
    async () => {
      const knex = database.knex();
      await keepTaskJournal(knex);
      const start = (kind: "agent" | "supervisor", id: string, count: number): Script =>
        spawnScript("test/coordination/programs/racer.ts", [
          database.url(),
          kind,
          id,
          String(count),
        ]);
      const agents = Object.entries(SLOTS).map(([id, slots]) => ({
        id,
        slots,
        script: start("agent", id, slots),
      }));
      const supervisors = SUPERVISORS.map((id) => ({ id, script: start("supervisor", id, TASKS) }));
      await Promise.all(agents.map(({ script }) => script.message()));
      const done = async () =>
        Number(
          (
            (await knex("outbox_tasks")
              .where({ state: "completed" })
              .count({ n: "*" })
              .first()) as { n: unknown }
          ).n,
        );
      // Killed while they have tasks, and begun anew under the same names.
      for (const share of [0.15, 0.4]) {
        await until(async () => (await done()) >= share * TASKS, { timeoutMs: 120_000 });
        const agent = agents[share < 0.2 ? 0 : 2] as (typeof agents)[number];
        const supervisor = supervisors[share < 0.2 ? 0 : 1] as (typeof supervisors)[number];
        agent.script.kill();
        supervisor.script.kill();
        await Promise.all([agent.script.exited, supervisor.script.exited]);
        if (share < 0.2) await sleep(1_200);
        supervisors.push({ id: supervisor.id, script: start("supervisor", supervisor.id, TASKS) });
        agents.push({ ...agent, script: start("agent", agent.id, agent.slots) });
      }
      const all = SUPERVISORS.length * TASKS;
      await until(async () => (await done()) === all, { timeoutMs: 240_000, everyMs: 100 });
      const changes = await readTaskJournal(knex);
      expect(faultsOf(changes, SLOTS)).toEqual([]);
      const completed = changes.filter(
        ({ before, after }) => before?.ended === false && after.state === "completed",
      );
      expect(completed).toHaveLength(all);
      expect(await knex("outbox_task_dependencies")).toEqual([]);
      // The kills did hit something, and the slots were what held the agents back.
      expect(changes.some(({ after }) => after.assignment > 1)).toBe(true);
    },
    600_000,
  );
});
