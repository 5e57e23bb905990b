import { expect, it } from "vitest";
import { type Bindings, query } from "../../lib/store/sql.ts";
import { eachDatabase, type TestDatabase } from "../support/databases.ts";
import { failure } from "../support/queue.ts";

const SUM = "SELECT CAST(:a AS int) + CAST(:b AS int) + CAST(:a AS int) AS n";
const WRONG = "SELECT CAST(:a AS int) + nothing AS n FROM no_such_table";
const EVENTS = ["start", "query", "query-response", "query-error"] as const;

/** What listeners of knex hear while something runs. */
async function heard(database: TestDatabase, run: () => Promise<unknown>): Promise<unknown[][]> {
  const told: unknown[][] = [];
  const listeners = EVENTS.map(
    (event) => [event, (...given: unknown[]) => told.push([event, ...given])] as const,
  );
  for (const [event, listen] of listeners) database.knex().on(event, listen);
  await run().catch(() => undefined);
  for (const [event, listen] of listeners) database.knex().removeListener(event, listen);
  return told;
}

/** What tracing uses of it. */
const traced = (told: unknown[][]) =>
  told.map(([event, ...given]) => {
    const statement = given.find(
      (one) => typeof one === "object" && one !== null && "__knexQueryUid" in one,
    ) as Record<string, unknown> | undefined;
    const { sql, bindings, method, __knexUid, __knexTxId } = statement ?? {};
    return { event, sql, bindings, method, in: [typeof __knexUid, typeof __knexTxId] };
  });

eachDatabase("a constant statement", (database) => {
  it("answers as knex does, in a transaction and out of it, with a name that comes twice", async () => {
    const knex = database.knex();
    expect(await query(knex, SUM, { a: 2, b: 3 })).toEqual([{ n: 7 }]);
    expect(await query(knex, SUM, { a: 20, b: 3 })).toEqual([{ n: 43 }]);
    await knex.transaction(async (trx) => {
      expect(await query(trx, SUM, { a: 1, b: 1 })).toEqual([{ n: 3 }]);
    });
  });

  it("is told of to listeners as every statement of knex is", async () => {
    const knex = database.knex();
    const bindings: Bindings = { a: 2, b: 3 };
    for (const text of [SUM, WRONG]) {
      const told = await heard(database, () => query(knex, text, bindings));
      expect(told.length).toBeGreaterThan(2);
      expect(traced(told)).toEqual(
        traced(await heard(database, async () => knex.raw(text, bindings))),
      );
      const inside = await heard(database, () =>
        knex.transaction((trx) => query(trx, text, bindings)),
      );
      const raw = await heard(database, () => knex.transaction((trx) => trx.raw(text, bindings)));
      expect(traced(inside)).toEqual(traced(raw));
    }
  });

  it("fails with the error that knex gives", async () => {
    const knex = database.knex();
    const [ours, theirs] = [
      await failure(() => query(knex, WRONG, { a: 1 })),
      await failure(() => knex.raw(WRONG, { a: 1 })),
    ];
    expect({ ...ours, message: ours.message }).toEqual({ ...theirs, message: theirs.message });
    expect(ours.constructor).toBe(theirs.constructor);
  });

  it("is refused in a transaction that has ended", async () => {
    const trx = await database.knex().transaction();
    await query(trx, SUM, { a: 1, b: 1 });
    await trx.rollback();
    expect(await failure(() => query(trx, SUM, { a: 1, b: 1 }))).toMatchObject({
      message: expect.stringContaining("Transaction query already complete"),
    });
  });

  it("names what is not bound", async () => {
    expect(await failure(() => query(database.knex(), SUM, { a: 1 }))).toMatchObject({
      message: "the statement names :b, which is not bound",
    });
  });

  it("leaves the pool as it was, also after errors", async () => {
    const knex = database.knex();
    const run = (n: number) => query(knex, n % 2 === 0 ? SUM : WRONG, { a: 1, b: 1 });
    await Promise.allSettled(Array.from({ length: 40 }, (_, n) => run(n)));
    expect(knex.client.pool.numUsed()).toBe(0);
    expect(knex.client.pool.numPendingAcquires()).toBe(0);
  });
});
