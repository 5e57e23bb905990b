import { expect, it } from "vitest";
import { AgentRegistry } from "../../lib/agent-registry.ts";
import { migrate, migrateDown } from "../../lib/index.ts";
import { migrations } from "../../migrations/index.ts";
import { eachDatabase } from "../support/databases.ts";

eachDatabase("agents of the version before cards", (database) => {
  it("keep their capabilities on the way up, and the names of them on the way down", async () => {
    const { knex } = await database.unmigrated();
    await migrate(knex);
    const first = migrations.findIndex(({ name }) => name === "008_agents");
    const steps = migrations.length - first;
    await migrateDown(knex, { steps });
    expect(await knex.schema.hasTable("outbox_agent_history")).toBe(false);
    await knex("outbox_agents").insert(
      ["a", "b"].map((agent_id) => ({
        agent_id,
        role: "worker",
        status: "active",
        max_concurrent_tasks: 2,
        metadata: '{"kept":true}',
        registered_at: 1,
        heartbeat_at: 9_000_000_000_000,
        stale_after_ms: 90_000,
        last_assigned_at: 0,
      })),
    );
    await knex("outbox_agent_capabilities").insert([
      { agent_id: "a", capability: "x" },
      { agent_id: "a", capability: "odd=name@1" },
      { agent_id: "b", capability: "x" },
    ]);
    expect(await migrate(knex)).toHaveLength(steps);
    const registry = new AgentRegistry(knex);
    expect(await registry.getAgent("a")).toMatchObject({
      capabilities: ["odd=name@1", "x"],
      capabilityDetails: [],
      card: null,
      cardHash: null,
      weight: 1,
      available: true,
      metadata: { kept: true },
    });
    expect(await registry.findAvailableAgents(["x"])).toHaveLength(2);
    expect(await registry.listAgents({ capability: "odd=name@1" })).toHaveLength(1);
    // The first registration after it is the first that the history knows of.
    const values = { name: "region", value: ["eu", "us"] };
    await registry.registerAgent({ agentId: "b", capabilities: ["x@2", values] });
    expect(await registry.getAgentHistory("b")).toMatchObject([
      { event: "card", card: { capabilities: ["region=eu", "region=us", "x@2"] } },
    ]);
    expect(await registry.getAgentChangelog("b")).toBe("");
    expect(await registry.getAgentDocument("a")).toMatch(/card_hash: [0-9a-f]{64}\n/);

    await migrateDown(knex, { steps });
    const rows = await knex("outbox_agent_capabilities")
      .orderBy(["agent_id", "capability"])
      .select("agent_id", "capability");
    expect(rows).toEqual([
      { agent_id: "a", capability: "odd=name@1" },
      { agent_id: "a", capability: "x" },
      { agent_id: "b", capability: "region" },
      { agent_id: "b", capability: "x" },
    ]);
    expect(Object.keys((await knex("outbox_agents").first()) as object)).not.toContain("card");
    await migrate(knex);
    expect(await registry.findAvailableAgents(["x"])).toHaveLength(2);
  });
});
