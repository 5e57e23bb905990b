import { setTimeout as sleep } from "node:timers/promises";
import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { mailbox, note, watched } from "../support/queue.ts";

eachDatabase("an idle worker", (database) => {
  it("finds what nobody told of behind many messages in flight", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex, { notify: false });
    const [to, elsewhere] = [mailbox(), mailbox()];
    await queue.sendMessages(Array.from({ length: 120 }, (_, n) => note(to, { n })));
    expect(await queue.getMessages(to, { limit: 120, leaseMs: 600_000 })).toHaveLength(120);
    const { messageId } = await queue.sendMessage(note(elsewhere));
    const worker = queue.work(to, () => undefined, { pollMs: { min: 5, max: 20 } });
    await sleep(500);
    // No wake-up: it comes into the mailbox beside the queue.
    await knex("outbox_messages").where({ message_id: messageId }).update({ to_agent: to });
    await until(() => worker.stats.processed === 1, { timeoutMs: 8_000 });
  });
});
