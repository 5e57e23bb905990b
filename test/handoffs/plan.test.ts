import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { planOf, statementsOf } from "../support/plans.ts";
import { stage } from "./stage.ts";

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
      const calls = async () => {
        await store.overdue(100);
        await store.liveAfter(0, 200);
        await store.takenBy("b", 100);
        await store.get(live.handoffId);
        await knex.transaction((trx) => store.liveOf("task-1-1", trx));
        await store.list({ taskId: "task-1-1", limit: 10, afterSeq: 0 });
        await store.strays([live.seq]);
      };
      const plans: string[] = [];
      for (const statement of await statementsOf(knex, calls, /^select .*outbox_handoffs/i)) {
        plans.push(await planOf(knex, database.dialect, statement));
      }
      expect(plans).toHaveLength(7);
      expect(plans[0]).toContain("outbox_handoffs_due");
      expect(plans[1]).toContain("outbox_handoffs_live");
      expect(plans[2]).toContain("outbox_handoffs_taken");
      for (const plan of plans)
        expect(plan).not.toMatch(/Seq Scan on outbox_handoffs|SCAN h|SCAN outbox_handoffs$/m);
    },
  );
});
