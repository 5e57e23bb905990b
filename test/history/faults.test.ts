import { setTimeout as sleep } from "node:timers/promises";
import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { seedOfRun } from "./random.ts";
import { Stage } from "./stage.ts";
import { oddities, worldOf } from "./world.ts";

const seed = seedOfRun();

eachDatabase(`a history under faults (SEED=${seed})`, (database) => {
  it("is sound: clients and database are killed, frozen, locked, full and cut off, each once", async () => {
    const world = await worldOf(database);
    const stage = new Stage(world.knex, seed);
    await stage.prepare();
    const roles = ["sender", "sender", "poller", "worker", "operator"] as const;
    await Promise.all(roles.map((role) => stage.start(role, world.url(), oddities(stage))));
    const left = Object.entries(world.faults);
    while (left.length > 0) {
      const [next] = left.splice(stage.random.int(0, left.length - 1), 1);
      await next?.[1](stage);
      await sleep(stage.random.int(0, 100));
    }
    const outcome = await stage.end();
    expect(outcome.violations).toEqual([]);
    expect(outcome.messages).toBeGreaterThan(50);
  });
});
