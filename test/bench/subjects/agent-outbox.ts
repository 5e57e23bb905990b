import { openOutbox } from "../../../lib/index.ts";
import { draining, type Opener } from "../subject.ts";

const TO = "bench";

/** As it comes: fenced, archived, audited if anybody listens, durable. */
export const agentOutbox: Opener = async (url) => {
  const outbox = await openOutbox({ database: url, migrate: true });
  const note = (content: object) => ({ toAgent: TO, messageType: "BENCH", content });
  return draining({
    name: "agent-outbox",
    kind: "ours",
    settings: "as it comes: leased, fenced, archived; work: concurrency 100, batchSize 500",
    send: (payload) => outbox.queue.sendMessage(note(payload)),
    sendMany: (payloads) => outbox.queue.sendMessages(payloads.map(note)),
    async work(handled) {
      const worker = outbox.queue.work(TO, () => handled(1), { concurrency: 100, batchSize: 500 });
      return async () => {
        // Returns when everything handled is settled.
        await worker.stop();
      };
    },
    close: () => outbox.close(),
  });
};
