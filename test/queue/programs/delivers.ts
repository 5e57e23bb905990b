// Works a mailbox until it is killed, and writes each run into the table of effects: at once, or with the
// acknowledgement. Says when it begins a run.
import { MessageQueueManager } from "../../../lib/index.ts";

const [url = "", agentId = ""] = process.argv.slice(2);
const queue = new MessageQueueManager(url);
await queue.isConnected();

queue.work(
  agentId,
  async (message, { tx }) => {
    const { messageId: message_id } = message;
    process.send?.({ started: message_id });
    const row = { message_id, process: process.pid };
    if (message.delivery === "EXACTLY_ONCE") {
      await tx((trx) => trx("effects").insert(row));
      await new Promise((go) => setTimeout(go, Math.random() * 5));
    } else {
      await queue.knex("effects").insert(row);
    }
  },
  { concurrency: 4, leaseMs: 500, pollMs: { min: 5, max: 50 }, onError: () => {} },
);
