import { MessageQueueManager, type WorkOptions } from "../../../lib/index.ts";

/**
 * Works a mailbox in a process of its own, as the content of each message says, and tells the test what it
 * does. `{ begin: true }` starts it, `{ go: true }` lets waiting handlers end, `{ ask: "stats" }` is answered.
 */
const [url = "", agentId = "", json = "{}"] = process.argv.slice(2);
const options = JSON.parse(json) as WorkOptions & { quiet?: boolean };
const { quiet = false, ...workOptions } = options;
const queue = new MessageQueueManager(url);
const handled: string[] = [];
const waiting: (() => void)[] = [];
const ever = () => new Promise<never>(() => setInterval(() => {}, 1_000));

process.on("message", (asked: { begin?: true; go?: true; ask?: "stats" }) => {
  if (asked.begin) work();
  if (asked.go) for (const go of waiting.splice(0)) go();
  if (asked.ask) process.send?.({ event: "stats", ...worker?.stats, handled });
});

let worker: ReturnType<typeof queue.work> | undefined;

function work(): void {
  const onError = () => {};
  worker = queue.work(agentId, handle, { ...workOptions, onError });
}

const handle: Parameters<typeof queue.work>[1] = async (message, { tx, progress }) => {
  const { act } = message.content as { act?: string };
  const tell = (event: string) => {
    const { messageId: id, attempt } = message;
    if (!quiet) process.send?.({ event, id, attempt, progress: message.progress });
  };
  const first = message.attempt === 1;
  const write = (inside?: () => Promise<void>) =>
    tx(async (trx) => {
      await trx("effects").insert({ message_id: message.messageId, process: process.pid });
      await message.reply({ done: true }, { tx: trx });
      await inside?.();
    });
  handled.push(message.messageId);
  tell("started");
  switch (act) {
    case "note":
      await progress({ attempt: message.attempt });
      tell("noted");
      if (first) await ever();
      break;
    case "die":
      process.kill(process.pid, "SIGKILL");
      await ever();
      break;
    case "write":
      await write();
      break;
    case "die inside":
      await write(async () => {
        tell("inside");
        if (first) await ever();
      });
      break;
    case "die after":
      await write();
      tell("committed");
      await ever();
      break;
    case "wait":
    case "wait and write":
      await new Promise<void>((go) => waiting.push(go));
      if (act === "wait and write") await write();
      break;
  }
  tell("ended");
};

await queue.isConnected();
process.send?.({ event: "ready" });
