import type { Knex } from "knex";
import { expect, it } from "vitest";
import { ClaimWalk } from "../../lib/store/claim-walk.ts";
import { sqlite } from "../../lib/store/sqlite.ts";
import { eachDatabase, type TestDatabase } from "../support/databases.ts";
import { analyze, planOf, type Statement, statementsOf } from "../support/plans.ts";
import { watched } from "../support/queue.ts";
import { COUNTS, calls, RETENTIONS } from "./calls.ts";
import { Filling } from "./fill.ts";

const LARGE = 100_000;
const SMALL_ENOUGH = 10_000;

/** Tables that do not grow with what is sent, by their names or the names that statements give them; and lists. */
const SMALL = /^(outbox_(mailboxes|limits|schedules|topology)|json_each|CONSTANT|[bhjlx])\b/;
/** The few rows of one message, or of one mailbox's consumers, may be put into order. */
const FEW = /outbox_\w+_id \(message_id=|outbox_consumers/;

/** Steps that read a table, or an index without any condition, from its first entry to its last; and sorts. */
function faults(plan: string): string[] {
  const steps = plan.split("\n").map((line) => line.replace(/^[-\d\s]+/, ""));
  const grows = steps.filter((step) => {
    const [, what] = /^(?:SCAN|SEARCH) (.*)/.exec(step) ?? [];
    return what !== undefined && !SMALL.test(what);
  });
  const sorts = grows.some((step) => !FEW.test(step)) ? steps.filter(isSort) : [];
  return [...grows.filter((step) => /^SCAN |AUTOMATIC/.test(step)), ...sorts];
}

const isSort = (step: string) => step.startsWith("USE TEMP B-TREE");

async function stage(database: TestDatabase) {
  const { knex } = await database.fresh();
  const { queue } = watched(knex, RETENTIONS);
  await queue.limits.set("limit", { agentId: "gated", maxInFlight: 1_000 });
  const filling = new Filling(knex, "sqlite", sqlite("outbox_").now);
  return { knex, queue, filling };
}

async function lookAt(knex: Knex, queue: Parameters<typeof calls>[1], state: string) {
  const found: string[] = [];
  for (const call of calls(knex, queue, state.replace(" ", "-"))) {
    const statements = await statementsOf(knex, () => call.run());
    expect(statements.length, call.name).toBeGreaterThan(0);
    for (const statement of statements) {
      const plan = await planOf(knex, "sqlite", statement);
      // What counts takes the first that come, and stops.
      const counts = call.counts || COUNTS.test(statement.sql);
      const wrong = counts ? [] : faults(plan);
      if (wrong.length === 0) continue;
      const text = statement.sql.trim().slice(0, 400);
      found.push(`${call.name}, ${state}: ${wrong.join("; ")}\n${text}\n${plan}`);
    }
  }
  return [...new Set(found)].join("\n\n");
}

/** Parts of the ready index that a claim behind what is leased looks at. */
const PART =
  /outbox_messages_ready \(to_agent=\? AND lane=\? AND (rank=\? AND seq>\? AND seq<\?|rank>\? AND rank<\?)\)/;

/** The same of one that counts what lies before its end: it reads no further than to there. */
const COUNTED =
  /outbox_messages_ready \(to_agent=\? AND lane=\? AND (rank=\? AND seq<\?|rank<\?)\)/;

/** Claims of a mailbox in which thousands are leased: how many of their steps seek a part of the index. */
async function claimPastLeased(knex: Knex): Promise<number> {
  const walk = new ClaimWalk();
  let parts = 0;
  for (let n = 0; n < 4; n++) {
    const statements = await statementsOf(knex, () =>
      sqlite("outbox_").claim(knex, {
        ...{ agentId: "leased", limit: 20, leaseMs: 60_000, workerId: "w", messageTypes: null },
        walk,
      }),
    );
    // The second counts, and the third is the first that begins behind what was claimed.
    if (n === 1) {
      const count = statements.find(({ sql }) => sql.includes("AS passed"));
      const steps = (await planOf(knex, "sqlite", count as Statement)).split("\n");
      expect(steps.filter((step) => COUNTED.test(step))).toHaveLength(2);
    }
    if (n < 2) continue;
    for (const statement of statements) {
      const plan = await planOf(knex, "sqlite", statement);
      expect(faults(plan), plan).toEqual([]);
      const looks = plan.split("\n").filter((step) => step.includes("outbox_messages_ready"));
      for (const step of looks) expect(step).toMatch(PART);
      parts += looks.length;
    }
  }
  return parts;
}

eachDatabase("plans", (database) => {
  // SQLite plans by the indexes alone, and by what somebody's ANALYZE found at the time.
  const onSqlite = it.skipIf(database.dialect !== "sqlite");

  onSqlite("walk indexes in their order, without statistics and with them", async () => {
    const { knex, queue, filling } = await stage(database);
    await filling.step(LARGE);
    expect(await lookAt(knex, queue, "no statistics")).toBe("");
    await analyze(knex, "sqlite");
    expect(await lookAt(knex, queue, "fresh statistics")).toBe("");
  });

  onSqlite("walk indexes in their order with old statistics", async () => {
    const { knex, queue, filling } = await stage(database);
    // Of a smaller table a step of upkeep names so many rows that reading all of it is right.
    await filling.step(SMALL_ENOUGH);
    await analyze(knex, "sqlite");
    await filling.step(LARGE);
    expect(await lookAt(knex, queue, "old statistics")).toBe("");
  });

  onSqlite("seek the places behind what is leased", async () => {
    const { knex, filling } = await stage(database);
    const { now } = sqlite("outbox_");
    const alike = { priority: "20", rank: "80" };
    await filling.step(SMALL_ENOUGH);
    const lease = { visible_at: `${now} + 3600000`, worker_id: "'other'", receipt: "1" };
    await filling.messages("leased", 5_000, { ...alike, ...lease });
    await filling.messages("leased", 1_000, alike, 5_000);
    // Of one rank: its part, what goes before it and what comes after it.
    expect(await claimPastLeased(knex)).toBe(6);
    await analyze(knex, "sqlite");
    expect(await claimPastLeased(knex)).toBe(6);
    await filling.step(LARGE);
    expect(await claimPastLeased(knex)).toBe(6);
  });
});
