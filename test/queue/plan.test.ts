import type { Knex } from "knex";
import { expect, it } from "vitest";
import type { ClaimedRow } from "../../lib/store/dialect.ts";
import { dialectFor } from "../../lib/store/dialects.ts";
import { eachDatabase } from "../support/databases.ts";
import { allStatementsOf, planOf } from "../support/plans.ts";
import { until } from "../support/processes.ts";
import { note, watched } from "../support/queue.ts";
import { TIMED } from "../support/timed.ts";

eachDatabase("plans", (database) => {
  // SQL Server's plans need SHOWPLAN, which the stand-in that it is tested with does not give.
  it.skipIf(database.dialect === "mssql")(
    "claim, settle and upkeep walk indexes with a large backlog, fresh or stale statistics",
    async () => {
      const { knex } = await database.fresh();
      const { queue } = watched(knex);
      const dialect = dialectFor(database.dialect, "outbox_");
      // Statistics of an almost empty table, as they are after a quiet night: the trap of DESIGN section 5.
      // (SQLite has none unless someone runs ANALYZE; with those of an empty table it would scan for anything.)
      await queue.sendMessage(note("quiet"));
      if (database.dialect === "postgres") await knex.raw("ANALYZE");
      const bulk = Array.from({ length: 10_000 }, (_, n) => ({
        ...note(n % 2 === 0 ? "busy" : `agent-${n % 500}`),
        ...(n % 4 === 1 ? { delayMs: 3_600_000, ttlMs: 1_000 } : {}),
      }));
      await queue.sendMessages(bulk);
      for (const analyzed of [false, true]) {
        if (analyzed) await knex.raw("ANALYZE");
        const claimed: { seq: number; receipt: number }[] = [];
        const request = {
          agentId: "busy",
          limit: 5,
          leaseMs: 30_000,
          workerId: "w",
          messageTypes: null,
        };
        const calls: Record<string, () => Promise<unknown>> = {
          claim: async () => {
            claimed.push(...(await dialect.claim(knex, request)));
          },
          extend: () =>
            dialect.extend(
              knex,
              claimed
                .map((claim) => ({ ...claim, lease_ms: 9, progress: null }))
                .map(({ seq, receipt, lease_ms, progress }) => ({
                  seq,
                  receipt,
                  lease_ms,
                  progress,
                })),
            ),
          release: () =>
            dialect.release(
              knex,
              claimed.slice(0, 1).map(({ seq, receipt }) => ({
                seq,
                receipt,
                delay_ms: 0,
                keep_attempt: true,
                error: null,
              })),
            ),
          bury: () =>
            dialect.bury(
              knex,
              claimed.slice(1, 2).map(({ seq, receipt }) => ({
                seq,
                receipt,
                reason: "rejected",
                error: null,
                fingerprint: "f",
              })),
            ),
          complete: () =>
            dialect.complete(
              knex,
              claimed.slice(2).map(({ seq, receipt }) => ({ seq, receipt })),
              true,
            ),
          buryExpired: () => dialect.buryExpired(knex, 100),
          lookUp: () => queue.getMessage("no-such-message"),
        };
        for (const [name, call] of Object.entries(calls)) {
          const statements = (await allStatementsOf(knex, call)).filter(({ sql }) =>
            /outbox_messages/.test(sql),
          );
          expect(statements.length, name).toBeGreaterThan(0);
          for (const statement of statements) {
            const plan = await planOf(knex, database.dialect, statement);
            const scans =
              database.dialect === "postgres"
                ? /Seq Scan on outbox_messages/
                : /SCAN (outbox_messages|m)(?! USING INDEX outbox_messages_expiry)\b/;
            expect(plan, `${name} (${analyzed ? "fresh" : "stale"})\n${plan}`).not.toMatch(scans);
          }
        }
      }
    },
  );

  it("a batch is one statement, and a claim one round trip", TIMED, async () => {
    const { knex } = await database.fresh();
    // Without the wake-up of other processes, which follows a send and is not part of it.
    const { queue } = watched(knex, { notify: false });
    await queue.sendMessage(note("warm"));
    const sends = await allStatementsOf(knex, () =>
      queue.sendMessages(Array.from({ length: 500 }, (_, n) => note("a", { n }))),
    );
    expect(sends).toHaveLength(1);
    let claimed: Awaited<ReturnType<typeof queue.getMessages>> = [];
    const claims = await allStatementsOf(knex, async () => {
      claimed = await queue.getMessages("a", { limit: 200 });
    });
    expect(claimed).toHaveLength(200);
    // SQLite has no round trips; it looks before it takes the write lock.
    expect(claims).toHaveLength(database.dialect === "sqlite" ? 2 : 1);
    const acks = await allStatementsOf(knex, () => queue.ackMessages(claimed));
    expect(acks.filter(({ sql }) => /INSERT|DELETE/.test(sql)).length).toBeLessThanOrEqual(
      database.dialect === "sqlite" ? 3 : 1,
    );
  });

  // Only PostgreSQL keeps row versions in the table, and tells how many of them needed no index.
  it.skipIf(database.dialect !== "postgres")(
    "claims and extensions are heap-only updates (PostgreSQL)",
    async () => {
      const { knex } = await database.fresh();
      const { queue } = watched(knex);
      await queue.sendMessages(Array.from({ length: 400 }, (_, n) => note("a", { n })));
      const dialect = dialectFor("postgres", "outbox_");
      const seen = async (trx: Knex) => {
        const { rows } = (await trx.raw(
          "SELECT pg_stat_get_xact_tuples_updated('outbox_messages'::regclass) AS updated, pg_stat_get_xact_tuples_hot_updated('outbox_messages'::regclass) AS hot",
        )) as { rows: { updated: string; hot: string }[] };
        return { updated: Number(rows[0]?.updated), hot: Number(rows[0]?.hot) };
      };
      const counted = (run: (trx: Knex) => Promise<unknown>) =>
        knex.transaction(async (trx) => {
          const before = await seen(trx);
          await run(trx);
          const after = await seen(trx);
          return { updated: after.updated - before.updated, hot: after.hot - before.hot };
        });
      const request = { agentId: "a", limit: 200, leaseMs: 30_000, workerId: "w" };
      let claimed: readonly ClaimedRow[] = [];
      const xidOf = async (db: Knex, of: string) => {
        const { rows } = (await db.raw(`SELECT CAST(${of} AS text) AS xid`)) as {
          rows: { xid: string }[];
        };
        return BigInt(rows[0]?.xid as string);
      };
      // In two transactions, as they happen: the second finds the versions that the first left behind prunable.
      let claimedBy = 0n;
      const claims = await counted(async (trx) => {
        claimed = await dialect.claim(trx, { ...request, messageTypes: null });
        claimedBy = await xidOf(trx, "pg_current_xact_id()");
      });
      // But not while a transaction is open anywhere on the server, such as another test's, that began before.
      await until(
        async () => (await xidOf(knex, "pg_snapshot_xmin(pg_current_snapshot())")) > claimedBy,
      );
      const extensions = await counted((trx) =>
        dialect.extend(
          trx,
          claimed.map(({ seq, receipt }) => ({ seq, receipt, lease_ms: 60_000, progress: null })),
        ),
      );
      expect(claims).toEqual({ updated: 200, hot: 200 });
      expect(extensions.updated).toBe(200);
      expect(extensions.hot).toBeGreaterThan(150);
    },
  );
});
