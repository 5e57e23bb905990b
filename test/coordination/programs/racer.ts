/** A supervisor that assigns batches, or an agent that does tasks, in a process of its own; to be killed at will. */
import { setTimeout as sleep } from "node:timers/promises";
import { openOutbox } from "../../../lib/index.ts";

const [url = "", kind = "", id = "", count = "0"] = process.argv.slice(2);
const outbox = await openOutbox({ database: url, poolMax: 3 });

async function supervise(): Promise<void> {
  const supervisor = outbox.supervisor(id, { sweepIntervalMs: 200 });
  supervisor.start({ intervalMs: 50 });
  for (let from = 0; from < Number(count); from += 10) {
    const tasks = Array.from({ length: 10 }, (_, n) => {
      const name = `${id.replace(/-again$/, "")}-${from + n}`;
      return {
        taskId: name,
        taskType: "work",
        cost: 1 + ((from + n) % 3),
        priority: (n * 7) % 100,
        maxAssignments: 100,
        requiredCapabilities: n % 3 === 0 ? ["common", "special"] : ["common"],
        // Each third waits for the one before it.
        dependsOn: n % 3 === 2 ? [name.replace(/\d+$/, String(from + n - 1))] : [],
      };
    });
    for (;;) {
      try {
        if (from % 20 === 0) await supervisor.assignTasks(tasks);
        else for (const task of tasks) await supervisor.assignTask(task);
        break;
      } catch (error) {
        if ((error as { retryable?: boolean }).retryable !== true) throw error;
        await sleep(50);
      }
    }
  }
  process.send?.({ assigned: id });
}

async function work(): Promise<void> {
  await outbox.runAgent({
    agentId: id,
    capabilities: id.startsWith("s") ? ["common", "special"] : ["common"],
    maxConcurrentTasks: Number(count),
    heartbeatIntervalMs: 300,
    leaseMs: 1_000,
    tasks: {
      work: async () => {
        await sleep(5 + Math.random() * 20);
        return { by: id, process: process.pid };
      },
    },
  });
  process.send?.({ works: id });
}

await (kind === "agent" ? work() : supervise());
