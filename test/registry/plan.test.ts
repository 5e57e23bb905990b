import { expect, it } from "vitest";
import { AgentRegistry } from "../../lib/agent-registry.ts";
import { needsOf } from "../../lib/protocol/capabilities.ts";
import { versionKey } from "../../lib/protocol/capability-values.ts";
import { dialectFor } from "../../lib/store/dialects.ts";
import { Matching } from "../../lib/store/matching/matching.ts";
import { eachDatabase } from "../support/databases.ts";
import { analyze, inserter, planOf, statementsOf } from "../support/plans.ts";

/** 10,000 agents with 20 capabilities each, of which each has "common" and a version of "python"; 30,000 tasks. */
async function fill(insert: ReturnType<typeof inserter>): Promise<void> {
  await insert(
    `INSERT INTO outbox_agents (agent_id, role, status, max_concurrent_tasks, registered_at, heartbeat_at, stale_after_ms, last_assigned_at)
     SELECT 'agent-' || i, 'worker', 'active', 10, 1, 9000000000000, 90000, i FROM series`,
    10_000,
  );
  const capabilities = (name: string, agent: string, n: number, version?: string) =>
    insert(
      `INSERT INTO outbox_agent_capabilities (capability, agent_id, kind, sort_key, value)
       SELECT ${name}, 'agent-' || ${agent}, '${version === undefined ? "" : "version"}', '${version === undefined ? "" : versionKey(version)}', ${version === undefined ? "NULL" : `'${version}'`} FROM series`,
      n,
    );
  await capabilities("'common'", "i", 10_000);
  await capabilities("'rare'", "(i * 500)", 20);
  for (let minor = 1; minor <= 10; minor++) {
    await capabilities("'python'", `(i * 10 - ${minor - 1})`, 1_000, `3.${minor}`);
  }
  for (let n = 0; n < 18; n++)
    await capabilities(`'skill-' || ((i * 7 + ${n}) % 200)`, "i", 10_000);
  const tasks = (state: string, finished: string, n: number) =>
    insert(
      `INSERT INTO outbox_tasks (task_id, task_type, description, parameters, required_capabilities, need_key, priority, state, supervisor_id, agent_id, assignment, max_assignments, context_id, created_at, assigned_at, finished_at)
       SELECT '${state}-' || i, 't', '', '{}', '[]', 'h', 20, '${state}', 's', 'agent-' || (1 + i % 5000), 1, 3, 'context-' || (i % 1000), 1, i, ${finished} FROM series`,
      n,
    );
  await insert(
    `INSERT INTO outbox_agent_history (agent_id, event, at, card_hash, gone_at)
     SELECT 'agent-' || (i % 10000), 'card', i, 'h', CASE WHEN i % 2 = 0 THEN 9000000000000 END FROM series`,
    30_000,
  );
  await tasks("assigned", "NULL", 10_000);
  await tasks("completed", "i", 20_000);
}

eachDatabase("plans of matching", (database) => {
  // SQL Server's plans need SHOWPLAN, which the stand-in that it is tested with does not give.
  it.skipIf(database.dialect === "mssql")(
    "read no table from end to end at 10,000 agents, with fresh or stale statistics",
    async () => {
      const { knex } = await database.fresh();
      const registry = new AgentRegistry(knex);
      const matching = new Matching(knex, dialectFor(database.dialect, "outbox_"), "outbox_");
      if (database.dialect === "postgres") await knex.raw("ANALYZE");
      await fill(inserter(knex, database.dialect));
      const preferred = ["skill-9", { requirement: "python >= 3.9", weight: 5 }];
      for (const analyzed of [false, true]) {
        if (analyzed) await analyze(knex, database.dialect);
        const calls: Record<string, () => Promise<unknown>> = {
          selective: () => registry.findAvailableAgents(["common", "rare", "python >= 3.5"]),
          versioned: () => registry.findAvailableAgents(["python in (3.4, 3.5)", "skill-7"]),
          common: () => registry.findAvailableAgents(["common"], { preferred }),
          any: () => registry.findAvailableAgents([], { strategy: "roundRobin" }),
          weighted: () => registry.findAvailableAgents(["rare"], { strategy: "weighted" }),
          sticky: () =>
            registry.findAvailableAgents(["rare"], { strategy: "sticky", contextId: "context-7" }),
          census: () => matching.census(knex, needsOf({ required: ["rare", "python >= 3.5"] })),
          history: () => registry.getAgentHistory("agent-7", { cards: true }),
          drain: () => registry.drainAgent("agent-7", { waitMs: 0 }).catch(() => undefined),
          beat: () => registry.updateHeartbeat("agent-8", { metrics: { memory_mb: 1 } }),
          deregister: () => registry.deregisterAgent(analyzed ? "agent-10" : "agent-11"),
        };
        for (const [name, call] of Object.entries(calls)) {
          const statements = await statementsOf(knex, call);
          expect(statements.length, name).toBeGreaterThan(0);
          for (const statement of statements) {
            // How many agents there are at all is counted by looking at all of them.
            if (name === "census" && statement.sql.startsWith("select count")) continue;
            const plan = await planOf(knex, database.dialect, statement);
            const scans = plan
              .split("\n")
              .filter((line) => FULL_SCAN.test(line))
              // Where nothing is required, all agents are looked at.
              .filter((line) => name !== "any" || !/outbox_agents\b/.test(line));
            expect(scans, `${name}, analyzed ${analyzed}\n${statement.sql}\n${plan}`).toEqual([]);
          }
        }
      }
      // No plan is good because it finds nothing: each 500th agent has "rare", and version 3.1.
      const every = { maxResults: 50 };
      expect(await registry.findAvailableAgents(["rare", "python = 3.1"], every)).toHaveLength(20);
      expect(await registry.findAvailableAgents(["rare", "python > 3.1"], every)).toEqual([]);
      // Of what thousands can do, the first few are the same as the first of all.
      await knex("outbox_agents")
        .whereIn("agent_id", ["agent-6001", "agent-6004", "agent-6008"])
        .update({ last_assigned_at: 0 });
      const first = async (strategy: "leastLoaded" | "roundRobin", maxResults: number) =>
        (
          await registry.findAvailableAgents(["common", "python >= 3.3"], { strategy, maxResults })
        ).map(({ agentId }) => agentId);
      for (const strategy of ["leastLoaded", "roundRobin"] as const) {
        const all = await first(strategy, 500);
        expect(all).toHaveLength(500);
        expect(all.slice(0, 2)).toEqual(["agent-6001", "agent-6004"]);
        for (const few of [1, 2, 10, 100, 300])
          expect(await first(strategy, few)).toEqual(all.slice(0, few));
      }
    },
    120_000,
  );
});

/** A table, or an index without any condition, from its first entry to its last. */
const FULL_SCAN = /Seq Scan on outbox_(agent|task)|SCAN (outbox_(agent|task)|[abct] )/;
