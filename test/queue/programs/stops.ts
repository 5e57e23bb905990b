import { openOutbox } from "../../../lib/index.ts";

/** Works one message, stops while a handler hangs, and ends by having nothing left to do. */
const outbox = await openOutbox({ database: process.argv[2] ?? "" });
const { queue } = outbox;
const message = { toAgent: "stops", messageType: "NOTE", content: { n: 1 } };
const worker = queue.work("stops", (_, { signal }) =>
  worker.stats.processed === 0 ? undefined : new Promise(() => signal),
);
await queue.sendMessage(message);
while (worker.stats.processed < 1) await new Promise(setImmediate);
await queue.sendMessage(message);
while (worker.stats.active < 1) await new Promise(setImmediate);
await worker.stop({ deadlineMs: 100 });
await outbox.close();
process.send?.({ processed: worker.stats.processed });
process.disconnect();
