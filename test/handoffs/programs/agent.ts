/** An agent in a process of its own that hands tasks over, and tells of each step, so that it can be killed there. */
import { setTimeout as sleep } from "node:timers/promises";
import { runAgent } from "../../../lib/coordination/agent-runner.ts";
import { connect } from "../../../lib/store/connect.ts";

const [url = "", agentId = "", other = ""] = process.argv.slice(2);
const { knex } = connect(url, { poolMax: 4 });

/** Waits after each step, so that a kill finds the process there. */
const tell = async (step: string) => {
  process.send?.({ step, agentId });
  await sleep(30);
};

await runAgent(knex, {
  agentId,
  capabilities: [agentId],
  maxConcurrentTasks: 3,
  heartbeatIntervalMs: 1_000,
  leaseMs: 5_000,
  tasks: {
    relay: async (task, context) => {
      await tell("began");
      await context.progress(50, { by: agentId });
      // What came to it is done here; what is its own, or came back, is handed over.
      if (task.handoff?.state === "accepted") return { by: agentId, from: task.handoff.from };
      if (task.assignment > 12) return { by: agentId, from: null };
      await context.handOff({ to: other, reason: "relay", dueMs: 1_500, currentState: { n: 1 } });
      await tell("offered");
    },
  },
  onHandoff: async (_, { accept }) => {
    await tell("asked");
    await accept();
    await tell("accepted");
  },
});
process.send?.({ step: "ready", agentId });
