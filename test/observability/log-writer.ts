/** A process that logs, for the tests that need several of them, or one that ends in a certain way. */
import { setImmediate as nextTurn } from "node:timers/promises";
import { FileLogger } from "../../lib/observability/file-logger.ts";

export interface WriterJob {
  readonly baseDir: string;
  readonly name: string;
  readonly lines: number;
  /**
   * `close`: writes the lines, closes. `exit`: exits in the middle, after so many turns of the event loop.
   * `idle`: logs and has nothing else to do. `steps`: logs as many lines as it is told, flushes and reports, again and again.
   */
  readonly end: "close" | "exit" | "idle" | "steps";
  readonly turns?: number;
  readonly flushMs?: number;
}

export interface WriterReport {
  readonly written: number;
  readonly waiting: number;
  readonly dropped: number;
  readonly warnings: readonly string[];
}

const job = JSON.parse(process.argv[2] ?? "") as WriterJob;
const warnings: string[] = [];
const logger = new FileLogger({
  baseDir: job.baseDir,
  layout: "flat",
  flushMs: job.flushMs ?? 1,
  onWarning: (message) => warnings.push(message),
});
let logged = 0;

function log(): void {
  logger.observer([
    {
      type: "message",
      event: "sent",
      messageId: `${job.name}-${logged++}`,
      fromAgent: job.name,
      toAgent: "agent_002",
      messageType: "TASK_REQUEST",
      at: Date.parse("2024-01-15T12:00:00.000Z"),
      reason: "é".repeat(logged % 100),
    },
  ]);
}

function say(what: unknown): Promise<void> {
  return new Promise((resolve) => {
    process.send?.(what, undefined, undefined, () => resolve());
  });
}

function told(): Promise<unknown> {
  return new Promise((resolve) => {
    process.once("message", resolve);
  });
}

async function writeAll(): Promise<void> {
  for (let i = 0; i < job.lines; i++) {
    log();
    // Some turns without a pause in between, so that batches of several sizes come about.
    if (i % 50 === 49) await nextTurn();
    if (i === 999) await say("a thousand");
  }
}

async function main(): Promise<void> {
  switch (job.end) {
    case "close":
      await say("ready");
      await told();
      await writeAll();
      await logger.close();
      process.disconnect();
      return;
    case "exit":
      for (let i = 0; i < job.lines; i++) log();
      for (let turn = 0; turn < (job.turns ?? 0); turn++) {
        await nextTurn();
        log();
      }
      process.exit(0);
      break;
    case "idle":
      for (let i = 0; i < job.lines; i++) log();
      process.disconnect();
      return;
    case "steps":
      for (;;) {
        const more = Number(await told());
        for (let i = 0; i < more; i++) log();
        await logger.flush();
        const { lines_written, lines_waiting, lines_dropped } = await logger.getLogStats();
        const report: WriterReport = {
          written: lines_written,
          waiting: lines_waiting,
          dropped: lines_dropped,
          warnings,
        };
        await say(report);
      }
  }
}

await main();
