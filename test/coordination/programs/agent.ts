/** An agent in a process of its own. It tells of each task that it begins, and takes its time with "slow" ones. */
import { setTimeout as sleep } from "node:timers/promises";
import { runAgent } from "../../../lib/coordination/agent-runner.ts";
import { connect } from "../../../lib/store/connect.ts";

const [url = "", agentId = "", heartbeatMs = "200", leaseMs = "1000"] = process.argv.slice(2);
const { knex } = connect(url, { poolMax: 3 });
await runAgent(knex, {
  agentId,
  capabilities: ["x"],
  maxConcurrentTasks: 2,
  heartbeatIntervalMs: Number(heartbeatMs),
  leaseMs: Number(leaseMs),
  tasks: {
    slow: async (task, { signal }) => {
      process.send?.({ began: task.taskId, assignment: task.assignment });
      await sleep(60_000, undefined, { signal }).catch(() => undefined);
      process.send?.({ aborted: task.taskId });
    },
    quick: (task) => {
      process.send?.({ began: task.taskId, assignment: task.assignment });
      return { by: agentId };
    },
  },
});
process.send?.({ ready: agentId });
