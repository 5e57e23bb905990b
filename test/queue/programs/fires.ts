import { MessageQueueManager } from "../../../lib/index.ts";

/** Fires schedules from a process of its own, round after round, and tells how many messages each round sent. */
const queue = new MessageQueueManager(process.argv[2] ?? "");
await queue.isConnected();
process.on("message", () => {
  void (async () => {
    for (;;) {
      const { schedulesFired } = await queue.maintain();
      process.send?.({ fired: schedulesFired });
    }
  })();
});
process.send?.({ ready: true });
