import { expect, it } from "vitest";
import { eachDatabase } from "../support/databases.ts";
import { check } from "./checker.ts";
import type { Draft } from "./drafts.ts";
import { MUTATIONS } from "./mutations.ts";
import { Random, seedOfRun } from "./random.ts";
import { recorded } from "./recorded.ts";
import { RULES } from "./types.ts";

const seed = seedOfRun();
/** Each kind of damage is done at so many places, one at a time. */
const PLACES = 5;

eachDatabase(`a recorded history (SEED=${seed})`, (database) => {
  it("is sound, and every kind of damage to it is noticed wherever it is", async () => {
    const far = database.dialect === "mssql";
    const history = await recorded(database.knex(), seed, {
      rounds: far ? 40 : 150,
      pace: far ? { leaseMs: 3_000, delayMs: 100 } : { leaseMs: 40, delayMs: 20 },
    });
    expect(check(history)).toEqual([]);
    const { limits = [] } = history;
    const keptJournal = (history.journal ?? []).length > 0;
    for (const { name, rule, spoil } of MUTATIONS) {
      for (let place = 0; place < PLACES; place++) {
        const draft: Draft = structuredClone({ journal: [], effects: [], ...history }) as Draft;
        const spoilt = spoil(draft, new Random(seed + place));
        if (name.includes("journal") && !keptJournal) continue;
        expect(spoilt, `${name}: nothing of the kind in this history`).toBe(true);
        const found = check({ ...draft, limits }).map((violation) => violation.rule);
        expect(found, `${name}, place ${place}`).toContain(rule);
      }
    }
    // A SQL Server may be far away.
  });
});

it("the kinds of damage cover the rules", () => {
  const covered = new Set(MUTATIONS.map(({ rule }) => rule));
  expect(RULES.filter((rule) => !covered.has(rule))).toEqual([]);
});
