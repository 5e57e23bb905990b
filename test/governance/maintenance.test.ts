import { setTimeout as sleep } from "node:timers/promises";
import { expect, it } from "vitest";
import { openOutbox } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { mailbox, note } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";

const writing = (toAgent: string, n: number) => ({
  ...note(toAgent, { n }),
  messageType: "COMMAND",
});

eachDatabase("maintenance", (database) => {
  it("holds back what writes in its order, lets what reads go on, and loses nothing", async () => {
    const { knex } = await database.fresh();
    await using outbox = await openOutbox({ database: knex });
    const { queue, system } = outbox;
    const to = mailbox();
    for (let n = 0; n < 5; n++) await queue.sendMessage(writing(to, n));
    const status = await system.enterMaintenance({ reason: "update", by: "ops" });
    expect(status).toMatchObject({
      mode: "read_only",
      maintenance: { reason: "update", by: "ops", kinds: ["task", "command"] },
    });
    await queue.sendMessage(writing(to, 5));
    await queue.sendMessage({ ...note(to, { n: 100 }), messageType: "EVENT" });
    // Behind six that are held back lies one that is not.
    const read = await queue.getMessages(to, { limit: 10 });
    expect(read.map(({ messageType }) => messageType)).toEqual(["EVENT"]);
    await read[0]?.ack();
    expect(await queue.getMessages(to)).toHaveLength(0);
    // Entering again changes nothing, and says so by what stands.
    expect(await system.enterMaintenance({ reason: "other" })).toMatchObject({
      maintenance: { reason: "update" },
    });
    expect(await system.ready()).toMatchObject({ mode: "normal", maintenance: null });
    const after = await queue.getMessages(to, { limit: 10 });
    expect(after.map(({ content }) => (content as { n: number }).n)).toEqual([0, 1, 2, 3, 4, 5]);
    // Plain claims again: the gate was for the maintenance alone.
    const row = await knex("outbox_mailboxes").where({ agent_id: "" }).first();
    expect([0, null]).toContain(row.gated);
  });

  it(
    "stops claimers that run, also such as have not heard of it, and all is handled once after it",
    TIMED,
    async () => {
      const { knex } = await database.fresh();
      await using outbox = await openOutbox({ database: knex });
      const to = mailbox();
      const others = await Promise.all(
        Array.from({ length: database.dialect === "sqlite" ? 0 : 3 }, () =>
          openOutbox({ database: database.url() }),
        ),
      );
      const handled: { n: number; at: number }[] = [];
      const workers = [outbox, ...others].flatMap(({ queue }) => [
        queue.work(
          to,
          async ({ content }) => {
            handled.push({ n: (content as { n: number }).n, at: performance.now() });
          },
          { pollMs: { min: 1, max: 50 } },
        ),
      ]);
      let sent = 0;
      let stop = false;
      const sending = (async () => {
        while (!stop) {
          await outbox.queue.sendMessages(
            Array.from({ length: 10 }, (_, n) => writing(to, sent + n)),
          );
          sent += 10;
          await sleep(5);
        }
      })();
      await until(() => handled.length > 50);
      await outbox.system.enterMaintenance({ reason: "update" });
      const since = performance.now();
      await sleep(700);
      expect(handled.filter(({ at }) => at > since)).toEqual([]);
      expect(sent).toBeGreaterThan(handled.length);
      await outbox.system.ready();
      stop = true;
      await sending;
      await until(() => handled.length >= sent);
      await Promise.all(workers.map((worker) => worker.stop()));
      expect(handled.map(({ n }) => n).sort((a, b) => a - b)).toEqual(
        Array.from({ length: sent }, (_, n) => n),
      );
      for (const other of others) await other.close();
    },
  );

  it("is announced to all agents, and tells who has acknowledged it", async () => {
    const { knex } = await database.fresh();
    await using outbox = await openOutbox({ database: knex });
    for (const agentId of ["a", "b"]) await outbox.agents.registerAgent({ agentId });
    const events: string[] = [];
    outbox.observe((news) =>
      events.push(...news.flatMap((one) => (one.type === "agent" ? [one.event] : []))),
    );
    await outbox.system.enterMaintenance({ reason: "update", writeTypes: ["WRITE"] });
    const [message] = await outbox.queue.getMessages("a");
    expect(message).toMatchObject({
      messageType: "SYSTEM_MAINTENANCE",
      kind: "control",
      content: { reason: "update", mode: "read_only", write_types: ["WRITE"] },
    });
    expect(await outbox.system.acknowledge("a")).toBe(true);
    await outbox.system.acknowledge("a");
    const status = await outbox.system.status();
    expect(status.acknowledged.map(({ agentId }) => agentId)).toEqual(["a"]);
    expect(status.waiting).toEqual(["b"]);
    await outbox.system.ready();
    expect(await outbox.system.acknowledge("b")).toBe(false);
    expect(events).toEqual(["system_maintenance", "system_ready"]);
    expect((await outbox.queue.getMessages("a")).map(({ messageType }) => messageType)).toEqual([
      "SYSTEM_READY",
    ]);
  });

  it("leaves a limit that all mailboxes have in force", async () => {
    const { knex } = await database.fresh();
    await using outbox = await openOutbox({ database: knex });
    const to = mailbox();
    await outbox.queue.limits.set("all", { maxInFlight: 1 });
    await outbox.system.enterMaintenance({ reason: "update" });
    await outbox.system.ready();
    for (let n = 0; n < 3; n++) await outbox.queue.sendMessage(writing(to, n));
    expect(await outbox.queue.getMessages(to, { limit: 10 })).toHaveLength(1);
  });
});

