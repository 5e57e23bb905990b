import { countdown, type Opener, peer } from "../subject.ts";

interface Runner {
  stop(): Promise<void>;
}
interface Utils {
  addJob(name: string, payload: object): Promise<unknown>;
  addJobs(jobs: readonly object[]): Promise<unknown>;
  migrate(): Promise<void>;
  release(): Promise<void>;
}
interface GraphileWorker {
  makeWorkerUtils(options: object): Promise<Utils>;
  run(options: object): Promise<Runner>;
  Logger: new (factory: () => () => void) => object;
}

/** The settings of its own performance test: local queue, batched completion. */
export const graphileWorker: Opener = async (url) => {
  const { makeWorkerUtils, run, Logger } = await peer<GraphileWorker>("graphile-worker");
  const logger = new Logger(() => () => undefined);
  const utils = await makeWorkerUtils({ connectionString: url, logger });
  await utils.migrate();
  return {
    name: "graphile-worker",
    settings: "localQueue 500, completeJobBatchDelay 0, concurrentJobs 24",
    send: (payload) => utils.addJob("bench", payload),
    sendMany: (payloads) =>
      utils.addJobs(payloads.map((payload) => ({ identifier: "bench", payload }))),
    async drain(count) {
      const { reached, done } = countdown(count);
      const runner = await run({
        preset: {
          worker: {
            connectionString: url,
            concurrentJobs: 24,
            pollInterval: 2_000,
            localQueue: { size: 500, refetchDelay: { durationMs: 10 } },
            completeJobBatchDelay: 0,
            failJobBatchDelay: 0,
            logger,
          },
        },
        taskList: { bench: done },
        noHandleSignals: true,
      });
      await reached;
      await runner.stop();
    },
    close: () => utils.release(),
  };
};
