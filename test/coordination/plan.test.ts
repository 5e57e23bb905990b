import { expect, it } from "vitest";
import { AgentRegistry } from "../../lib/agent-registry.ts";
import { Coordination } from "../../lib/coordination/coordination.ts";
import { SupervisorCoordinator } from "../../lib/coordination/supervisor.ts";
import { eachDatabase } from "../support/databases.ts";
import { analyze, inserter, planOf, statementsOf } from "../support/plans.ts";

type Insert = ReturnType<typeof inserter>;

/** 2,000 agents of which 20 can do "rare", 60,000 tasks of which 30,000 are parked. */
async function fill(insert: Insert): Promise<void> {
  await insert(
    `INSERT INTO outbox_agents (agent_id, role, status, max_concurrent_tasks, registered_at, heartbeat_at, stale_after_ms, last_assigned_at)
     SELECT 'agent-' || i, 'worker', 'active', 10, 1, 9000000000000, 90000, i FROM series`,
    2_000,
  );
  await insert(
    "INSERT INTO outbox_agent_capabilities (capability, agent_id) SELECT 'common', 'agent-' || i FROM series",
    2_000,
  );
  await insert(
    "INSERT INTO outbox_agent_capabilities (capability, agent_id) SELECT 'rare', 'agent-' || (i * 100) FROM series",
    20,
  );
  await insert(
    "INSERT INTO outbox_agent_capabilities (capability, agent_id) SELECT 'other-' || i, 'agent-' || (i % 2000) FROM series",
    20_000,
  );
  await insert(
    "INSERT INTO outbox_agent_history (agent_id, event, at) SELECT 'agent-' || (i % 2000), 'active', i FROM series",
    20_000,
  );
  const tasks = (
    id: string,
    need: string,
    state: string,
    agent: string,
    finished: string,
    n: number,
  ) =>
    insert(
      `INSERT INTO outbox_tasks (task_id, task_type, description, parameters, required_capabilities, need_key, priority, state, supervisor_id, agent_id, message_id, assignment, max_assignments, created_at, deadline_at, finished_at)
       SELECT '${id}' || i, 't', '', '{}', '["none"]', ${need}, 20, '${state}', 's', ${agent}, '${id}' || i || ':1', 1, 3, 1, 9000000000000, ${finished} FROM series`,
      n,
    );
  await tasks("parked-", "'need-' || (i % 3)", "submitted", "NULL", "NULL", 30_000);
  await tasks("held-", "'h'", "assigned", "'agent-' || (i % 1000)", "NULL", 5_000);
  await tasks("done-", "'h'", "completed", "'agent-' || (i % 1000)", "i", 25_000);
  await insert(
    "INSERT INTO outbox_task_dependencies (task_id, depends_on, when_failed) SELECT 'parked-' || (i + 10000), 'parked-' || (i % 3000 + 1), 'run' FROM series",
    20_000,
  );
}

/** Parked tasks that an agent can take. */
async function makeReady(insert: Insert, name: string): Promise<void> {
  await insert(
    `INSERT INTO outbox_tasks (task_id, task_type, description, parameters, required_capabilities, need_key, priority, state, supervisor_id, assignment, max_assignments, created_at)
     SELECT '${name}-' || i, 't', '', '{}', '["rare"]', 'a-${name}', 90, 'submitted', 's', 0, 3, 1 FROM series`,
    30,
  );
}

eachDatabase("plans of matching and coordination", (database) => {
  // SQL Server's plans need SHOWPLAN, which the stand-in that it is tested with does not give.
  it.skipIf(database.dialect === "mssql")(
    "read no table from end to end, with fresh or stale statistics",
    async () => {
      const { knex } = await database.fresh();
      const registry = new AgentRegistry(knex);
      const boss = new SupervisorCoordinator("boss", knex, { taskRetentionMs: 1 });
      if (database.dialect === "postgres") await knex.raw("ANALYZE");
      const insert = inserter(knex, database.dialect);
      await fill(insert);
      for (const analyzed of [false, true]) {
        const name = analyzed ? "fresh" : "stale";
        await makeReady(insert, name);
        if (analyzed) await analyze(knex, database.dialect);
        const calls: Record<string, () => Promise<unknown>> = {
          findAvailable: () => registry.findAvailableAgents(["rare", "common"]),
          getAgent: () => registry.getAgent("agent-7"),
          heartbeat: () => registry.updateHeartbeat("agent-7"),
          assign: () => boss.assignTask({ taskType: "t", requiredCapabilities: ["rare"] }),
          assignMany: () =>
            boss.assignTasks(
              ["1", "2", "3"].map((n) => ({
                taskId: `${name}-many-${n}`,
                taskType: "t",
                requiredCapabilities: ["rare"],
                dependsOn: n === "3" ? ["held-1", "held-2", `${name}-many-1`] : [],
              })),
            ),
          place: async () => {
            await boss.processIncomingMessages();
            expect(await boss.getTask(`${name}-30`)).toMatchObject({ state: "assigned" });
          },
          sweep: () => boss.processIncomingMessages(),
          // What waits for it goes on.
          endAwaited: () => boss.cancelTask(analyzed ? "parked-3" : "parked-4"),
          why: () => new Coordination(knex, { prefix: "outbox_" }).tasks.why("parked-7"),
          whyWaiting: () =>
            new Coordination(knex, { prefix: "outbox_" }).tasks.why(`${name}-many-3`),
          getTask: () => boss.getTask("held-1"),
          cancel: () => boss.cancelTask(analyzed ? "parked-1" : "parked-2"),
          listByState: () => boss.listTasks({ state: "assigned", limit: 10 }),
          // What ended in the last hour is a large share of a table without statistics: reading it whole is right.
          ...(analyzed ? { stats: () => boss.getCoordinationStats() } : {}),
        };
        for (const [name, call] of Object.entries(calls)) {
          const statements = await statementsOf(knex, call, /outbox_(agent|task)/);
          expect(statements.length, name).toBeGreaterThan(0);
          for (const statement of statements) {
            if (COUNTS_AGENTS.test(statement.sql)) continue;
            if (!analyzed && PAGE_OF_DEPENDENCIES.test(statement.sql)) continue;
            const plan = await planOf(knex, database.dialect, statement);
            const scans = plan
              .split("\n")
              .filter((line) => FULL_SCAN.test(line) && !ALLOWED.test(line));
            expect(scans, `${name}, analyzed ${analyzed}\n${statement.sql}\n${plan}`).toEqual([]);
          }
        }
      }
    },
  );
});

/** A table, or an index without any condition, from its first entry to its last. */
const FULL_SCAN = /Seq Scan on outbox_(agent|task)|SCAN (outbox_(agent|task)|[acmtwx] )/;
/** Looking for the overdue reads all agents that are not known to be lost; counting stops at 10,000; the table of
 * questions is empty. */
const ALLOWED = /agents_present|tasks_parked|task_inputs|SCAN a$/;
/** Before the first statistics a page is a large share of what PostgreSQL guesses that there is. */
const PAGE_OF_DEPENDENCIES = /^select \* from "outbox_task_dependencies" where "task_id" >= /;
/** Who asks why is told how many agents there are at all. */
const COUNTS_AGENTS = /^select count\(\*\) as .agents. from .outbox_agents. where not/i;
