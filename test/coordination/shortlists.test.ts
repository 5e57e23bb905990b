import { afterEach, beforeEach, expect, it, vi } from "vitest";
import type { TaskInput } from "../../lib/protocol/tasks.ts";
import { dialectFor } from "../../lib/store/dialects.ts";
import { eachDatabase } from "../support/databases.ts";
import { statementsOf } from "../support/plans.ts";
import { stage, wipe } from "./stage.ts";

const AGENTS = 120;
const needsX: TaskInput = { taskType: "t", requiredCapabilities: ["x"] };
const many = (count: number): TaskInput[] => Array.from({ length: count }, () => needsX);
const idOf = (n: number) => `agent-${String(n).padStart(3, "0")}`;

eachDatabase("giving tasks where many agents can do them", (database) => {
  let on: ReturnType<typeof stage>;
  beforeEach(async () => {
    await wipe(database);
    on = stage(database);
    // What is kept grows old when a test says so.
    vi.useFakeTimers({ toFake: ["performance"] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  /** Agents that can do "x", as they were stored before there were cards. */
  const agents = async (max: number, count = AGENTS) => {
    const now = on.knex.raw(dialectFor(database.dialect, "outbox_").now);
    const ids = Array.from({ length: count }, (_, n) => idOf(n));
    for (let from = 0; from < count; from += 50) {
      const some = ids.slice(from, from + 50);
      await on.knex("outbox_agents").insert(
        some.map((agent_id) => ({
          agent_id,
          role: "worker",
          status: "active",
          max_concurrent_tasks: max,
          registered_at: now,
          heartbeat_at: now,
          stale_after_ms: 90_000,
          last_assigned_at: 0,
        })),
      );
      const capabilities = some.map((agent_id) => ({ capability: "x", agent_id }));
      await on.knex("outbox_agent_capabilities").insert(capabilities);
    }
  };

  const loads = async (): Promise<Map<string, number>> => {
    const rows = (await on
      .knex("outbox_tasks")
      .whereNotNull("agent_id")
      .whereNull("finished_at")
      .groupBy("agent_id")
      .select("agent_id")
      .count({ n: "*" })) as { agent_id: string; n: unknown }[];
    return new Map(rows.map(({ agent_id, n }) => [agent_id, Number(n)]));
  };

  const spread = async () => [...new Set((await loads()).values())].sort();

  /** Whether this speaks SQL Server's protocol, but gives one row to two who lock it. */
  const ignoresLocks = () =>
    on.knex.transaction(async (one) => {
      const lock =
        "SELECT agent_id FROM outbox_agents WITH (UPDLOCK, READPAST, ROWLOCK) WHERE agent_id = ?";
      await one.raw(lock, [idOf(0)]);
      const also = await on.knex.transaction((two) => two.raw(lock, [idOf(0)]));
      return (also as unknown[]).length > 0;
    });

  /** How often agents were looked for by what they can do. */
  const looks = async (run: () => Promise<unknown>) =>
    (await statementsOf(on.knex, run, /outbox_agent_capabilities/)).length;

  /** The second look of a moment brings all that there are, and is kept. */
  const warm = async (boss = on.boss) => {
    for (let n = 0; n < 2; n++) await boss.assignTasks(many(10));
  };

  it("looks once a moment, and loads all alike", async () => {
    await agents(10);
    await warm();
    const batches = async () => {
      for (let n = 0; n < 4; n++) await on.boss.assignTasks(many(50));
    };
    expect(await looks(batches)).toBe(0);
    const singles = async () => {
      for (let n = 0; n < 20; n++) await on.boss.assignTask(needsX);
    };
    expect(await looks(singles)).toBe(0);
    expect(await loads()).toHaveProperty("size", AGENTS);
    expect(await spread()).toEqual([2]);
    vi.advanceTimersByTime(2_001);
    expect(await looks(() => on.boss.assignTasks(many(10)))).toBe(1);
    expect(await spread()).toEqual([2, 3]);
  });

  it("passes over who can no longer do it, without another look", async () => {
    await agents(10);
    await warm();
    // Those of the first agents have a task each; these would be next.
    await on.agent(idOf(20), ["y"], 10);
    await on.agent(idOf(21), ["x", "y"], 10);
    await on.registry.drainAgent(idOf(22));
    await on.registry.deregisterAgent(idOf(23));
    await on.silence(idOf(24));
    const given: (string | null)[] = [];
    const run = async () => {
      for (const { agentId } of await on.boss.assignTasks(many(3))) given.push(agentId);
      for (let n = 0; n < 3; n++) given.push((await on.boss.assignTask(needsX)).agentId);
    };
    expect(await looks(run)).toBe(0);
    expect(given.sort()).toEqual([25, 26, 27, 28, 29, 30].map(idOf));
    vi.advanceTimersByTime(2_001);
    // As it says something else of itself, it was passed over as well, until somebody looked whether it can do it.
    expect(await on.boss.assignTask(needsX)).toMatchObject({ agentId: idOf(21) });
  });

  it("looks again where those that it did not see may be less loaded", async () => {
    await agents(10);
    await on.boss.assignTasks(many(110));
    expect(await looks(() => on.boss.assignTasks(many(4)))).toBe(1);
    expect(await loads()).toHaveProperty("size", 114);
    expect(await looks(() => on.boss.assignTasks(many(6)))).toBe(0);
    expect(await loads()).toHaveProperty("size", AGENTS);
    expect(await spread()).toEqual([1]);
  });

  it("gives nothing to who has changed, left, fallen silent or been filled since the look", async () => {
    await agents(2);
    await on.agent("anchor", ["anchor"]);
    const group = (n: number) => Array.from({ length: 15 }, (_, k) => idOf(n * 15 + k));
    const leaning = { needs_agents: JSON.stringify(["anchor"]) };
    await on.knex("outbox_agents").whereIn("agent_id", group(0)).update(leaning);
    const ready = group(5).map((agent_id) => ({ capability: "z", agent_id }));
    await on.knex("outbox_agent_capabilities").insert(ready);
    await warm();
    const before = await loads();
    await on.registry.updateHeartbeat("anchor", { status: "offline" });
    for (const id of group(1)) await on.agent(id, ["y"], 2);
    for (const id of group(2)) await on.registry.drainAgent(id);
    for (const id of group(3)) await on.registry.deregisterAgent(id);
    for (const id of group(4)) await on.silence(id);
    // By somebody who knows nothing of what is kept here.
    const left = group(5).reduce((sum, id) => sum + 2 - (before.get(id) ?? 0), 0);
    const needsZ = { ...needsX, requiredCapabilities: ["z"] };
    await on.supervisor("chief").assignTasks(Array.from({ length: left }, () => needsZ));

    const good = [...group(6), ...group(7)];
    const room = good.reduce((sum, id) => sum + 2 - (before.get(id) ?? 0), 0);
    const tasks = await on.boss.assignTasks(many(room - 4));
    for (let n = 0; n < 4; n++) tasks.push(await on.boss.assignTask(needsX));
    expect(tasks.filter(({ agentId }) => !good.includes(agentId ?? ""))).toEqual([]);
    const parked = [...(await on.boss.assignTasks(many(2))), await on.boss.assignTask(needsX)];
    expect(parked.map(({ agentId }) => agentId)).toEqual([null, null, null]);
    const after = await loads();
    for (const id of [...good, ...group(5)]) expect(after.get(id), id).toBe(2);
  });

  it("asks agents that depend on others too, once it was looked whether those are there", async () => {
    await agents(2);
    await on.agent("anchor", ["anchor"]);
    await on
      .knex("outbox_agents")
      .whereNot({ agent_id: "anchor" })
      .update({
        needs_agents: JSON.stringify(["anchor"]),
      });
    await warm();
    for (let n = 0; n < 10; n++) await on.boss.assignTasks(many(10));
    expect(await loads()).toHaveProperty("size", AGENTS);
    expect(await spread()).toEqual([1]);
  });

  it("is told by the count under the lock what other supervisors gave out", async () => {
    await agents(10);
    const bosses = [on.boss, on.supervisor("chief"), on.supervisor("third")];
    for (const boss of bosses) await warm(boss);
    for (let n = 0; n < 4; n++) {
      for (const boss of bosses) await boss.assignTasks(many(n % 2 === 0 ? 35 : 5));
      for (const boss of bosses) await boss.assignTask(needsX);
    }
    // 60 + 4 * (3 * 20 + 3) tasks: none has two more than another.
    expect(await spread()).toEqual([2, 3]);
  });

  it("hands out no place twice to many who ask at once", async (context) => {
    await agents(1, 110);
    if (database.dialect === "mssql" && (await ignoresLocks())) context.skip("no lock hints");
    const bosses = ["boss", "chief", "third", "fourth"].map((id) => on.supervisor(id));
    await Promise.all(
      bosses.map(async (boss) => {
        for (let n = 0; n < 3; n++) {
          await boss.assignTasks(many(8));
          await Promise.all(Array.from({ length: 6 }, () => boss.assignTask(needsX)));
        }
      }),
    );
    for (const boss of bosses) await boss.processIncomingMessages();
    expect(await spread()).toEqual([1]);
    expect(await loads()).toHaveProperty("size", 110);
  });
});
