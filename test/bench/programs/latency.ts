import { setTimeout as sleep } from "node:timers/promises";
import { openOutbox } from "../../../lib/index.ts";
import { instant } from "../measure.ts";
import { peer } from "../subject.ts";
import { obey, tell } from "./obey.ts";

interface Line {
  send(at: () => number): Promise<unknown>;
  work(handled: (sentAt: number) => void): Promise<void>;
  close(): Promise<void>;
}

const payload = (at: number) => ({ at, text: "x".repeat(180) });

async function ours(url: string): Promise<Line> {
  const outbox = await openOutbox({ database: url, migrate: true });
  return {
    send: (at) =>
      outbox.queue.sendMessage({
        toAgent: "bench",
        messageType: "BENCH",
        content: payload(at()),
      }),
    async work(handled) {
      outbox.queue.work("bench", ({ content }) => handled((content as { at: number }).at));
    },
    close: () => outbox.close(),
  };
}

interface GraphileWorker {
  makeWorkerUtils(options: object): Promise<{
    addJob(name: string, payload: object): Promise<unknown>;
    migrate(): Promise<void>;
    release(): Promise<void>;
  }>;
  run(options: object): Promise<{ stop(): Promise<void> }>;
  Logger: new (factory: () => () => void) => object;
}

/** As it comes: woken by NOTIFY at every job, and without its local queue, which only adds a wait. */
async function graphileWorker(url: string): Promise<Line> {
  const { makeWorkerUtils, run, Logger } = await peer<GraphileWorker>("graphile-worker");
  const logger = new Logger(() => () => undefined);
  const utils = await makeWorkerUtils({ connectionString: url, logger });
  await utils.migrate();
  let stop = async () => {};
  return {
    send: (at) => utils.addJob("bench", payload(at())),
    async work(handled) {
      const runner = await run({
        connectionString: url,
        concurrency: 4,
        logger,
        taskList: { bench: (job: { at: number }) => handled(job.at) },
        noHandleSignals: true,
      });
      stop = () => runner.stop();
    },
    async close() {
      await stop();
      await utils.release();
    },
  };
}

const [subject, url] = process.argv.slice(2) as [string, string];
const line = await (subject === "graphile-worker" ? graphileWorker : ours)(url);

obey<{ work: true } | { send: number; pauseMs: readonly [number, number] }>(
  async (order) => {
    if ("work" in order) {
      await line.work((sentAt) => tell(instant() - sentAt));
      tell("working");
      return;
    }
    const [from, to] = order.pauseMs;
    for (let n = 0; n < order.send; n++) {
      await sleep(from + Math.random() * (to - from));
      await line.send(instant);
    }
    tell("sent");
  },
  () => line.close(),
);
tell("ready");
