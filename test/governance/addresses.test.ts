import { expect, it } from "vitest";
import { AgentRegistry } from "../../lib/agent-registry.ts";
import { MessageQueueManager } from "../../lib/queue/manager.ts";
import { eachDatabase } from "../support/databases.ts";
import { failure, note } from "../support/queue.ts";

eachDatabase("addresses", (database) => {
  it("reach one agent, a role, all that are there, a capability and a person", async () => {
    const { knex } = await database.fresh();
    const queue = new MessageQueueManager(knex);
    const registry = new AgentRegistry(knex);
    for (const agentId of ["r1", "r2", "w1"]) {
      await registry.registerAgent({
        agentId,
        role: agentId.startsWith("r") ? "reviewer" : "writer",
      });
    }
    await registry.registerAgent({ agentId: "r3", role: "reviewer" });
    await registry.updateHeartbeat("r3", { status: "offline" });
    const got = async (agent: string) => (await queue.getMessages(agent, { limit: 100 })).length;

    await queue.sendMessage(note("agent:w1"));
    expect(await got("w1")).toBe(1);
    const sent = await queue.sendMessage({ ...note("role:reviewer"), fromAgent: "r1" });
    expect(sent.duplicate).toBe(false);
    // Neither who sends it nor who is away.
    expect([await got("r1"), await got("r2"), await got("r3")]).toEqual([0, 1, 0]);
    await queue.sendMessage({ ...note("broadcast:*"), fromAgent: "w1" });
    expect([await got("r1"), await got("r2"), await got("w1")]).toEqual([1, 1, 0]);
    // Who serves the capability takes from its mailbox, each message once.
    await queue.sendMessages([note("capability:review"), note("capability:review")]);
    expect(await got("capability:review")).toBe(2);
    await queue.sendMessage({ ...note("x"), toAgent: ["human:alice", "role:writer"] });
    expect([await got("human:alice"), await got("w1")]).toEqual([1, 1]);
  });

  it("are one message with one result, however many it reaches, and are recognised again", async () => {
    const { knex } = await database.fresh();
    const queue = new MessageQueueManager(knex);
    const registry = new AgentRegistry(knex);
    for (let n = 0; n < 3; n++) await registry.registerAgent({ agentId: `a${n}`, role: "r" });
    const message = { ...note("role:r"), dedupeKey: "once" };
    const first = await queue.sendMessage(message);
    await registry.registerAgent({ agentId: "a3", role: "r" });
    // A repetition is one though another agent came meanwhile.
    expect(await queue.sendMessage(message)).toEqual({
      messageId: first.messageId,
      duplicate: true,
    });
    expect(await queue.getMessages("a3")).toHaveLength(0);
  });

  it("that name nobody are refused, and nothing is stored", async () => {
    const { knex } = await database.fresh();
    const queue = new MessageQueueManager(knex);
    expect(await failure(() => queue.sendMessage(note("role:nobody")))).toMatchObject({
      code: "UNKNOWN_RECIPIENT",
    });
    for (const toAgent of ["role:", "broadcast:all", "agent:"]) {
      expect(await failure(() => queue.sendMessage(note(toAgent)))).toMatchObject({
        code: "VALIDATION_FAILED",
      });
    }
    // Ids with colons that are no addresses are ids.
    await queue.sendMessage(note("team:one"));
    expect(await queue.getMessages("team:one")).toHaveLength(1);
  });

  it("with more members than one statement takes reach all of them", async () => {
    const { knex } = await database.fresh();
    const queue = new MessageQueueManager(knex);
    const rows = Array.from({ length: 2_300 }, (_, n) => ({
      ...{ agent_id: `m${n}`, role: "crowd", status: "active", max_concurrent_tasks: 1 },
      ...{
        metadata: "{}",
        registered_at: 1,
        heartbeat_at: 1,
        stale_after_ms: 1,
        last_assigned_at: 0,
      },
    }));
    for (let n = 0; n < rows.length; n += 100) {
      await knex("outbox_agents").insert(rows.slice(n, n + 100));
    }
    await queue.sendMessage(note("role:crowd"));
    const [row] = (await knex("outbox_messages").count({ n: "*" })) as { n: number | string }[];
    expect(Number(row?.n)).toBe(2_300);
  });
});
