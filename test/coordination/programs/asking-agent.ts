/** An agent in a process of its own that asks two questions, one after the other, and tells of each run. */
import { runAgent } from "../../../lib/coordination/agent-runner.ts";
import { connect } from "../../../lib/store/connect.ts";

const [url = "", agentId = "", waitMs = "60000"] = process.argv.slice(2);
const { knex } = connect(url, { poolMax: 3 });
await runAgent(knex, {
  agentId,
  capabilities: ["x"],
  heartbeatIntervalMs: 200,
  leaseMs: 1_000,
  tasks: {
    ask: async (task, { requestInput }) => {
      process.send?.({ began: task.assignment });
      const first = await requestInput({ prompt: "First?", waitMs: Number(waitMs) });
      const second = await requestInput({ prompt: "Second?", waitMs: Number(waitMs) });
      return { first, second };
    },
  },
});
process.send?.({ ready: agentId });