eachDatabase("an agent in maintenance", (database) => {
  it("acknowledges it, sees that it must not write, and gets its tasks when the system is ready", async () => {
    const { knex } = await database.fresh();
    await using outbox = await openOutbox({ database: knex });
    const seen: boolean[] = [];
    const told: string[] = [];
    let begun = () => {};
    let goOn = () => {};
    const started = new Promise<void>((resolve) => {
      begun = resolve;
    });
    const gate = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    await outbox.runAgent({
      agentId: "writer",
      maxConcurrentTasks: 2,
      tasks: {
        write: async (_task, context) => {
          begun();
          seen.push(context.readOnly);
          await gate;
          seen.push(context.readOnly);
        },
      },
      onMessage: ({ messageType }) => void told.push(messageType),
    });
    const boss = outbox.supervisor("boss");
    const first = await boss.assignTask({ taskType: "write" });
    await started;
    await outbox.system.enterMaintenance({ reason: "update" });
    await until(async () => (await outbox.system.status()).acknowledged.length === 1);
    const second = await boss.assignTask({ taskType: "write" });
    goOn();
    expect((await boss.waitForTask(first.taskId)).state).toBe("completed");
    expect(seen).toEqual([false, true]);
    expect((await outbox.tasks.get(second.taskId))?.state).toBe("assigned");
    const why = await outbox.queue.why(second.messageId as string);
    expect(why).toMatchObject([{ state: "maintenance" }]);
    await outbox.system.ready();
    expect((await boss.waitForTask(second.taskId)).state).toBe("completed");
    expect(told).toEqual(expect.arrayContaining(["SYSTEM_MAINTENANCE", "SYSTEM_READY"]));
  });

  it("learns of it when it starts, and takes what comes to a capability that it serves", async () => {
    const { knex } = await database.fresh();
    await using outbox = await openOutbox({ database: knex });
    await outbox.system.enterMaintenance({ reason: "update" });
    const got: unknown[] = [];
    await outbox.runAgent({
      agentId: "late",
      tasks: {},
      serve: ["capability:review"],
      onMessage: ({ content }) => void got.push(content),
    });
    expect((await outbox.system.status()).acknowledged).toMatchObject([{ agentId: "late" }]);
    await outbox.queue.sendMessage(note("capability:review", { n: 1 }));
    await until(() => got.length === 1);
  });
});
