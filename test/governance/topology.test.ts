import { expect, it } from "vitest";
import { channelTopology, hubTopology, relay } from "../../lib/index.ts";
import { routeOf, topologyOf } from "../../lib/protocol/topology.ts";
import { MessageQueueManager } from "../../lib/queue/manager.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { failure, note } from "../support/queue.ts";

it("decides by the first rule that fits, then by the mode", () => {
  const topology = topologyOf({
    ...hubTopology("main", "relay"),
    rules: [
      { from: "audit-*", effect: "allow" },
      { to: ["vault", "safe-*"], messageTypes: "READ_*", effect: "deny" },
    ],
  });
  const route = (from: string, to: string, type = "T") => routeOf(topology, from, to, type);
  expect(route("upload", "main")).toBe("allow");
  expect(route("main", "upload")).toBe("allow");
  expect(route("upload", "upload")).toBe("allow");
  expect(route("upload", "mapping")).toBe("relay");
  expect(route("audit-1", "mapping")).toBe("allow");
  expect(route("upload", "safe-7", "READ_ALL")).toBe("deny");
  expect(route("upload", "safe-7", "WRITE")).toBe("relay");
  // Dots and the like stand for themselves.
  expect(routeOf(topologyOf({ rules: [{ to: "a.b", effect: "deny" }] }), "x", "aXb", "T")).toBe(
    "allow",
  );
  // The library's own talk goes its way.
  expect(route("boss", "mapping", "TASK_ASSIGNMENT")).toBe("allow");
});

it("lets only publishers send to subscribers where channels are set", () => {
  const topology = topologyOf(
    channelTopology({
      incidents: { publishers: ["detection"], subscribers: ["analysis", "orchestrator"] },
      notifications: { messageTypes: "NOTIFY", publishers: ["*"], subscribers: ["pager"] },
    }),
  );
  expect(routeOf(topology, "detection", "analysis", "INCIDENTS_NEW")).toBe("allow");
  expect(routeOf(topology, "analysis", "detection", "INCIDENTS_NEW")).toBe("deny");
  expect(routeOf(topology, "detection", "analysis", "OTHER")).toBe("deny");
  expect(routeOf(topology, "anyone", "pager", "NOTIFY")).toBe("allow");
});

it("refuses a topology without the hub that it needs", () => {
  expect(() => topologyOf({ mode: "hub" })).toThrow(/names its hub/);
  expect(() => topologyOf({ onDirect: "relay" })).toThrow(/nothing can be relayed/);
});

eachDatabase("a topology", (database) => {
  it("refuses what goes past the hub before anything is stored, in every kind of send", async () => {
    const { knex } = await database.fresh();
    const queue = new MessageQueueManager(knex);
    await queue.topology.set(hubTopology("main"));
    const direct = { ...note("mapping"), fromAgent: "upload" };
    const refused = await failure(() => queue.sendMessage(direct));
    expect(refused).toMatchObject({
      code: "TOPOLOGY_FORBIDDEN",
      details: { fromAgent: "upload", toAgent: ["mapping"], hub: "main" },
    });
    expect(
      await failure(() => queue.sendMessages([{ ...note("main"), fromAgent: "upload" }, direct])),
    ).toMatchObject({ code: "TOPOLOGY_FORBIDDEN" });
    expect(await queue.getMessages("main")).toHaveLength(0);
    await queue.sendMessage({ ...note("main"), fromAgent: "upload" });
    const [message] = await queue.getMessages("main");
    // The hub answers, and so may anybody to it.
    await message?.reply({ ok: true });
    expect(await queue.getMessages("upload")).toHaveLength(1);
    expect(await queue.topology.check("upload", "mapping")).toBe("deny");
    await queue.topology.set(null);
    await queue.sendMessage(direct);
    expect(await queue.getMessages("mapping")).toHaveLength(1);
  });

  it("lets the hub pass a message on exactly once, and the answer comes back the same way", async () => {
    const { knex } = await database.fresh();
    const queue = new MessageQueueManager(knex);
    await queue.topology.set(hubTopology("main", "relay"));
    const own: string[] = [];
    const hub = queue.work("main", async (message, context) => {
      if (!(await relay(queue, message, context))) own.push(message.messageType);
    });
    await queue.sendMessage({
      ...note("mapping", { n: 7 }),
      fromAgent: "upload",
      correlationId: "c-1",
      headers: { "x-own": "kept" },
    });
    await queue.sendMessage({ ...note("main"), fromAgent: "upload", messageType: "FOR_THE_HUB" });
    await until(async () => own.length === 1 && hub.stats.processed === 2);
    const [there] = await queue.getMessages("mapping");
    expect(there).toMatchObject({
      fromAgent: "main",
      content: { n: 7 },
      correlationId: "c-1",
      headers: { "x-own": "kept", "relayed-from": "upload" },
    });
    await there?.reply({ mapped: true });
    await there?.ack();
    await until(async () => hub.stats.processed === 3);
    const [back] = await queue.getMessages("upload");
    expect(back).toMatchObject({ content: { mapped: true }, correlationId: "c-1" });
    expect(await queue.getMessages("mapping")).toHaveLength(0);
    await hub.stop();
  });

  it("passes on what the sender asked of the handling, its order above all", async () => {
    const { knex } = await database.fresh();
    const queue = new MessageQueueManager(knex);
    await queue.topology.set(hubTopology("main", "relay"));
    const hub = queue.work("main", (message, context) => relay(queue, message, context));
    const asked = { orderingKey: "file-1", cost: 3, delivery: "AT_MOST_ONCE" as const };
    await queue.sendMessage({ ...note("mapping"), fromAgent: "upload", ...asked });
    await until(async () => hub.stats.processed === 1);
    const [there] = await queue.getMessages("mapping");
    expect(there).toMatchObject(asked);
    const shared = { concurrencyKey: "tenant-1" };
    await queue.sendMessage({ ...note("indexing"), fromAgent: "upload", ...shared });
    await until(async () => hub.stats.processed === 2);
    expect((await queue.getMessages("indexing"))[0]).toMatchObject(shared);
    await hub.stop();
  });
});
