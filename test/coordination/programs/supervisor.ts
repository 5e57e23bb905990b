/** A supervisor in a process of its own: assigns tasks as fast as it can, then tells what it did. */
import { setTimeout as sleep } from "node:timers/promises";
import { SupervisorCoordinator } from "../../../lib/coordination/supervisor.ts";
import { connect } from "../../../lib/store/connect.ts";

const [url = "", supervisorId = "", count = "0"] = process.argv.slice(2);
const { knex } = connect(url, { poolMax: 3 });
const supervisor = new SupervisorCoordinator(supervisorId, knex, { sweepIntervalMs: 250 });
process.send?.({ ready: true });

process.once("message", async () => {
  const background = supervisor.run({ signal: AbortSignal.timeout(280_000), intervalMs: 100 });
  const taskIds: string[] = [];
  for (let n = 0; n < Number(count); n++) {
    const task = await supervisor.assignTask({
      taskType: "work",
      requiredCapabilities: n % 3 === 0 ? ["common", "special"] : ["common"],
      // Every fourth id is one that the other supervisors use too.
      ...(n % 4 === 0 ? { taskId: `shared-${n}` } : {}),
    });
    if (!task.duplicate) taskIds.push(task.taskId);
  }
  process.send?.({ taskIds });
  await Promise.race([background, sleep(300_000)]);
});
