/**
 * SOLEil, scenario 3: the system is updated while it runs. Every module is told, and says that it knows; reads go
 * on. What is to be written meanwhile waits in the mailboxes, in its order, and is written when the system is ready.
 */
import { Cast, type Scenario, until } from "./scenario.ts";

const MODULES = ["content-module", "sync-module"];
const COORDINATOR = "system-coordinator";

export interface MaintenanceResult {
  /** Who said that it knows of the maintenance, before the update began. */
  readonly readOnly: readonly string[];
  /** Writes that waited during the update. */
  readonly parked: number;
  /** What was read during the update. */
  readonly readMeanwhile: readonly string[];
  /** Every write, in its order: module and number. */
  readonly written: readonly string[];
  /** How many were written when the update ended. */
  readonly writtenBefore: number;
}

export const maintenance: Scenario<MaintenanceResult> = {
  name: "maintenance",
  title: "SOLEil: an update while all modules are read-only, and no write is lost",
  async play(stage) {
    const { outbox, say } = stage;
    const { queue } = outbox;
    await using cast = new Cast(stage);
    const written: string[] = [];
    const read: string[] = [];
    for (const module of MODULES) {
      await cast.agent(
        module,
        {},
        {
          onMessage: async (message) => {
            if (message.messageType === "SYSTEM_MAINTENANCE") {
              await outbox.system.acknowledge(module);
              say(module, "knows that it is read-only");
            }
            if (message.messageType === "FILE_READ") read.push(module);
            if (message.messageType !== "FILE_WRITE") return;
            written.push(`${module} ${(message.content as { n: number }).n}`);
          },
        },
      );
    }

    const send = (messageType: string, content: object) =>
      queue.sendMessage({ fromAgent: COORDINATOR, toAgent: MODULES, messageType, content });
    await send("FILE_WRITE", { n: 1 });
    await until(async () => written.length === MODULES.length);

    say(COORDINATOR, "announces maintenance");
    await outbox.system.enterMaintenance({
      reason: "update",
      by: COORDINATOR,
      writeTypes: ["FILE_WRITE"],
    });
    const readOnly = await until(async () => {
      const { acknowledged, waiting } = await outbox.system.status();
      return waiting.length === 0 && acknowledged.map(({ agentId }) => agentId).sort();
    });
    say(COORDINATOR, `updates: ${readOnly.join(" and ")} know that they are read-only`);
    for (const n of [2, 3]) await send("FILE_WRITE", { n });
    await send("FILE_READ", {});
    await until(async () => read.length === MODULES.length);
    const writtenBefore = written.length;
    const waiting = await Promise.all(MODULES.map((module) => queue.getQueueStats(module)));
    const parked = waiting.reduce((sum, { pending }) => sum + pending, 0);
    say(COORDINATOR, `reads went on; ${parked} writes wait`);

    say(COORDINATOR, "the system is ready");
    await outbox.system.ready({ by: COORDINATOR });
    await until(async () => written.length === 3 * MODULES.length);
    say(COORDINATOR, `all ${written.length} writes are done`);
    return {
      readOnly,
      parked,
      readMeanwhile: read.sort(),
      written: [...written],
      writtenBefore,
    };
  },
};
