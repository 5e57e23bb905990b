import { beforeEach, describe, expect, it, vi } from "vitest";
import { AgentRegistry } from "../../lib/agent-registry.ts";
import { ValidationFailed } from "../../lib/errors.ts";
import { Observers, type OutboxEvent } from "../../lib/protocol/events.ts";
import { AgentSlots } from "../../lib/store/agent-slots.ts";
import { dialectFor } from "../../lib/store/dialects.ts";
import { eachDatabase } from "../support/databases.ts";

eachDatabase("agents' cards and states", (database) => {
  const events: OutboxEvent[] = [];
  let registry: AgentRegistry;

  beforeEach(async () => {
    const knex = database.knex();
    for (const table of ["tasks", "agent_capabilities", "agent_history", "agents"]) {
      await knex(`outbox_${table}`).del();
    }
    events.length = 0;
    const observers = new Observers();
    observers.add((news) => events.push(...news));
    registry = new AgentRegistry(knex, { observers });
  });

  const silent = (agentId: string) =>
    database
      .knex()("outbox_agents")
      .where({ agent_id: agentId })
      .update({ heartbeat_at: database.knex().raw("heartbeat_at - 1000000") });

  /** What a supervisor does with an agent that fell silent. */
  const lose = async (agentId: string) => {
    await silent(agentId);
    const slots = new AgentSlots(
      database.knex(),
      dialectFor(database.dialect, "outbox_"),
      "outbox_",
    );
    await database.knex().transaction((trx) => slots.bury(trx, agentId));
  };

  const happened = async (agentId: string) =>
    (await registry.getAgentHistory(agentId)).map(({ event }) => event).reverse();

  const ids = async (options = {}) =>
    (await registry.findAvailableAgents([], options)).map(({ agentId }) => agentId);

  describe("a card", () => {
    it("is kept with versions and values, and shown again", async () => {
      const agent = await registry.registerAgent({
        agentId: "a",
        capabilities: ["sql", "python@3.12", "gpu=true", { name: "region", value: ["us", "eu"] }],
        weight: 3,
        card: {
          name: "Ada",
          dependencies: ["db", "cache", "db"],
          sla: { targetMs: 2_000, maxMs: 5_000 },
          limits: { memoryMb: 500 },
          version: "1.2.0",
        },
      });
      expect(agent).toMatchObject({
        capabilities: ["gpu", "python", "region", "sql"],
        capabilityDetails: [
          { name: "gpu", versions: [], values: [true] },
          { name: "python", versions: ["3.12"], values: [] },
          { name: "region", versions: [], values: ["eu", "us"] },
        ],
        weight: 3,
        card: {
          name: "Ada",
          lifecycle: "active",
          dependencies: ["cache", "db"],
          requireDependencies: false,
          sla: { targetMs: 2_000, maxMs: 5_000 },
          limits: { memoryMb: 500 },
        },
        cardHash: expect.stringMatching(/^[0-9a-f]{64}$/),
        dependenciesDown: ["cache", "db"],
        available: true,
      });
      expect(await registry.getAgent("a")).toEqual(agent);
    });

    it("stays when the agent is registered without one, and goes with null", async () => {
      const agent = { agentId: "a", capabilities: ["x"] };
      const first = await registry.registerAgent({ ...agent, card: { domain: "texts" } });
      const again = await registry.registerAgent(agent);
      expect(again).toMatchObject({ card: { domain: "texts" }, cardHash: first.cardHash });
      const without = await registry.registerAgent({ ...agent, card: null });
      expect(without.card).toBeNull();
      expect(without.cardHash).not.toBe(first.cardHash);
      // Of what an agent was before it went away, nothing comes back.
      await registry.registerAgent({ ...agent, card: { domain: "texts" } });
      await registry.deregisterAgent("a");
      expect((await registry.registerAgent(agent)).card).toBeNull();
    });

    it("has a hash that follows what users rely on, in whatever order it is written", async () => {
      const hash = async (more: object) =>
        (await registry.registerAgent({ agentId: "a", capabilities: ["x", "y"], ...more }))
          .cardHash;
      const first = await hash({ card: { name: "A", domain: "d" } });
      expect(await hash({ card: { domain: "d", name: "A" }, capabilities: ["y", "x"] })).toBe(
        first,
      );
      expect(await hash({ metadata: { build: 7 }, weight: 9, staleAfterMs: 5_000 })).toBe(first);
      const others = [
        await hash({ card: { name: "B", domain: "d" } }),
        await hash({ capabilities: ["x", "y@1"] }),
        await hash({ maxConcurrentTasks: 2 }),
        await hash({ card: { name: "B", domain: "d", errorHandling: "gives up" } }),
      ];
      expect(new Set([first, ...others]).size).toBe(5);
      const entries = await registry.getAgentHistory("a", { cards: true });
      expect(entries.map(({ event }) => event)).toEqual([
        "card",
        "card",
        "card",
        "card",
        "registered",
      ]);
      expect(entries[0]).toMatchObject({
        cardHash: others[3],
        card: { capabilities: ["x", "y"], card: { errorHandling: "gives up" } },
      });
    });

    it("is checked at the door", async () => {
      const bad: unknown[] = [
        { lifecycle: "retired" },
        { sla: { targetMs: 5, maxMs: 2 } },
        { sla: { targetMs: 5 } },
        { dependencies: ["a b"] },
        { limits: { memoryMb: 0 } },
        { version: "latest" },
        { capabilities: { "a b": "x" } },
        { unknown: 1 },
        "card",
      ];
      for (const card of bad) {
        await expect(
          registry.registerAgent({ agentId: "a", card: card as never }),
          JSON.stringify(card),
        ).rejects.toThrow(ValidationFailed);
      }
      for (const capability of [
        "python@latest",
        "python@",
        "gpu=",
        "x y",
        "a>b",
        { name: "x", value: [] },
        { name: "x", value: " padded " },
        { name: "x", value: Number.NaN },
        { name: "x", version: 3 },
      ]) {
        await expect(
          registry.registerAgent({ agentId: "a", capabilities: [capability as never] }),
          JSON.stringify(capability),
        ).rejects.toThrow(ValidationFailed);
      }
      expect(await registry.getAgentHistory("a")).toEqual([]);
    });

    it("puts agents in development out of reach, and deprecated ones last", async () => {
      for (const lifecycle of ["deprecated", "development", "active"] as const) {
        await registry.registerAgent({
          agentId: lifecycle,
          maxConcurrentTasks: lifecycle === "active" ? 1 : 9,
          card: { lifecycle },
        });
      }
      expect(await ids()).toEqual(["active", "deprecated"]);
      expect(await ids({ includeDevelopment: true })).toEqual([
        "active",
        "development",
        "deprecated",
      ]);
      expect(await ids({ strategy: "roundRobin" })).toEqual(["active", "deprecated"]);
    });

    it("holds an agent back while what it cannot do without is down", async () => {
      const card = { dependencies: ["db"], requireDependencies: true };
      await registry.registerAgent({ agentId: "strict", card });
      await registry.registerAgent({ agentId: "easy", card: { dependencies: ["db"] } });
      expect(await ids()).toEqual(["easy"]);
      await registry.registerAgent({ agentId: "db", maxConcurrentTasks: 0 });
      expect((await ids()).sort()).toEqual(["easy", "strict"]);
      expect(await registry.getAgent("strict")).toMatchObject({
        dependenciesDown: [],
        available: true,
      });
      await silent("db");
      expect(await ids()).toEqual(["easy"]);
      expect(await registry.getAgent("strict")).toMatchObject({
        dependenciesDown: ["db"],
        available: false,
      });
      expect(await registry.getAgent("easy")).toMatchObject({
        dependenciesDown: ["db"],
        available: true,
      });
      await registry.updateHeartbeat("db");
      await registry.updateHeartbeat("db", { status: "offline" });
      expect(await ids()).toEqual(["easy"]);
    });
  });

  describe("limits", () => {
    const limits = { memoryMb: 500, cpuPercent: 50 };
    const beat = async (metrics: Record<string, unknown>, status?: "active" | "draining") =>
      (await registry.updateHeartbeat("a", { metrics, status })).status;

    it("drain an agent that is above them until it is below again", async () => {
      await registry.registerAgent({ agentId: "a", card: { limits } });
      expect(await beat({ memory_mb: 500, cpu_percent: 50 })).toBe("active");
      expect(await beat({ memory_mb: 501 })).toBe("draining");
      expect(await ids()).toEqual([]);
      // Still above: the metrics are merged, and what the agent itself says changes nothing.
      expect(await beat({ cpu_percent: 10 }, "active")).toBe("draining");
      expect((await registry.updateHeartbeat("a")).status).toBe("draining");
      expect(await beat({ memory_mb: 400, cpu_percent: 51 })).toBe("draining");
      expect(await beat({ cpu_percent: 49 })).toBe("active");
      expect(await ids()).toEqual(["a"]);
      expect(await happened("a")).toEqual(["registered", "draining", "active"]);
      const [, drained] = await registry.getAgentHistory("a");
      expect(drained?.data).toEqual({ memory_mb: 501 });
      expect(events).toContainEqual(
        expect.objectContaining({
          event: "draining",
          data: { reason: "limits", memory_mb: 501 },
        }),
      );
    });

    it("never undo a drain that an operator, or the agent itself, asked for", async () => {
      await registry.registerAgent({ agentId: "a", card: { limits } });
      await registry.drainAgent("a");
      expect(await beat({ memory_mb: 600 })).toBe("draining");
      expect(await beat({ memory_mb: 100 })).toBe("draining");
      await registry.resumeAgent("a");
      // First above the limit, then the operator's.
      expect(await beat({ memory_mb: 600 })).toBe("draining");
      await registry.drainAgent("a");
      expect(await beat({ memory_mb: 100 })).toBe("draining");
      await registry.resumeAgent("a");
      expect(await beat({ memory_mb: 600 })).toBe("draining");
      expect(await beat({ memory_mb: 600 }, "draining")).toBe("draining");
      expect(await beat({ memory_mb: 100 })).toBe("draining");
    });

    it("do not hold back agents that report no such metrics, or nothing usable", async () => {
      await registry.registerAgent({ agentId: "a", card: { limits } });
      expect(await beat({ memory_mb: "900", cpu: 99 })).toBe("active");
    });
  });

  describe("the history", () => {
    it("tells of every change of state once, whoever made it", async () => {
      await registry.registerAgent({ agentId: "a" });
      for (let n = 0; n < 3; n++) await registry.updateHeartbeat("a", { status: "busy" });
      await registry.updateHeartbeat("a", { status: "idle" });
      await registry.drainAgent("a");
      await registry.drainAgent("a");
      await registry.updateHeartbeat("a", { status: "active" });
      await registry.resumeAgent("a");
      await registry.updateHeartbeat("a", { status: "offline" });
      // A process that knows nothing of it yet.
      await new AgentRegistry(database.knex()).updateHeartbeat("a");
      await lose("a");
      await new AgentRegistry(database.knex()).updateHeartbeat("a");
      await registry.deregisterAgent("a");
      const expected = [
        "registered",
        "draining",
        "active",
        "offline",
        "active",
        "lost",
        "active",
        "deregistered",
      ];
      expect(await happened("a")).toEqual(expected);
      await registry.registerAgent({ agentId: "a" });
      expect(await happened("a")).toEqual([...expected, "registered"]);
    });

    it("comes a page at a time, and keeps a hundred entries of each sort", async () => {
      await registry.registerAgent({ agentId: "a" });
      await registry.registerAgent({ agentId: "b", role: "first" });
      for (let n = 1; n <= 104; n++) {
        await registry.registerAgent({ agentId: "a", maxConcurrentTasks: n + 1 });
      }
      await registry.drainAgent("a");
      const all = await registry.getAgentHistory("a", { limit: 1_000 });
      expect(all).toHaveLength(101);
      expect(all[0]?.event).toBe("draining");
      expect(all.at(-1)?.card?.maxConcurrentTasks).toBe(6);
      const page = await registry.getAgentHistory("a", { limit: 2, before: all[3]?.seq });
      expect(page).toEqual(all.slice(4, 6));
      expect(await happened("b")).toEqual(["registered"]);
    });

    it("goes thirty days after its agent", async () => {
      const knex = database.knex();
      await registry.registerAgent({ agentId: "old" });
      await registry.deregisterAgent("old");
      await registry.registerAgent({ agentId: "back" });
      await registry.deregisterAgent("back");
      await registry.registerAgent({ agentId: "back" });
      await knex("outbox_agent_history").update({
        gone_at: knex.raw("gone_at - ?", [31 * 86_400_000]),
      });
      await registry.registerAgent({ agentId: "other" });
      await registry.deregisterAgent("other");
      expect(await happened("old")).toEqual([]);
      expect(await happened("back")).toEqual(["registered", "deregistered", "registered"]);
      expect(await happened("other")).toEqual(["registered", "deregistered"]);
    });
  });

  it("shows as state what the load says, where the agent says nothing else", async () => {
    const state = async () => (await registry.getAgent("a"))?.state;
    const give = (n: number) =>
      database
        .knex()("outbox_tasks")
        .insert({
          task_id: `t${n}`,
          task_type: "t",
          description: "",
          parameters: "{}",
          required_capabilities: "[]",
          need_key: "x",
          priority: 20,
          state: "assigned",
          supervisor_id: "s",
          agent_id: "a",
          cost: n,
          assignment: 1,
          max_assignments: 3,
          created_at: 1,
        });
    await registry.registerAgent({ agentId: "a", maxConcurrentTasks: 3 });
    expect(await state()).toBe("idle");
    await give(1);
    expect(await state()).toBe("active");
    expect(await registry.getAgent("a")).toMatchObject({ load: 1 / 3, available: true });
    await give(2);
    expect(await state()).toBe("busy");
    expect(await registry.getAgent("a")).toMatchObject({
      status: "active",
      currentTasks: 2,
      usedSlots: 3,
      load: 1,
      available: false,
    });
    await registry.updateHeartbeat("a", { status: "idle" });
    expect(await state()).toBe("idle");
    await registry.drainAgent("a");
    expect(await state()).toBe("draining");
    await silent("a");
    expect(await state()).toBe("lost");
    await registry.updateHeartbeat("a", { status: "offline" });
    expect(await state()).toBe("offline");
  });

  it("drains until the last task has ended, or says how many are left", async () => {
    await registry.registerAgent({ agentId: "a", maxConcurrentTasks: 2 });
    await database.knex()("outbox_tasks").insert({
      task_id: "t",
      task_type: "t",
      description: "",
      parameters: "{}",
      required_capabilities: "[]",
      need_key: "x",
      priority: 20,
      state: "working",
      supervisor_id: "s",
      agent_id: "a",
      assignment: 1,
      max_assignments: 3,
      created_at: 1,
    });
    await expect(registry.drainAgent("a", { waitMs: 40 })).rejects.toMatchObject({
      code: "MESSAGE_TIMEOUT",
      details: { agentId: "a", tasks: 1, waitMs: 40 },
    });
    let over = false;
    const drained = registry.drainAgent("a", { waitMs: 20_000 }).then(() => {
      over = true;
    });
    expect(await registry.getAgent("a")).toMatchObject({ status: "draining", currentTasks: 1 });
    expect(over).toBe(false);
    await database.knex()("outbox_tasks").update({ finished_at: 1, state: "completed" });
    await drained;
    await registry.drainAgent("a", { waitMs: 0 });
  });

  it("tells whoever listens of room, after the commit and only then", async () => {
    const knex = database.knex();
    const heard = vi.fn();
    const stop = registry.onRoom(heard);
    registry.onRoom(() => {
      throw new Error("its own affair");
    });
    await registry.registerAgent({ agentId: "a", card: { limits: { memoryMb: 10 } } });
    expect(heard.mock.calls).toEqual([["a"]]);
    await registry.registerAgent({ agentId: "a", capabilities: ["more"] });
    expect(heard).toHaveBeenCalledTimes(2);
    for (let n = 0; n < 3; n++) await registry.updateHeartbeat("a", { metrics: { memory_mb: 1 } });
    await registry.drainAgent("a");
    expect(heard).toHaveBeenCalledTimes(2);
    await registry.resumeAgent("a");
    expect(heard).toHaveBeenCalledTimes(3);
    await registry.updateHeartbeat("a", { metrics: { memory_mb: 11 } });
    expect(heard).toHaveBeenCalledTimes(3);
    await registry.updateHeartbeat("a", { metrics: { memory_mb: 9 } });
    expect(heard).toHaveBeenCalledTimes(4);
    await registry.updateHeartbeat("a", { status: "offline" });
    await knex
      .transaction(async (tx) => {
        await registry.updateHeartbeat("a", { status: "active", tx });
        throw new Error("no");
      })
      .catch(() => undefined);
    expect(heard).toHaveBeenCalledTimes(4);
    await knex.transaction(async (tx) => {
      await registry.updateHeartbeat("a", { status: "active", tx });
      expect(heard).toHaveBeenCalledTimes(4);
    });
    await expect.poll(() => heard.mock.calls.length).toBe(5);
    stop();
    await registry.resumeAgent("a");
    expect(heard).toHaveBeenCalledTimes(5);
  });
});
