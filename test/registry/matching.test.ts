import { beforeEach, describe, expect, it } from "vitest";
import { AgentRegistry } from "../../lib/agent-registry.ts";
import { ValidationFailed } from "../../lib/errors.ts";
import {
  needsOf,
  type PreferenceInput,
  type RequirementInput,
} from "../../lib/protocol/capabilities.ts";
import { dialectFor } from "../../lib/store/dialects.ts";
import { type CandidateOptions, Matching } from "../../lib/store/matching/matching.ts";
import { eachDatabase } from "../support/databases.ts";

eachDatabase("matching", (database) => {
  let registry: AgentRegistry;
  let matching: Matching;

  beforeEach(async () => {
    const knex = database.knex();
    for (const table of ["tasks", "agent_capabilities", "agents"]) {
      await knex(`outbox_${table}`).del();
    }
    registry = new AgentRegistry(knex);
    matching = new Matching(knex, dialectFor(database.dialect, "outbox_"), "outbox_");
  });

  const who = async (
    required: readonly RequirementInput[],
    options: Partial<CandidateOptions> & { preferred?: readonly PreferenceInput[] } = {},
  ) => {
    const { preferred = [], ...rest } = options;
    const needs = needsOf({ required, preferred });
    const found = await matching.candidates(database.knex(), needs, { limit: 100, ...rest });
    return found.map(({ agentId }) => agentId);
  };

  let tasks = 0;
  const give = (agentId: string, more: Record<string, unknown> = {}) =>
    database
      .knex()("outbox_tasks")
      .insert({
        task_id: `t${++tasks}`,
        task_type: "t",
        description: "",
        parameters: "{}",
        required_capabilities: "[]",
        need_key: "x",
        priority: 20,
        state: "assigned",
        supervisor_id: "s",
        agent_id: agentId,
        assignment: 1,
        max_assignments: 3,
        created_at: 1,
        assigned_at: tasks,
        ...more,
      });

  describe("of versions and values", () => {
    it("compares versions number by number, pre-releases below their release", async () => {
      for (const version of ["3.9", "3.11", "3.11.0-rc.1", "3.11.4", "4.0.0b2"]) {
        await registry.registerAgent({ agentId: version, capabilities: [`python@${version}`] });
      }
      expect((await who(["python >= 3.11"])).sort()).toEqual(["3.11", "3.11.4", "4.0.0b2"]);
      expect((await who(["python > 3.11"])).sort()).toEqual(["3.11.4", "4.0.0b2"]);
      expect((await who(["python < 3.11"])).sort()).toEqual(["3.11.0-rc.1", "3.9"]);
      expect(await who(["python = 3.11.0"])).toEqual(["3.11"]);
      expect((await who(["python < 3.12", "python != 3.9"])).sort()).toEqual([
        "3.11",
        "3.11.0-rc.1",
        "3.11.4",
      ]);
      expect(await who(["python"])).toHaveLength(5);
    });

    it("compares by the kind that the agent declared", async () => {
      await registry.registerAgent({
        agentId: "small",
        capabilities: ["memory_gb=9", "gpu=false", "region=eu", 'size="9"'],
      });
      await registry.registerAgent({
        agentId: "big",
        capabilities: ["memory_gb=64", "gpu=true", { name: "region", value: ["us", "eu"] }],
      });
      expect(await who(["memory_gb >= 16"])).toEqual(["big"]);
      expect(await who(["memory_gb < 16"])).toEqual(["small"]);
      expect(await who(["memory_gb > -1.5e3"])).toHaveLength(2);
      expect(await who(["gpu = true"])).toEqual(["big"]);
      expect(await who([{ capability: "gpu", op: "!=", value: true }])).toEqual(["small"]);
      expect(await who(["gpu > false"])).toEqual([]);
      expect(await who(["region in (us, asia)"])).toEqual(["big"]);
      expect(await who(["region in (eu, us)", "gpu"])).toHaveLength(2);
      expect(await who(["region = EU"])).toEqual([]);
      // As text "16" is less than "9".
      expect(await who(["size > 16"])).toEqual(["small"]);
      expect(await who(["memory_gb = many"])).toEqual([]);
      expect(await who(["unknown != 1"])).toEqual([]);
    });

    it("scores preferences before load, and requires nothing of them", async () => {
      for (const [agentId, capabilities] of Object.entries({
        both: ["x", "python@3.12", "gpu=true"],
        gpu: ["x", "gpu=true"],
        none: ["x"],
      })) {
        await registry.registerAgent({ agentId, capabilities, maxConcurrentTasks: 4 });
      }
      await give("both");
      const preferred = [{ requirement: "python >= 3.11", weight: 5 }, "gpu = true"];
      expect(await who(["x"], { preferred })).toEqual(["both", "gpu", "none"]);
      expect(await who([], { preferred })).toEqual(["both", "gpu", "none"]);
      const needs = needsOf({ required: ["x"], preferred });
      const found = await matching.candidates(database.knex(), needs, { limit: 2 });
      expect(found).toMatchObject([
        { agentId: "both", free: 3, maxConcurrentTasks: 4, load: 0.25, score: 6 },
        { agentId: "gpu", free: 4, maxConcurrentTasks: 4, load: 0, score: 1 },
      ]);
    });

    it("leaves out whom it is told to, and who has too little room", async () => {
      for (const agentId of ["a", "b", "c"]) {
        await registry.registerAgent({ agentId, capabilities: ["x"], maxConcurrentTasks: 4 });
      }
      await give("a", { cost: 2 });
      expect(await who(["x"], { cost: 3 })).toEqual(["b", "c"]);
      expect(await who(["x"], { cost: 2, exclude: ["b", "nobody"] })).toEqual(["c", "a"]);
      expect(await who([], { cost: 5 })).toEqual([]);
    });
  });

  describe("by strategy", () => {
    const room = { maxConcurrentTasks: 4 };

    it("takes turns with roundRobin, whatever the load", async () => {
      for (const agentId of ["a", "b", "c"]) await registry.registerAgent({ agentId, ...room });
      for (const [agentId, at] of Object.entries({ a: 3, b: 1, c: 2 })) {
        await database
          .knex()("outbox_agents")
          .where({ agent_id: agentId })
          .update({ last_assigned_at: at });
      }
      await give("b", { cost: 3 });
      expect(await who([], { strategy: "roundRobin" })).toEqual(["b", "c", "a"]);
      expect(await who([])).toEqual(["c", "a", "b"]);
    });

    it("finds the same few first as among all", async () => {
      const lifecycles = ["active", "active", "active", "deprecated", "development"] as const;
      for (let n = 0; n < 40; n++) {
        await registry.registerAgent({
          agentId: `a${n}`,
          capabilities: [n % 4 === 0 ? "y" : "x", `v@1.${n % 5}`],
          maxConcurrentTasks: 2 + (n % 3),
          card: { lifecycle: lifecycles[n % 5] },
        });
        await database
          .knex()("outbox_agents")
          .where({ agent_id: `a${n}` })
          .update({ last_assigned_at: (n * 7) % 10 });
        if (n % 3 === 0) await give(`a${n}`);
      }
      for (const strategy of ["leastLoaded", "roundRobin"] as const) {
        for (const needs of [[], ["x"], ["x", "v >= 1.1"]]) {
          const how = { strategy, cost: 2, exclude: ["a2"] };
          const all = await who(needs, how);
          expect(all.length, String(needs)).toBeGreaterThan(8);
          for (const limit of [1, 2, 3, 5, 8, all.length]) {
            expect(await who(needs, { ...how, limit })).toEqual(all.slice(0, limit));
          }
        }
      }
    });

    it("keeps a context with the agent that had it last, as long as that can take it", async () => {
      for (const agentId of ["a", "b", "c"]) await registry.registerAgent({ agentId, ...room });
      await give("c", { context_id: "order-7", finished_at: 1, state: "completed" });
      await give("b", { context_id: "order-7", finished_at: 1, state: "completed" });
      await give("b", { context_id: "order-8" });
      const sticky = (contextId?: string, cost = 1) =>
        who([], { strategy: "sticky", contextId, cost });
      expect(await sticky("order-7")).toEqual(["b", "a", "c"]);
      expect(await sticky("order-9")).toEqual(["a", "c", "b"]);
      expect(await sticky()).toEqual(["a", "c", "b"]);
      expect(await sticky("order-7", 4)).toEqual(["a", "c"]);
      await registry.drainAgent("b");
      expect(await sticky("order-7")).toEqual(["a", "c"]);
    });

    it("draws by weight times free slots with weighted", async () => {
      // 1 × 4, 3 × 4 and 4 × 2 (two of its four slots are used): 4, 12 and 8 of 24.
      await registry.registerAgent({ agentId: "light", weight: 1, ...room });
      await registry.registerAgent({ agentId: "heavy", weight: 3, ...room });
      await registry.registerAgent({ agentId: "half", weight: 4, ...room });
      await give("half", { cost: 2 });
      await registry.registerAgent({ agentId: "none", weight: 1_000, maxConcurrentTasks: 0 });
      const draws = database.dialect === "mssql" ? 100 : 600;
      const wins = new Map<string, number>();
      for (let n = 0; n < draws; n++) {
        const [first] = await who([], { strategy: "weighted", limit: 1 });
        wins.set(String(first), (wins.get(String(first)) ?? 0) + 1);
      }
      expect(wins.has("none")).toBe(false);
      const shares = { light: 4 / 24, heavy: 12 / 24, half: 8 / 24 };
      for (const [agentId, share] of Object.entries(shares)) {
        // Five standard deviations: wrong once in two million runs.
        const spread = 5 * Math.sqrt(draws * share * (1 - share));
        expect(Math.abs((wins.get(agentId) ?? 0) - draws * share), agentId).toBeLessThan(spread);
      }
      expect((await who([], { strategy: "weighted" })).sort()).toEqual(["half", "heavy", "light"]);
    });

    it("answers finds as well, and refuses what it cannot do", async () => {
      await registry.registerAgent({ agentId: "old", capabilities: ["python@3.9"], ...room });
      await registry.registerAgent({ agentId: "new", capabilities: ["python@3.12"], ...room });
      await give("new");
      await give("old", { context_id: "c" });
      await give("old");
      const best = async (options: object) =>
        (await registry.findBestAgent(["python"], options))?.agentId;
      expect(await best({})).toBe("new");
      expect(await best({ strategy: "sticky", contextId: "c" })).toBe("old");
      expect(await best({ cost: 3 })).toBe("new");
      expect(await best({ cost: 4 })).toBeUndefined();
      expect(await best({ preferred: ["python < 3.10"] })).toBe("old");
      expect((await registry.findBestAgent(["python >= 3.10"]))?.agentId).toBe("new");
      for (const bad of [
        { strategy: "auction" },
        { strategy: "sticky" },
        { preferred: [{ requirement: "x", weight: 0 }] },
        { preferred: [{ requirement: "x", weight: 101 }] },
        { cost: 0 },
      ]) {
        await expect(registry.findBestAgent(["x"], bad as never)).rejects.toThrow(ValidationFailed);
      }
      for (const bad of [
        "python >=",
        "python > 3 4",
        "in (a)",
        "x in ()",
        "x in a, b",
        "a b",
        "",
      ]) {
        await expect(registry.findBestAgent([bad]), bad).rejects.toThrow(ValidationFailed);
      }
    });
  });

  it("counts how many agents are left after each condition", async () => {
    const room = { maxConcurrentTasks: 2 };
    await registry.registerAgent({ agentId: "free", capabilities: ["x", "y@2"], ...room });
    await registry.registerAgent({ agentId: "old", capabilities: ["x", "y@1"], ...room });
    await registry.registerAgent({ agentId: "full", capabilities: ["x", "y@3"], ...room });
    await registry.registerAgent({ agentId: "drains", capabilities: ["x", "y@2"], ...room });
    await registry.registerAgent({ agentId: "off", capabilities: ["x", "y@2"], ...room });
    await registry.registerAgent({ agentId: "other" });
    await give("full", { cost: 2 });
    await registry.drainAgent("drains");
    await registry.updateHeartbeat("off", { status: "offline" });
    const needs = needsOf({ required: ["y >= 2", "x", "z"] });
    expect(await matching.census(database.knex(), needs, 1)).toEqual({
      agents: 6,
      requirements: [
        { text: "x", agents: 5 },
        { text: "y >= 2", agents: 4 },
        { text: "z", agents: 0 },
      ],
      capable: 0,
      alive: 0,
      taking: 0,
      free: 0,
    });
    const without = needsOf({ required: ["y >= 2", "x"] });
    expect(await matching.census(database.knex(), without, 1)).toMatchObject({
      capable: 4,
      alive: 3,
      taking: 2,
      free: 1,
    });
    expect(await matching.census(database.knex(), needsOf({}), 3)).toMatchObject({
      requirements: [],
      capable: 6,
      alive: 5,
      taking: 4,
      free: 0,
    });
  });
});
