import { expect, it } from "vitest";
import { openOutbox } from "../../lib/index.ts";
import { eachDatabase } from "../support/databases.ts";

eachDatabase("two operators who enter maintenance", (database) => {
  it("both resolve when claims that were under way are over, whoever of them entered it", async () => {
    const { knex } = await database.fresh();
    await using outbox = await openOutbox({ database: knex });
    const enter = async (by: string) => {
      await outbox.system.enterMaintenance({ reason: "update", by });
      return performance.now();
    };
    const begun = performance.now();
    const ended = await Promise.all([enter("first"), enter("second")]);
    for (const at of ended) expect(at - begun).toBeGreaterThan(950);
    await outbox.system.ready();
  });
});
