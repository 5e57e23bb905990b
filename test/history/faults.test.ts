import { setTimeout as sleep } from "node:timers/promises";
import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { seedOfRun } from "./random.ts";
import { Stage } from "./stage.ts";

const seed = seedOfRun();
const HOUR_MS = 3_600_000;

eachDatabase(`a history under faults (SEED=${seed})`, (database) => {
  it("is sound when processes with wrong clocks and small pools are killed and frozen", async () => {
    const stage = new Stage(database.knex(), seed);
    await stage.prepare();
    const [sender] = await Promise.all([
      stage.start("sender", database.url(), { poolMax: 1, clockMs: 5 * HOUR_MS }),
      stage.start("sender", database.url()),
      stage.start("poller", database.url(), { poolMax: 1, clockMs: -7 * HOUR_MS }),
      stage.start("worker", database.url(), { clockMs: 3 * HOUR_MS }),
      stage.start("worker", database.url(), { poolMax: 1 }),
      stage.start("operator", database.url()),
    ]);
    await sleep(1_000);
    await stage.kill(sender);
    for (const client of [...stage.clients]) {
      if (client.role === "operator") continue;
      if (stage.random.chance(0.5)) await stage.freeze(client);
      else {
        await stage.kill(client);
        await stage.start(client.role, database.url());
      }
    }
    const outcome = await stage.end();
    expect(outcome.violations).toEqual([]);
  }, 60_000);
});
