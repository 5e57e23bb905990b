/** Takes one lock after the other, in a process of its own, to be killed and frozen at will; writes under each. */
import { setTimeout as sleep } from "node:timers/promises";
import { openOutbox } from "../../../lib/index.ts";

const [url = "", name = "", ttlMs = "600"] = process.argv.slice(2);
const outbox = await openOutbox({ database: url, poolMax: 3 });
process.send?.({ ready: name });
for (;;) {
  try {
    await outbox.locks.withLock(
      "shared",
      { ownerId: name, ttlMs: Number(ttlMs), waitMs: 60_000 },
      async ({ fencingToken, tx, signal }) => {
        for (let n = 0; n < 3 && !signal.aborted; n++) {
          await tx((trx) => trx("written").insert({ token: fencingToken, owner: name }));
          await sleep(20);
        }
      },
    );
  } catch (error) {
    // Lost while it was frozen, or the database was busy: others go on, and so does it.
    process.send?.({ failed: (error as { code?: string }).code ?? String(error) });
  }
}
