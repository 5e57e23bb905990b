import { MessageQueueManager } from "../../../lib/index.ts";

/** Sends a message for each one it is told to, from a process of its own. */
const [url = "", toAgent = ""] = process.argv.slice(2);
const queue = new MessageQueueManager(url);
await queue.isConnected();
process.on("message", ({ count }: { count: number }) => {
  void (async () => {
    for (let n = 0; n < count; n++) {
      await queue.sendMessage({ toAgent, messageType: "NOTE", content: { sentAt: Date.now() } });
    }
    process.send?.({ sent: count });
  })();
});
process.send?.({ ready: true });
