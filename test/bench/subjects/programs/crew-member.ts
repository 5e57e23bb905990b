import type { FromMember, ToMember } from "../crew.ts";
import { OPENERS } from "../openers.ts";

// One worker process of a crew: arguments are the subject's name in OPENERS.postgres and the database.
const [opener = "", url = ""] = process.argv.slice(2);
const tell = (message: FromMember) => process.send?.(message);

async function main(): Promise<void> {
  const subject = await OPENERS.postgres[opener]?.(url);
  if (subject === undefined) throw new Error(`there is no subject "${opener}"`);
  let untold = 0;
  const report = () => {
    if (untold === 0) return;
    tell({ handled: untold });
    untold = 0;
  };
  let stop = async () => {};
  let reporting: NodeJS.Timeout | undefined;
  const orders: Record<ToMember, () => Promise<void>> = {
    async work() {
      reporting = setInterval(report, 3);
      stop = await subject.work((count) => {
        if (Number.isFinite(count)) untold += count;
        // Its loop failed: stopping it says why.
        else stop().catch(fail);
      });
      tell({ told: "working" });
    },
    async stop() {
      await stop();
      clearInterval(reporting);
      report();
      tell({ told: "stopped" });
    },
    async leave() {
      await subject.close();
      process.exit(0);
    },
  };
  process.on("message", (order: ToMember) => {
    orders[order]().catch(fail);
  });
  tell({ told: "ready" });
}

function fail(error: unknown): void {
  tell({ failed: String((error as Error).message) });
  process.exitCode = 1;
  process.disconnect?.();
}

// Nobody is left to tell.
process.on("disconnect", () => process.exit());
main().catch(fail);
