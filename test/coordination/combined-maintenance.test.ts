import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { until } from "../support/processes.ts";
import { taskStage } from "./task-stage.ts";

eachDatabase("a supervisor in a maintenance", (database) => {
  it("takes note of it, and buries no word of it", async () => {
    const on = taskStage(database);
    const { system } = on.coordination;
    on.supervise();
    await until(async () => (await on.registry.getAgent("boss")) !== null);
    await system.enterMaintenance({ reason: "schema" });
    await until(async () => (await system.status()).waiting.length === 0);
    await system.ready();
    const left = () => on.knex("outbox_messages").where({ to_agent: "boss" });
    await until(async () => (await left()).length === 0);
    expect(await on.knex("outbox_dead_letters").pluck("message_type")).toEqual([]);
  });
});
