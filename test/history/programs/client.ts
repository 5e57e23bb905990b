import "./wrong-clock.ts";
import { setTimeout as sleep } from "node:timers/promises";
import {
  AgentCommunicationError,
  connect,
  MessageQueueManager,
  type WorkOptions,
} from "../../../lib/index.ts";
import { Random } from "../random.ts";
import { FileLog, type Input, Recorder } from "../recorder.ts";
import type { ClientTask } from "../stage.ts";
import { pollOnce, randomMessage, randomWay } from "../workload.ts";

/**
 * One client of the queue in a process of its own: sends, polls, works or operates at random until it is told
 * `{ stop: true }`, and writes down all it does. Errors of the queue are survived, anything else ends it.
 */
const task = JSON.parse(process.argv[2] ?? "{}") as ClientTask;
const { url, name, mailboxes, pace } = task;
const random = new Random(task.seed);
const { knex } = connect(url, { poolMax: task.poolMax, acquireTimeoutMs: 2_000 });
const queue = new MessageQueueManager(knex, {
  retryPolicy: { initialDelayMs: 5, maxDelayMs: pace.delayMs, maxAttempts: 1_000 },
});
const log = new FileLog(task.log);
const recorder = new Recorder(queue, name, log);
let stopping = false;
const stopped = new Promise<void>((resolve) => {
  process.on("message", (told: { stop?: true; fullForMs?: number }) => {
    if (told.fullForMs !== undefined) void full(told.fullForMs);
    if (!told.stop) return;
    stopping = true;
    resolve();
  });
});

/** SQLite: no room for another page, for so long. It has one connection, whose limit it is. */
async function full(ms: number): Promise<void> {
  const limit = (pages: number) => survived(() => knex.raw(`PRAGMA max_page_count = ${pages}`));
  // Less than there is means: what there is.
  await limit(1);
  await sleep(ms);
  while (!(await limit(4_294_967_294)));
}

const roles = { sender, poller, worker, operator };

async function sender(): Promise<void> {
  for (let n = 0; !stopping; n++) {
    const size = random.chance(0.2) ? random.int(2, 6) : 1;
    const batch = Array.from({ length: size }, (_, m) =>
      randomMessage(random, mailboxes, `${name}-${n}-${m}`, pace),
    );
    await certainly(batch);
    await sleep(random.int(0, task.pauseMs));
  }
}

/** As a careful sender does: what it is not sure of it sends again, under the same ids. */
async function certainly(batch: readonly Input[]): Promise<void> {
  while (!stopping) {
    if (await survived(() => recorder.send(batch, randomWay(random)))) return;
  }
}

async function poller(): Promise<void> {
  while (!stopping) {
    const found = { count: 0 };
    await survived(async () => {
      found.count = await pollOnce(recorder, random, random.pick(mailboxes).name, pace);
    });
    if (found.count === 0) await sleep(random.int(1, 20));
  }
}

async function worker(): Promise<void> {
  const options: WorkOptions = {
    leaseMs: Math.max(100, pace.leaseMs),
    concurrency: 4,
    pollMs: { min: 5, max: 100 },
    onError: () => {},
  };
  const workers = mailboxes.map((mailbox) =>
    queue.work(
      mailbox.name,
      (message, { tx, signal }) =>
        recorder.handle(message, async () => {
          const act = random.weighted({ effect: 10, nothing: 5, fail: 2, slow: 2, ack: 1 });
          if (act === "fail") throw new Error("no");
          if (act === "slow") await sleep(random.int(0, 2 * pace.leaseMs), undefined, { signal });
          if (act === "ack") await recorder.ack([message]);
          if (act !== "effect") return;
          await tx(async (trx) => {
            await trx("history_effects").insert({
              seq: message.sequence,
              receipt: message.receipt,
              message_id: message.messageId,
              mailbox: mailbox.name,
            });
          });
        }),
      options,
    ),
  );
  await stopped;
  await Promise.all(workers.map((one) => one.stop({ deadlineMs: 3_000 })));
}

async function operator(): Promise<void> {
  while (!stopping) {
    const mailbox = random.pick(mailboxes).name;
    const act = random.weighted({ maintain: 4, pause: 1, redrive: 2, cancel: 2, look: 2 });
    await survived(async () => {
      if (act === "maintain") await queue.maintain();
      if (act === "redrive") await recorder.redrive(mailbox, random.int(1, 5));
      if (act === "look") await queue.getQueueStats(mailbox);
      if (act === "cancel") {
        const [one] = await knex("outbox_messages").select("message_id").limit(1);
        if (one !== undefined) await recorder.cancel(one.message_id);
      }
      if (act === "pause") {
        await queue.pause(mailbox);
        await sleep(random.int(1, 50));
      }
    });
    if (act === "pause") {
      // Whoever pauses a mailbox must not forget it, whatever happens.
      while (!(await survived(() => queue.resume(mailbox)))) await sleep(20);
    }
    await sleep(random.int(1, 60));
  }
}

async function survived(run: () => Promise<unknown>): Promise<boolean> {
  try {
    await run();
    return true;
  } catch (error) {
    if (!(error instanceof AgentCommunicationError) && !fromTransaction(error)) throw error;
    await sleep(random.int(1, 50));
    return false;
  }
}

/** BEGIN, COMMIT and the client's own reads go through knex, which throws the driver's errors as they are. */
function fromTransaction(error: unknown): boolean {
  return (
    error instanceof Error &&
    ("code" in error || /Connection|connection|Knex/.test(error.message + error.name))
  );
}

process.send?.({ event: "ready" });
await roles[task.role]();
// A pool waits for connections whose server is silent; what is to be known is in the log.
await Promise.race([queue.close().then(() => knex.destroy()), sleep(2_000)]);
log.close();
process.exit(0);
