import { expect, it, onTestFinished } from "vitest";
import { openOutbox } from "../../lib/index.ts";
import { AggregateStore } from "../../lib/store/aggregates.ts";
import type { Db } from "../../lib/store/dialect.ts";
import { dialectFor } from "../../lib/store/dialects.ts";
import { eachDatabase } from "../support/databases.ts";

eachDatabase("events of several types", (database) => {
  it("are read without passing over one that gets its position between two reads", async () => {
    const outbox = await openOutbox({ database: database.url() });
    onTestFinished(() => outbox.close());
    const { eventStore, knex } = outbox;
    const store = new AggregateStore(knex, dialectFor(database.dialect, "outbox_"), "outbox_");
    const types = ["order-a", "order-b"];
    const start = (await eventStore.readAll({ limit: 1_000 })).at(-1)?.position ?? 0;
    await eventStore.append("order-1", [{ eventType: "order-a", data: {} }]);
    await eventStore.readAll({ after: start });
    let reads = 0;
    // Right before the events of the second type are read, one of each type gets its position.
    const between = ((table: string) => {
      const read = knex(table);
      if (table !== "outbox_events" || ++reads !== 2) return read;
      return Object.assign(read, {
        // biome-ignore lint/suspicious/noThenProperty: a query is a thenable
        then: async (done: (rows: unknown) => void, failed: (error: unknown) => void) => {
          await eventStore.append("order-2", [{ eventType: "order-a", data: {} }]);
          await eventStore.append("order-3", [{ eventType: "order-b", data: {} }]);
          await store.number();
          return knex
            .raw(read.toQuery())
            .then((answer) => done(Array.isArray(answer) ? answer : answer.rows), failed);
        },
      });
    }) as unknown as Db;
    const first = await store.after(start, 100, types, between);
    expect(reads).toBe(2);
    const rest = await store.after(first.at(-1)?.position ?? 0, 100, types);
    const seen = [...first, ...rest].map(({ aggregateId }) => aggregateId);
    expect(seen).toEqual(["order-1", "order-2", "order-3"]);
  });
});
