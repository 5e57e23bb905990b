import type { Knex } from "knex";
import { AgentCommunicationError, MessageQueueManager } from "../../lib/index.ts";
import { createEffects, finalState, readEffects } from "./final-state.ts";
import { createJournal, readJournal } from "./journal.ts";
import { Random } from "./random.ts";
import { MemoryLog, Recorder } from "./recorder.ts";
import type { Bucket, History, Limit } from "./types.ts";
import { type Mailbox, type Pace, pollOnce, randomMessage, randomWay } from "./workload.ts";

export const MAILBOXES: readonly Mailbox[] = [
  { name: "plain", keys: "none" },
  { name: "keyed", keys: "ordering" },
  { name: "shared", keys: "concurrency" },
  { name: "limited", keys: "none" },
  { name: "metered", keys: "none", metered: true },
];

export const LIMITS: readonly Limit[] = [
  // By default one message of a concurrency key is in flight at a time.
  { mailbox: "shared", perKey: true, max: 1 },
  { mailbox: "limited", max: 4 },
  { mailbox: "limited", messageType: "ORDER", max: 2 },
];

const RATE = { amount: 60, perMs: 1_000, burst: 20 };

export const BUCKET: Bucket = {
  mailbox: "metered",
  capacity: RATE.burst,
  refillPerMs: RATE.amount / RATE.perMs,
};

/** Sets what LIMITS and BUCKET say. */
export async function setLimits(queue: MessageQueueManager): Promise<void> {
  await queue.limits.set("limited", { agentId: "limited", maxInFlight: 4 });
  await queue.limits.set("orders", { agentId: "limited", messageType: "ORDER", maxInFlight: 2 });
  await queue.limits.set("metered", { agentId: "metered", rate: RATE });
}

/** A database may refuse one of two senders; what became of his messages is in the record. */
function refused(error: unknown): void {
  if (!(error instanceof AgentCommunicationError)) throw error;
}

/** What clients of one process, each on its own, did to a real queue on an empty database. */
export async function recorded(
  knex: Knex,
  seed: number,
  { rounds, pace }: { rounds: number; pace: Pace },
): Promise<History> {
  await createJournal(knex);
  await createEffects(knex);
  const queue = new MessageQueueManager(knex);
  await setLimits(queue);
  const log = new MemoryLog();
  const client = async (name: string, run: (recorder: Recorder, random: Random) => Promise<void>) =>
    run(new Recorder(queue, name, log), new Random(seed + name.length));
  const sender = (name: string) =>
    client(name, async (recorder, random) => {
      for (let n = 0; n < rounds; n++) {
        const size = random.chance(0.3) ? random.int(2, 4) : 1;
        const batch = Array.from({ length: size }, (_, m) =>
          randomMessage(random, MAILBOXES, `${name}-${n}-${m}`, pace),
        );
        await recorder.send(batch, randomWay(random)).catch(refused);
        if (random.chance(0.05)) await recorder.cancel(`${name}-${random.int(0, n)}-0`);
      }
    });
  const poller = (name: string) =>
    client(name, async (recorder, random) => {
      for (let n = 0; n < rounds; n++) {
        await pollOnce(recorder, random, random.pick(MAILBOXES).name, pace);
      }
    });
  await Promise.all([sender("s"), sender("send"), poller("pol"), poller("polling")]);
  await queue.close();
  return {
    entries: log.entries,
    final: await finalState(knex),
    journal: await readJournal(knex),
    effects: await readEffects(knex),
    limits: LIMITS,
    buckets: [{ ...BUCKET, slackMs: 200 + pace.leaseMs }],
  };
}
