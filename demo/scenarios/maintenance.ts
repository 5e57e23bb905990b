/**
 * SOLEil, scenario 3: the system is updated while it runs. Every module is told, stops writing, and says so; reads go
 * on. What is to be written meanwhile waits in the mailboxes, in its order, and is written when the system is ready.
 */
import type { Worker } from "../../lib/index.ts";
import { Cast, type Scenario, until } from "./scenario.ts";

const MODULES = ["content-module", "sync-module"];
const COORDINATOR = "system-coordinator";

export interface MaintenanceResult {
  /** Who said that it writes no more, before the update began. */
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
    const readOnly = new Set<string>();

    for (const module of MODULES) {
      const write = (): Worker =>
        queue.work(
          module,
          (message) => {
            written.push(`${module} ${(message.content as { n: number }).n}`);
          },
          { messageTypes: ["FILE_WRITE"] },
        );
      let writer: Worker | undefined = write();
      cast.stopLast(() => writer?.stop());
      cast.consumer(
        module,
        async (message) => {
          if (message.messageType === "FILE_READ") {
            read.push(module);
          } else if (message.messageType === "SYSTEM_MAINTENANCE") {
            // What it writes at the moment is finished first: only then it says that it is read-only.
            await writer?.stop();
            writer = undefined;
            say(module, "is read-only");
            await message.reply({ mode: "read_only" }, { messageType: "SYSTEM_MODE_CHANGED" });
          } else {
            writer ??= write();
            say(module, "writes again");
          }
        },
        { messageTypes: ["FILE_READ", "SYSTEM_MAINTENANCE", "SYSTEM_READY"] },
      );
    }
    cast.consumer(COORDINATOR, (message) => {
      readOnly.add(message.fromAgent);
    });

    const send = (messageType: string, content: object, priority?: "CRITICAL") =>
      queue.sendMessage({
        fromAgent: COORDINATOR,
        toAgent: MODULES,
        messageType,
        content,
        ...(priority === undefined ? {} : { priority }),
      });
    await send("FILE_WRITE", { n: 1 });
    await until(async () => written.length === MODULES.length);

    say(COORDINATOR, "announces maintenance");
    await send("SYSTEM_MAINTENANCE", { reason: "update" }, "CRITICAL");
    await until(async () => readOnly.size === MODULES.length);
    say(COORDINATOR, `updates: ${[...readOnly].sort().join(" and ")} are read-only`);
    for (const n of [2, 3]) await send("FILE_WRITE", { n });
    await send("FILE_READ", {});
    await until(async () => read.length === MODULES.length);
    const writtenBefore = written.length;
    const waiting = await Promise.all(MODULES.map((module) => queue.getQueueStats(module)));
    const parked = waiting.reduce((sum, { pending }) => sum + pending, 0);
    say(COORDINATOR, `reads went on; ${parked} writes wait`);

    say(COORDINATOR, "the system is ready");
    await send("SYSTEM_READY", {}, "CRITICAL");
    await until(async () => written.length === 3 * MODULES.length);
    say(COORDINATOR, `all ${written.length} writes are done`);
    return {
      readOnly: [...readOnly].sort(),
      parked,
      readMeanwhile: read.sort(),
      written: [...written],
      writtenBefore,
    };
  },
};
