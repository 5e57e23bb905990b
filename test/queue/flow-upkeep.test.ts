import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { failure, note, watched } from "../support/queue.ts";

eachDatabase("upkeep of flow control", (database) => {
  it("leaves windows in use alone, and forgets those that nobody sends in any more", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const flow = { window: 3, whenFull: "fail" } as const;
    await queue.sendMessages([note("a"), note("a"), note("a")], { flow });
    await queue.mailboxes.set("b", { maxDepth: 5 });
    await queue.sendMessage(note("b"));
    const names = async () =>
      ((await knex("outbox_keys").orderBy("kind")) as { kind: string }[]).map(({ kind }) => kind);
    const [first] = await queue.getMessages("a", { limit: 2 });
    const { failed } = await queue.maintain();
    expect(failed).toEqual([]);
    // Claimed is not finished, whatever receipt it bears now.
    expect((await failure(() => queue.sendMessage(note("a"), { flow }))).code).toBe("QUEUE_FULL");
    await first?.ack();
    expect((await queue.maintain()).slotsFreed).toBe(1);
    expect(await names()).toEqual(["depth", "window"]);
    await queue.sendMessage(note("a"), { flow });
    for (const row of await knex("outbox_messages").where({ to_agent: "a" })) {
      await queue.cancelMessage(row.message_id);
    }
    await queue.mailboxes.set("b", { maxDepth: null });
    await queue.maintain();
    await queue.maintain();
    expect(await names()).toEqual([]);
    expect(await knex("outbox_slots")).toEqual([]);
    await queue.sendMessages([note("a"), note("a"), note("a")], { flow });
    expect((await failure(() => queue.sendMessage(note("a"), { flow }))).code).toBe("QUEUE_FULL");
  });
});
