import { expect, it } from "vitest";
import { MessageQueueManager } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";
import { spawnScript, until } from "../support/processes.ts";

eachDatabase("senders that are killed", (database) => {
  it("G1: whatever a sender was told is committed is delivered once it was killed, and sending again adds nothing", async () => {
    const to = "killed-senders";
    const senders = ["s1", "s2", "s3"].map((name) =>
      spawnScript("test/stress/programs/sender.ts", [name, to], { DATABASE_URL: database.url() }),
    );
    const told: string[][] = senders.map((sender) => {
      const ids: string[] = [];
      sender.child.on("message", ({ committed }: { committed: string }) => ids.push(committed));
      return ids;
    });
    await until(() => told.every((ids) => ids.length >= 20));
    for (const sender of senders) sender.kill("SIGKILL");
    await Promise.all(senders.map(({ exited }) => exited));
    const committed = new Set(told.flat());
    const queue = new MessageQueueManager(database.knex());
    // What a careful sender does after a crash: it repeats the last message that it is not sure of.
    for (const name of ["s1", "s2", "s3"]) {
      const last =
        [...committed].filter((messageId) => messageId.startsWith(`${name}-`)).length - 1;
      const again = { toAgent: to, fromAgent: name, messageType: "NOTE", content: {} };
      const sent = await queue.sendMessage({ ...again, messageId: `${name}-${last}` });
      expect(sent.duplicate).toBe(true);
    }
    const got = new Map<string, number>();
    for (;;) {
      const claims = await queue.getMessages(to, { limit: 500 });
      if (claims.length === 0) break;
      for (const { messageId } of claims) got.set(messageId, (got.get(messageId) ?? 0) + 1);
      await queue.ackMessages(claims);
    }
    expect([...committed].filter((messageId) => !got.has(messageId))).toEqual([]);
    expect([...got.values()].every((times) => times === 1)).toBe(true);
    // At most the one message each that was on its way when the sender died.
    expect(got.size - committed.size).toBeLessThanOrEqual(3);
    await queue.close();
  });
});
