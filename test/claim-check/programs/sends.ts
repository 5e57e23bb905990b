import { FileClaimCheckStore, MessageQueueManager } from "../../../lib/index.ts";

/** Sends a large content in a transaction that it leaves open, until it is killed. */
const [url = "", folder = "", to = ""] = process.argv.slice(2);
const queue = new MessageQueueManager(url, {
  claimCheck: { store: new FileClaimCheckStore(folder), aboveBytes: 1_000 },
});
await queue.knex.transaction(async (tx) => {
  const message = { toAgent: to, messageType: "NOTE", content: { text: "x".repeat(5_000) } };
  const sent = await queue.sendMessage(message, { tx });
  process.send?.(sent);
  await new Promise(() => setInterval(() => undefined, 1_000));
});
