import { draining, type Opener, peer, versionOf } from "../subject.ts";

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
  return draining({
    name: "graphile-worker",
    kind: "peer",
    settings: `${versionOf("graphile-worker")}, as in its own performance test: concurrentJobs 24, maxPoolSize 25, localQueue of 500 with a refetchDelay of 10 ms, completeJobBatchDelay 0, failJobBatchDelay 0; batches by addJobs`,
    send: (payload) => utils.addJob("bench", payload),
    sendMany: (payloads) =>
      utils.addJobs(payloads.map((payload) => ({ identifier: "bench", payload }))),
    async work(handled) {
      const runner = await run({
        preset: {
          worker: {
            connectionString: url,
            concurrentJobs: 24,
            maxPoolSize: 25,
            pollInterval: 2_000,
            localQueue: { size: 500, refetchDelay: { durationMs: 10 } },
            completeJobBatchDelay: 0,
            failJobBatchDelay: 0,
            logger,
          },
        },
        taskList: { bench: () => handled(1) },
        noHandleSignals: true,
      });
      return () => runner.stop();
    },
    close: () => utils.release(),
  });
};
