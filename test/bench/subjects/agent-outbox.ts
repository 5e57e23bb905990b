import { openOutbox } from "../../../lib/index.ts";
import { countdown, type Opener } from "../subject.ts";

const TO = "bench";

/** As it comes: fenced, archived, audited if anybody listens, durable. */
export const agentOutbox: Opener = async (url) => {
  const outbox = await openOutbox({ database: url, migrate: true });
  const note = (content: object) => ({ toAgent: TO, messageType: "BENCH", content });
  return {
    name: "agent-outbox",
    settings: "defaults; work: concurrency 100, batchSize 500",
    send: (payload) => outbox.queue.sendMessage(note(payload)),
    sendMany: (payloads) => outbox.queue.sendMessages(payloads.map(note)),
    async drain(count) {
      const { reached, done } = countdown(count);
      const worker = outbox.queue.work(TO, done, { concurrency: 100, batchSize: 500 });
      await reached;
      // Returns when everything handled is settled.
      await worker.stop();
    },
    close: () => outbox.close(),
  };
};
