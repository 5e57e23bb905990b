import type { Knex } from "knex";
import { expect, it } from "vitest";
import { ClaimWalk, rankEnds } from "../../lib/store/claim-walk.ts";
import { postgres } from "../../lib/store/postgres.ts";
import { query } from "../../lib/store/sql.ts";
import { eachDatabase, type TestDatabase } from "../support/databases.ts";
import { watched } from "../support/queue.ts";
import { type Call, COUNTED, COUNTS, calls, RETENTIONS } from "./calls.ts";
import {
  buffers,
  type Executed,
  Explained,
  rowsRead,
  type Step,
  shown,
  stepsOf,
} from "./executed.ts";
import { Filling, GROWING } from "./fill.ts";

const SMALL = 10_000;
const LARGE = 100_000;

const reads = (step: Step) => GROWING.includes(step["Relation Name"] ?? "");

/** What a plan does that it must not do. */
function faults({ sql, plan }: Executed, call: Call): string[] {
  const counts = call.counts || COUNTS.test(sql);
  const { pages = 0 } = call;
  const most = counts ? COUNTED : call.most;
  return stepsOf(plan).flatMap((step) => {
    const kind = step["Node Type"];
    const table = step["Relation Name"] ?? "";
    const read = rowsRead(step);
    const told: string[] = [];
    // A small table is read from end to end where that costs less than so many look-ups.
    const small = stepsOf(step).every(
      (inner) => !reads(inner) || (inner["Node Type"] === "Seq Scan" && buffers(inner) <= pages),
    );
    if (small) return [];
    const scan = reads(step) && kind.endsWith("Scan");
    if (scan && kind === "Seq Scan" && !counts) told.push(`reads ${table} from end to end`);
    if (scan && read > most) told.push(`reads ${read} rows of ${table}, of at most ${most}`);
    const sorts = kind.endsWith("Sort") && stepsOf(step).some(reads);
    if (sorts && read > most) told.push(`sorts ${read} rows, of at most ${most}`);
    if (step["Temp Written Blocks"] > 0) told.push("writes temporary files");
    return told;
  });
}

/** Runs every call; returns the most buffers that each statement touched. */
async function lookAt(explained: Explained, run: readonly Call[], state: string) {
  const found: string[] = [];
  const touched = new Map<string, number>();
  for (const call of run) {
    // What people ask for, and what upkeep has to do, grows to its bound and no further.
    const steady = !call.cold && call.pages === undefined;
    const executed = await explained.during(() => call.run());
    expect(executed.length, call.name).toBeGreaterThan(0);
    for (const one of executed) {
      // Who claims is noted beside the calls, a while later: not by the call that runs just then.
      if (call.most === 0 && one.sql.includes("_consumers")) continue;
      const key = `${call.name}: ${one.sql.trim()}`;
      if (steady) touched.set(key, Math.max(touched.get(key) ?? 0, buffers(one.plan)));
      const wrong = faults(one, call);
      if (wrong.length === 0) continue;
      found.push(
        `${call.name}, ${state}: ${wrong.join("; ")}\n${one.sql.trim().slice(0, 400)}\n${shown(one.plan)}`,
      );
    }
  }
  return { found, touched };
}

async function stage(database: TestDatabase) {
  const { knex } = await database.fresh();
  const explained = new Explained(knex);
  // Statistics are what the test makes them, whatever else the server does meanwhile.
  for (const table of GROWING) {
    await knex.raw(`ALTER TABLE ${table} SET (autovacuum_enabled = off)`);
  }
  const { now } = postgres("outbox_");
  const filling = new Filling(knex, "postgres", now);
  const { queue } = watched(knex, RETENTIONS);
  await queue.limits.set("limit", { agentId: "gated", maxInFlight: 1_000 });
  return { knex, explained, filling, queue, now };
}

const IN_FLIGHT = 10_000;

