import type { Knex } from "knex";
import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { stage } from "./stage.ts";

/** What a call reads of the handoffs, and how: without the tables that are small in any case. */
async function plansOf(knex: Knex, run: () => Promise<unknown>): Promise<string[]> {
  const seen: { sql: string; bindings: unknown[] }[] = [];
  const listen = (statement: { sql: string; bindings: unknown[] }) => seen.push(statement);
  knex.on("query", listen);
  await run().finally(() => knex.removeListener("query", listen));
  const plans: string[] = [];
  const postgres = knex.client.dialect === "postgresql";
  for (const { sql, bindings } of seen) {
    if (!/^select .*outbox_handoffs/i.test(sql)) continue;
    const { client } = knex as unknown as {
      client: { query(c: unknown, q: object): Promise<{ response: unknown }> } & Knex.Client;
    };
    const connection = await client.acquireConnection();
    try {
      const explain = postgres ? "EXPLAIN (COSTS OFF)" : "EXPLAIN QUERY PLAN";
      const query = { method: "raw", sql: `${explain} ${sql}`, bindings };
      const { response } = await client.query(connection, query);
      const rows = (Array.isArray(response) ? response : (response as { rows: [] }).rows) as [];
      plans.push(rows.map((row) => Object.values(row).join(" ")).join("\n"));
    } finally {
      await client.releaseConnection(connection);
    }
  }
  return plans;
}

eachDatabase("what handoffs read", (database) => {
  it.skipIf(database.dialect === "mssql")(
    "does not grow with those that are over (SQL Server shows no plans here)",
    async () => {
      const on = stage(database);
      const { knex, handoffs } = on;
      const { store } = handoffs.moving;
      await on.agent("a");
      await on.agent("b");
      const live = await on.offer();
      const [row] = await knex("outbox_handoffs").where({ handoff_id: live.handoffId });
      const { seq: _, ...values } = row;
      for (let n = 0; n < 50; n++) {
        await knex("outbox_handoffs").insert(
          Array.from({ length: 50 }, (_unused, k) => ({
            ...values,
            ...Object.fromEntries(
              ["context", "deliverables", "actions_required"].map((column) => [column, "{}"]),
            ),
            handoff_id: `over-${n}-${k}`,
            task_id: `task-${n}-${k}`,
            state: "completed",
            accepted_at: 1,
            ended_at: 2,
          })),
        );
      }
      const plans = await plansOf(knex, async () => {
        await store.overdue(100);
        await store.liveAfter(0, 200);
        await store.takenBy("b", 100);
        await store.get(live.handoffId);
        await knex.transaction((trx) => store.liveOf("task-1-1", trx));
        await store.list({ taskId: "task-1-1", limit: 10, afterSeq: 0 });
        await store.strays([live.seq]);
      });
      expect(plans).toHaveLength(7);
      expect(plans[0]).toContain("outbox_handoffs_due");
      expect(plans[1]).toContain("outbox_handoffs_live");
      expect(plans[2]).toContain("outbox_handoffs_taken");
      for (const plan of plans)
        expect(plan).not.toMatch(/Seq Scan on outbox_handoffs|SCAN h|SCAN outbox_handoffs$/m);
    },
  );
});
