import { MessageQueueManager } from "../../../lib/index.ts";

/** Redrives a mailbox's dead letters in a process of its own, when it is told to, and reports each step. */
const [url = "", agentId = "", limit = "100000"] = process.argv.slice(2);
const queue = new MessageQueueManager(url);
await queue.isConnected();
process.on("message", () => {
  void (async () => {
    const { redriven, messageIds } = await queue.deadLetters.redrive(
      { agentId },
      { limit: Number(limit), onProgress: ({ done }) => process.send?.({ done }) },
    );
    process.send?.({ redriven, messageIds });
  })();
});
process.send?.({ ready: true });