/** A mailbox with many in flight, of which a claim knows: it begins behind them, with a margin of a thousand. */
async function inFlight(knex: Knex, filling: Filling, now: string): Promise<Call> {
  const even = { to_agent: "'flight'", priority: "20", rank: "80" };
  const leased = { ...even, worker_id: "'w'", visible_at: `${now} + 30000 + i`, receipt: "1" };
  await filling.messages("leased", IN_FLIGHT, leased);
  const [last] = await knex("outbox_messages").where({ to_agent: "flight" }).max({ seq: "seq" });
  await filling.messages("flight", 100, even);
  const request = { agentId: "flight", limit: 20, leaseMs: 30_000, workerId: "w" };
  return {
    name: "claim behind many in flight",
    most: 1_060,
    run: async () => {
      const walk = new ClaimWalk();
      walk.found({}, [{ rank: 80, seq: Number(last?.seq) }], 1_000, 0);
      const claim = { ...request, messageTypes: null, walk };
      const rows = await postgres("outbox_").claim(knex, claim);
      expect(rows).toHaveLength(20);
    },
  };
}

/** What the first claim that reads others for long asks, to begin behind them. */
const endsOfRanks = (knex: Knex): Call => ({
  name: "where the ranks of a mailbox end",
  most: 60,
  run: async () => {
    const ends = await query(knex, rankEnds("outbox_messages"), { agent: "busy" });
    expect(ends.length).toBeGreaterThan(0);
  },
});

const hot = (all: readonly Call[]) => all.filter(({ cold }) => cold !== true);

/** Statistics that were right once: of tables that were empty, or that had nothing to claim. */
const STALE: Record<string, (knex: Knex, filling: Filling, now: string) => Promise<void>> = {
  "statistics of empty tables": async (knex) => {
    await knex.raw("ANALYZE");
  },
  "statistics of leased messages alone": async (knex, filling, now) => {
    const leased = { to_agent: "'busy'", worker_id: "'w'", visible_at: `${now} + 30000 + i` };
    await filling.messages("early", 5_000, { ...leased, receipt: "1" });
    await knex.raw("ANALYZE");
    await knex("outbox_messages").del();
  },
  "statistics of scheduled messages alone": async (knex, filling, now) => {
    const at = `${now} + 3600000 + i`;
    const scheduled = { to_agent: "'busy'", state: "1", visible_at: at, due_at: at };
    await filling.messages("early", 5_000, scheduled);
    await knex.raw("ANALYZE");
    await knex("outbox_messages").del();
  },
};

eachDatabase("plans as they are executed", (database) => {
  // Only PostgreSQL plans by statistics of the tables at the time of each statement, and tells what it read.
  const onPostgres = it.skipIf(database.dialect !== "postgres");

  onPostgres(
    "reads a bounded number of rows and pages, the same with ten times as many rows",
    async () => {
      const { knex, explained, filling, queue, now } = await stage(database);
      await filling.step(SMALL);
      await knex.raw("VACUUM ANALYZE");
      const small = await lookAt(explained, calls(knex, queue, "small"), "10,000 rows");
      await filling.step(LARGE - SMALL);
      const behind = await inFlight(knex, filling, now);
      await knex.raw("VACUUM ANALYZE");
      const run = [behind, endsOfRanks(knex), ...calls(knex, queue, "large")];
      const large = await lookAt(explained, run, "100,000 rows");
      expect(large.found.join("\n\n")).toBe("");
      const grown = [...large.touched].filter(
        ([key, pages]) => pages > 2 * (small.touched.get(key) ?? pages) + 100,
      );
      expect(grown.map(([key, pages]) => [key, small.touched.get(key), pages])).toEqual([]);
    },
  );

  for (const [name, prepare] of Object.entries(STALE)) {
    onPostgres(`reads as little with ${name}`, async () => {
      const { knex, explained, filling, queue, now } = await stage(database);
      await prepare(knex, filling, now);
      await filling.step(LARGE);
      const others = [await inFlight(knex, filling, now), endsOfRanks(knex)];
      const run = [...others, ...hot(calls(knex, queue, "stale"))];
      const { found } = await lookAt(explained, run, name);
      expect(found.join("\n\n")).toBe("");
    });
  }
});
