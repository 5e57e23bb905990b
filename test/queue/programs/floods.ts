import {
  AgentCommunicationError,
  MessageQueueManager,
  type SendOptions,
} from "../../../lib/index.ts";

/** Sends as fast as it can until the destination is full, or `count` are stored, from a process of its own. */
const [url = "", toAgent = "", options = "{}", count = "0"] = process.argv.slice(2);
const queue = new MessageQueueManager(url);
const { flow } = JSON.parse(options) as SendOptions;
let stored = 0;
let refused = 0;

async function send(n: number): Promise<void> {
  const message = { toAgent, fromAgent: "flood", messageType: "NOTE", content: { n } };
  try {
    await queue.sendMessages(n % 3 === 0 ? [message, message] : [message], { flow });
    stored += n % 3 === 0 ? 2 : 1;
  } catch (error) {
    if (!(error instanceof AgentCommunicationError) || error.code !== "QUEUE_FULL") throw error;
    refused += 1;
  }
}

process.on("message", () => {
  void (async () => {
    for (let n = 0; stored < Number(count) && refused < 20; n += 4) {
      await Promise.all([0, 1, 2, 3].map((m) => send(n + m)));
    }
    await queue.close();
    process.send?.({ stored, refused });
    process.disconnect?.();
  })();
});
await queue.isConnected();
process.send?.({ ready: true });
