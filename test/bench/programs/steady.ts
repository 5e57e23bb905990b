import { openOutbox, type Worker } from "../../../lib/index.ts";
import { MAILBOX } from "../filling.ts";
import { instant, quantile } from "../measure.ts";
import type { SteadyAnswer, SteadyOrder } from "../steady.ts";
import { obey, tell } from "./obey.ts";

const [url] = process.argv.slice(2) as [string];
const outbox = await openOutbox({ database: url });
let worker: Worker | undefined;
let times: number[] = [];
let firstAt = 0;
let lastAt = 0;

/** What was handled since the last sample. */
function sample(): SteadyAnswer {
  const taken = times;
  times = [];
  return {
    count: taken.length,
    p50: quantile(taken, 0.5),
    p99: quantile(taken, 0.99),
    firstAt,
    lastAt,
  };
}

obey<SteadyOrder>(
  async (order) => {
    if (order.do === "work") {
      firstAt = 0;
      worker = outbox.queue.work(
        MAILBOX,
        ({ content }) => {
          lastAt = instant();
          firstAt ||= lastAt;
          times.push(lastAt - ((content as { at?: number }).at ?? lastAt));
        },
        { concurrency: 100, batchSize: 500 },
      );
    } else if (order.do === "stop") {
      await worker?.stop();
    }
    tell(sample());
  },
  () => outbox.close(),
);
tell(sample());
