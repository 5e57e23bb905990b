import { writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { seedOfRun } from "./random.ts";
import { type Outcome, type Role, Stage } from "./stage.ts";
import { oddities, worldOf } from "./world.ts";

/** `npm run chaos`: faults at random for CHAOS_MINUTES (default 3) on each database, from SEED. */
const seed = seedOfRun();
const minutes = Number(process.env.CHAOS_MINUTES ?? 3);
if (!(minutes > 0)) throw new Error("CHAOS_MINUTES is a number of minutes, more than 0");
const FOR_MS = minutes * 60_000;
/** A database and its clients are used for about 45 seconds, then judged: a history is held in memory. */
const ROUNDS = Math.ceil(FOR_MS / 45_000);
const ROUND_MS = FOR_MS / ROUNDS;

const CREW: readonly Role[] = [
  "sender",
  "sender",
  "poller",
  "poller",
  "worker",
  "worker",
  "operator",
];

/** Past vitest, which would gather it, so that one sees what goes on. */
const say = (line: string) => void writeSync(2, `${line}\n`);

interface Sum {
  rounds: number;
  messages: number;
  changes: number;
  readonly faults: Map<string, number>;
  readonly errors: Map<string, number>;
  readonly violations: string[];
}

const sums = new Map<string, Sum>();

function count(counts: Map<string, number>, name: string, by = 1): void {
  counts.set(name, (counts.get(name) ?? 0) + by);
}

eachDatabase("chaos", (database) => {
  const sum: Sum = {
    ...{ rounds: 0, messages: 0, changes: 0 },
    ...{ faults: new Map(), errors: new Map(), violations: [] },
  };
  sums.set(database.dialect, sum);
  it.each(Array.from({ length: ROUNDS }, (_, n) => n))(
    "round %i",
    async (round) => {
      const world = await worldOf(database);
      const stage = new Stage(world.knex, seed + round);
      await stage.prepare();
      await Promise.all(CREW.map((role) => stage.start(role, world.url(), oddities(stage))));
      say(`${database.dialect}: round ${round + 1} of ${ROUNDS}, SEED=${seed}`);
      const end = performance.now() + ROUND_MS;
      while (performance.now() < end) {
        const fault = stage.random.pick(Object.keys(world.faults));
        say(`${database.dialect}: ${fault}`);
        count(sum.faults, fault);
        await world.faults[fault]?.(stage);
        await sleep(stage.random.int(0, 1_000));
      }
      const outcome = await stage.end(60_000);
      add(sum, outcome);
      expect(outcome.violations).toEqual([]);
    },
    ROUND_MS + 150_000,
  );
});

function add(sum: Sum, outcome: Outcome): void {
  sum.rounds++;
  sum.messages += outcome.messages;
  sum.changes += outcome.changes;
  for (const [words, times] of Object.entries(outcome.errors)) count(sum.errors, words, times);
  for (const { rule, what } of outcome.violations) sum.violations.push(`${rule}: ${what}`);
}

afterAll(() => {
  const list = (counts: Map<string, number>) =>
    [...counts].sort(([, a], [, b]) => b - a).map(([name, times]) => `    ${times} × ${name}`);
  for (const [dialect, sum] of sums) {
    const lines = [
      "",
      `${dialect}: ${sum.messages} messages in ${sum.rounds} rounds, ${sum.changes} changes in the journal, SEED=${seed}`,
      "  faults",
      ...list(sum.faults),
      "  errors that clients met",
      ...list(sum.errors),
      `  violations: ${sum.violations.length}`,
      ...sum.violations.slice(0, 50).map((what) => `    ${what}`),
    ];
    say(lines.join("\n"));
  }
});
