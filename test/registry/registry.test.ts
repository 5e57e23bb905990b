import { beforeEach, describe, expect, it } from "vitest";
import { AgentRegistry } from "../../lib/agent-registry.ts";
import { PayloadTooLarge, UnknownRecipient, ValidationFailed } from "../../lib/errors.ts";
import { Observers, type OutboxEvent } from "../../lib/protocol/events.ts";
import { eachDatabase } from "../support/databases.ts";

eachDatabase("the registry", (database) => {
  const events: OutboxEvent[] = [];
  let registry: AgentRegistry;

  beforeEach(async () => {
    const knex = database.knex();
    for (const table of ["tasks", "agent_capabilities", "agents"]) {
      await knex(`outbox_${table}`).del();
    }
    events.length = 0;
    const observers = new Observers();
    observers.add((news) => events.push(...news));
    registry = new AgentRegistry(knex, { observers });
  });

  const silentFor = (agentId: string, ms: number) =>
    database
      .knex()("outbox_agents")
      .where({ agent_id: agentId })
      .update({ heartbeat_at: database.knex().raw("heartbeat_at - ?", [ms]) });

  const giveTasks = async (agentId: string, count: number, finished = false) => {
    const rows = Array.from({ length: count }, (_, n) => ({
      task_id: `${agentId}-${n}-${finished}`,
      task_type: "t",
      description: "",
      parameters: "{}",
      required_capabilities: "[]",
      need_key: "x",
      priority: 20,
      state: finished ? "completed" : "assigned",
      supervisor_id: "s",
      agent_id: agentId,
      assignment: 1,
      max_assignments: 3,
      created_at: 1,
      finished_at: finished ? 2 : null,
    }));
    if (rows.length > 0) await database.knex()("outbox_tasks").insert(rows);
  };

  const ids = async (capabilities: string[], maxResults?: number) =>
    (await registry.findAvailableAgents(capabilities, maxResults ? { maxResults } : {})).map(
      ({ agentId }) => agentId,
    );

  describe("registering", () => {
    it("stores an agent with defaults", async () => {
      const agent = await registry.registerAgent({ agentId: "a", capabilities: ["python", "api"] });
      expect(agent).toMatchObject({
        agentId: "a",
        role: "worker",
        capabilities: ["api", "python"],
        status: "active",
        lost: false,
        available: true,
        currentTasks: 0,
        maxConcurrentTasks: 1,
        load: 0,
        metadata: {},
        metrics: {},
        staleAfterMs: 90_000,
        lastAssignedAt: null,
      });
      expect(Math.abs(agent.registeredAt - Date.now())).toBeLessThan(60_000);
      expect(await registry.getAgent("a")).toEqual(agent);
      expect(await registry.getAgent("b")).toBeNull();
    });

    it("updates on a duplicate registration and replaces the capabilities", async () => {
      const first = await registry.registerAgent({ agentId: "a", capabilities: ["x", "y"] });
      await registry.drainAgent("a");
      const again = await registry.registerAgent({
        agentId: "a",
        role: "tester",
        capabilities: ["y", "z", "z"],
        maxConcurrentTasks: 7,
        metadata: { version: "2", tags: ["é", "😀"] },
      });
      expect(again).toMatchObject({
        role: "tester",
        capabilities: ["y", "z"],
        maxConcurrentTasks: 7,
        status: "active",
        metadata: { version: "2", tags: ["é", "😀"] },
        registeredAt: first.registeredAt,
      });
      expect(await ids(["x"])).toEqual([]);
      expect((await registry.getRegistryStats()).totalAgents).toBe(1);
      expect(events.map((event) => event.type === "agent" && event.event)).toEqual([
        "registered",
        "draining",
        "updated",
      ]);
    });

    it("survives ten registrations of one agent at once", async () => {
      await Promise.all(
        Array.from({ length: 10 }, (_, n) =>
          registry.registerAgent({ agentId: "a", capabilities: ["same", `c${n}`] }),
        ),
      );
      const agent = await registry.getAgent("a");
      expect(agent?.capabilities).toHaveLength(2);
      expect(await ids(["same"])).toEqual(["a"]);
    });

    it("deregisters, at once without tasks and for matching also with some", async () => {
      await registry.registerAgent({ agentId: "idle", capabilities: ["x"] });
      await registry.registerAgent({ agentId: "busy", capabilities: ["x"], maxConcurrentTasks: 5 });
      await giveTasks("busy", 1);
      expect(await registry.deregisterAgent("idle")).toBe(true);
      expect(await registry.deregisterAgent("busy")).toBe(true);
      expect(await registry.deregisterAgent("busy")).toBe(false);
      expect(await ids(["x"])).toEqual([]);
      expect(await registry.listAgents()).toEqual([]);
      expect(await registry.getAgent("busy")).toBeNull();
      await expect(registry.updateHeartbeat("busy")).rejects.toThrow(UnknownRecipient);
      expect((await registry.getRegistryStats()).totalAgents).toBe(0);
      // Registered again before anyone took its tasks away: it keeps them.
      const back = await registry.registerAgent({ agentId: "busy", maxConcurrentTasks: 5 });
      expect(back).toMatchObject({ status: "active", currentTasks: 1, lost: false });
    });

    it("lists a page at a time, by status, role and capability", async () => {
      for (const [agentId, role] of [
        ["a", "worker"],
        ["b", "supervisor"],
        ["c", "worker"],
      ] as const) {
        await registry.registerAgent({ agentId, role, capabilities: [`only-${agentId}`] });
      }
      await registry.drainAgent("c");
      const listed = async (options: object) =>
        (await registry.listAgents(options)).map(({ agentId }) => agentId);
      expect(await listed({ limit: 2 })).toEqual(["a", "b"]);
      expect(await listed({ limit: 2, after: "b" })).toEqual(["c"]);
      expect(await listed({ role: "worker" })).toEqual(["a", "c"]);
      expect(await listed({ status: "draining" })).toEqual(["c"]);
      expect(await listed({ capability: "only-b" })).toEqual(["b"]);
    });
  });

  describe("matching", () => {
    it("takes only agents that have every required capability", async () => {
      await registry.registerAgent({ agentId: "both", capabilities: ["python", "api", "sql"] });
      await registry.registerAgent({ agentId: "one", capabilities: ["python"] });
      await registry.registerAgent({ agentId: "none", capabilities: [] });
      expect(await ids(["python", "api"])).toEqual(["both"]);
      expect((await ids(["python"])).sort()).toEqual(["both", "one"]);
      expect((await ids([])).sort()).toEqual(["both", "none", "one"]);
      expect(await ids(["python", "python", "api"])).toEqual(["both"]);
      expect(await ids(["Python"])).toEqual([]);
      expect(await ids(["python", "rust"])).toEqual([]);
      expect((await registry.findAvailableAgents(["api"]))[0]?.capabilities).toEqual([
        "api",
        "python",
        "sql",
      ]);
    });

    it("compares capabilities as they are, also those that look like SQL", async () => {
      // Without the quotation mark on SQL Server: its stand-in in development leaves JSON strings escaped.
      const quote = database.dialect === "mssql" ? "" : '"';
      const odd = `x';DROP/**/TABLE${quote}outbox_agents${quote}--:x?%_$1[]{}`;
      await registry.registerAgent({ agentId: odd, capabilities: [odd, "ü", "日本"] });
      expect(await ids([odd, "ü", "日本"])).toEqual([odd]);
      expect(await ids(["u"])).toEqual([]);
    });

    it("orders by load, then by who was assigned longest ago, up to maxResults", async () => {
      for (const agentId of ["a", "b", "c", "d"]) {
        await registry.registerAgent({ agentId, capabilities: ["x"], maxConcurrentTasks: 4 });
      }
      await giveTasks("a", 2);
      await giveTasks("b", 1);
      await giveTasks("c", 1);
      await giveTasks("c", 5, true);
      await giveTasks("d", 4);
      const knex = database.knex();
      await knex("outbox_agents").where({ agent_id: "b" }).update({ last_assigned_at: 2_000 });
      await knex("outbox_agents").where({ agent_id: "c" }).update({ last_assigned_at: 1_000 });
      expect(await ids(["x"])).toEqual(["c", "b", "a"]);
      expect(await ids(["x"], 2)).toEqual(["c", "b"]);
      expect(await registry.findBestAgent(["x"])).toMatchObject({
        agentId: "c",
        currentTasks: 1,
        load: 0.25,
        lastAssignedAt: 1_000,
      });
      expect(await registry.findBestAgent(["y"])).toBeNull();
    });

    it("weighs load by the limit of each agent", async () => {
      await registry.registerAgent({ agentId: "big", capabilities: ["x"], maxConcurrentTasks: 10 });
      await registry.registerAgent({
        agentId: "small",
        capabilities: ["x"],
        maxConcurrentTasks: 2,
      });
      await giveTasks("big", 3);
      await giveTasks("small", 1);
      expect(await ids(["x"])).toEqual(["big", "small"]);
    });

    it("leaves out who drains, is offline, takes no tasks, or has been silent by the database's clock", async () => {
      await registry.registerAgent({ agentId: "ready", capabilities: ["x"] });
      await registry.registerAgent({ agentId: "drains", capabilities: ["x"] });
      await registry.registerAgent({ agentId: "off", capabilities: ["x"] });
      await registry.registerAgent({ agentId: "silent", capabilities: ["x"] });
      await registry.registerAgent({
        agentId: "patient",
        capabilities: ["x"],
        staleAfterMs: 600_000,
      });
      await registry.registerAgent({ agentId: "boss", capabilities: ["x"], maxConcurrentTasks: 0 });
      await registry.drainAgent("drains");
      await registry.updateHeartbeat("off", { status: "offline" });
      await silentFor("silent", 90_000);
      await silentFor("patient", 90_000);
      await silentFor("ready", 60_000);
      expect((await ids(["x"])).sort()).toEqual(["patient", "ready"]);
      expect((await ids([])).sort()).toEqual(["patient", "ready"]);
      expect(await registry.getAgent("silent")).toMatchObject({ lost: true, available: false });
      expect(await registry.getAgent("boss")).toMatchObject({ available: false, load: 1 });
    });

    it("does not care what this machine's clock says", async () => {
      await registry.registerAgent({ agentId: "a", capabilities: ["x"] });
      const real = Date.now;
      try {
        Date.now = () => real() + 86_400_000;
        expect(await ids(["x"])).toEqual(["a"]);
        Date.now = () => real() - 86_400_000;
        await registry.updateHeartbeat("a");
        expect(await ids(["x"])).toEqual(["a"]);
      } finally {
        Date.now = real;
      }
    });
  });

  describe("heartbeats", () => {
    it("bring a silent agent back, and one that was marked as lost", async () => {
      await registry.registerAgent({ agentId: "a", capabilities: ["x"] });
      await silentFor("a", 100_000);
      await database.knex()("outbox_agents").update({ lost_at: 1 });
      const beat = await registry.updateHeartbeat("a");
      expect(beat.status).toBe("active");
      expect(Math.abs(beat.heartbeatAt - Date.now())).toBeLessThan(60_000);
      expect(await ids(["x"])).toEqual(["a"]);
    });

    it("merge metrics key by key", async () => {
      await registry.registerAgent({ agentId: "a" });
      await registry.updateHeartbeat("a", { metrics: { cpu: 0.5, memory: { mb: 10 } } });
      await registry.updateHeartbeat("a", { metrics: { cpu: 0.7, queue: 3 } });
      await registry.updateHeartbeat("a", { metrics: { memory: null } });
      expect((await registry.getAgent("a"))?.metrics).toEqual({ cpu: 0.7, queue: 3 });
    });

    it("do not lose what another one merges in the same moment", async () => {
      await registry.registerAgent({ agentId: "a" });
      await Promise.all(
        Array.from({ length: 8 }, (_, n) =>
          registry.updateHeartbeat("a", { metrics: { [`m${n}`]: n } }),
        ),
      );
      expect(Object.keys((await registry.getAgent("a"))?.metrics ?? {})).toHaveLength(8);
    });

    it("keep a drain that an operator asked for, and wake an agent that was offline", async () => {
      await registry.registerAgent({ agentId: "a" });
      await registry.drainAgent("a");
      expect((await registry.updateHeartbeat("a", { status: "active" })).status).toBe("draining");
      expect((await registry.updateHeartbeat("a")).status).toBe("draining");
      await registry.resumeAgent("a");
      expect((await registry.updateHeartbeat("a", { status: "busy" })).status).toBe("busy");
      expect((await registry.updateHeartbeat("a", { status: "offline" })).status).toBe("offline");
      expect((await registry.updateHeartbeat("a")).status).toBe("active");
    });

    it("join the caller's transaction", async () => {
      await registry.registerAgent({ agentId: "a" });
      await database
        .knex()
        .transaction(async (tx) => {
          await registry.updateHeartbeat("a", { status: "busy", metrics: { x: 1 }, tx });
          throw new Error("no");
        })
        .catch(() => undefined);
      expect(await registry.getAgent("a")).toMatchObject({ status: "active", metrics: {} });
    });
  });

  it("tells figures over all agents", async () => {
    expect(await registry.getRegistryStats()).toMatchObject({ totalAgents: 0, averageLoad: 0 });
    await registry.registerAgent({ agentId: "a", capabilities: ["x"], maxConcurrentTasks: 2 });
    await registry.registerAgent({ agentId: "b", capabilities: ["x", "y"], maxConcurrentTasks: 4 });
    await registry.registerAgent({ agentId: "c", role: "supervisor", maxConcurrentTasks: 0 });
    await registry.registerAgent({ agentId: "d", capabilities: ["y"] });
    await giveTasks("a", 2);
    await giveTasks("b", 1);
    await silentFor("d", 100_000);
    expect(await registry.getRegistryStats()).toEqual({
      totalAgents: 4,
      averageLoad: (2 / 2 + 1 / 4) / 2,
      availableAgents: 1,
      lostAgents: 1,
      currentTasks: 3,
      capacity: 6,
      byStatus: { active: 4 },
      byRole: { worker: 3, supervisor: 1 },
      capabilities: { x: 2, y: 2 },
    });
  });

  it("counts roles whose names every object has", async () => {
    for (const [n, role] of ["constructor", "__proto__", "__proto__"].entries()) {
      await registry.registerAgent({ agentId: `a${n}`, role });
    }
    const { byRole } = await registry.getRegistryStats();
    expect(Object.entries(byRole).sort()).toEqual([
      ["__proto__", 2],
      ["constructor", 1],
    ]);
  });

  it("refuses bad input with a code, and stores nothing", async () => {
    const bad: unknown[] = [
      undefined,
      null,
      [],
      {},
      { agentId: "" },
      { agentId: "a b" },
      { agentId: "x".repeat(129) },
      { agentId: "a\u0000" },
      { agentId: 7 },
      { agentId: "a", capabilities: "python" },
      { agentId: "a", capabilities: [""] },
      { agentId: "a", capabilities: [1] },
      { agentId: "a", capabilities: Array.from({ length: 201 }, (_, n) => `c${n}`) },
      { agentId: "a", maxConcurrentTasks: -1 },
      { agentId: "a", maxConcurrentTasks: 1.5 },
      { agentId: "a", maxConcurrentTasks: "2" },
      { agentId: "a", staleAfterMs: 1 },
      { agentId: "a", role: "" },
      { agentId: "a", role: "r".repeat(65) },
      { agentId: "a", metadata: [] },
      { agentId: "a", metadata: { x: "\u0000" } },
      { agentId: "a", metadata: { x: "\ud800" } },
      { agentId: "a", unknown: 1 },
    ];
    for (const input of bad) {
      await expect(registry.registerAgent(input as never), JSON.stringify(input)).rejects.toThrow(
        ValidationFailed,
      );
    }
    await expect(
      registry.registerAgent({ agentId: "a", metadata: { x: "y".repeat(70_000) } }),
    ).rejects.toThrow(PayloadTooLarge);
    const cyclic: Record<string, unknown> = {};
    cyclic.self = cyclic;
    await expect(registry.registerAgent({ agentId: "a", metadata: cyclic })).rejects.toThrow(
      ValidationFailed,
    );
    expect(await registry.listAgents()).toEqual([]);

    await registry.registerAgent({ agentId: "a" });
    for (const call of [
      () => registry.findBestAgent(["x"], { strategy: "auction" as never }),
      () => registry.findAvailableAgents("python" as never),
      () => registry.findAvailableAgents([], { maxResults: 0 }),
      () => registry.findAvailableAgents([], { limit: 1 } as never),
      () => registry.listAgents({ limit: -1 }),
      () => registry.listAgents({ status: "gone" as never }),
      () => registry.updateHeartbeat("a", { status: "sleepy" as never }),
      () => registry.updateHeartbeat("a", { metrics: 3 as never }),
      () => registry.updateHeartbeat("a", null as never),
      () => registry.getAgent(undefined as never),
      () => registry.deregisterAgent({} as never),
    ]) {
      await expect(call(), String(call)).rejects.toThrow(ValidationFailed);
    }
    await expect(registry.findBestAgent([], { strategy: "auction" as never })).rejects.toThrow(
      /leastLoaded/,
    );
    for (const call of [
      () => registry.updateHeartbeat("nobody"),
      () => registry.drainAgent("nobody"),
      () => registry.resumeAgent("nobody"),
    ]) {
      await expect(call()).rejects.toThrow(UnknownRecipient);
    }
    expect(() => new AgentRegistry(database.knex(), { prefix: "x y" })).toThrow(/prefix/);
    expect(() => new AgentRegistry(database.knex(), { table: "x" } as never)).toThrow(
      ValidationFailed,
    );
  });

  it("names the command to run when the tables are missing", async () => {
    const { knex } = await database.unmigrated();
    await expect(new AgentRegistry(knex).listAgents()).rejects.toMatchObject({
      code: "NOT_MIGRATED",
    });
  });
});
