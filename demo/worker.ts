/** One agent in a process of its own. It learns what to do over IPC, and gets its tasks from the database. */
import { openOutbox } from "../lib/index.ts";
import type { Capability, Command, Signal, StartCommand } from "./protocol.ts";
import { AGENTS, HEARTBEAT_MS, TASKS_AT_ONCE } from "./protocol.ts";
import { perform } from "./work.ts";

/** Who waits to be told that it may go on. */
const waiting = new Map<string, () => void>();

async function start(command: StartCommand): Promise<() => Promise<void>> {
  const { agentId, capabilities, database, prefix, logs, root } = command;
  const outbox = await openOutbox({
    database,
    prefix,
    poolMax: 4,
    fileLogging: { baseDir: logs, layout: "flat" },
  });

  const handle =
    (capability: Capability) => async (task: { taskId: string; parameters: unknown }) => {
      const halfway = async () => {
        const { marked } = task.parameters as { marked?: boolean };
        if (marked === true) await tellAndWait(task.taskId);
      };
      const result = await perform(capability, task.parameters, root, halfway);
      outbox
        .getFileLogger()
        ?.logPerformanceMetric(agentId, `${capability}_task`, result.workMs, "ms");
      return result;
    };

  const runner = await outbox.runAgent({
    agentId,
    capabilities: [...capabilities],
    maxConcurrentTasks: TASKS_AT_ONCE,
    heartbeatIntervalMs: HEARTBEAT_MS,
    tasks: Object.fromEntries(capabilities.map((capability) => [capability, handle(capability)])),
  });
  return async () => {
    await runner.stop();
    await outbox.close();
  };
}

function tellAndWait(taskId: string): Promise<void> {
  return new Promise((resolve) => {
    waiting.set(taskId, resolve);
    tell({ type: "inside", taskId });
  });
}

function tell(signal: Signal): void {
  process.send?.(signal);
}

function listen(): void {
  let stop: (() => Promise<void>) | undefined;
  process.on("message", async (message) => {
    const command = message as Command;
    try {
      if (command.type === "go on") waiting.get(command.taskId)?.();
      else if (command.type === "start") {
        stop = await start(command);
        tell({ type: "ready" });
      } else {
        await stop?.();
        process.exit(0);
      }
    } catch (error) {
      tell({ type: "failed", message: error instanceof Error ? error.message : String(error) });
    }
  });
  // However the main process went: its channel closes, and nobody is left to work for.
  process.on("disconnect", () => process.exit(1));
  // Ctrl-C reaches every process of the terminal; the main process decides what happens.
  process.on("SIGINT", () => {});
  if (!process.connected) process.exit(1);
}

if (process.send === undefined) {
  console.error(`This is a worker of the demo (${Object.keys(AGENTS).join(", ")}): npm run demo`);
  process.exitCode = 2;
} else listen();
