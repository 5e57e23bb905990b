import { type TableState, type Vacuuming, vacuumingOf } from "../../store/vacuum.ts";
import type { QueueCore } from "../core.ts";

/** Dead rows that are worth a vacuum: of some five thousand messages, a few megabytes. */
const ENOUGH = 10_000;
/** And as many more as are half of those alive: what a vacuum reads grows with these, and so it comes less often. */
const OF_LIVE = 0.5;
/** As long as so many are dead it is looked at with every round. */
const GROWING = 1_000;
/** The shortest time between two, by whomever: less than until a worker looks again after one. */
const EVERY_MS = 1_500;
/** The longest, where they free nothing. */
const SELDOM_MS = 300_000;
/** In a row, they may free nothing: autovacuum's own look at a large table holds a snapshot for some seconds. */
const PATIENT = 4;

/**
 * When a table is to be vacuumed, by how it was found from time to time. Where an open transaction might still see what
 * is dead, no vacuum removes it, however often it comes: from the fifth on that freed nothing, also of somebody
 * else's, each doubles the time until the next.
 */
export class VacuumPace {
  #inVain = 0;
  #triedAt = Number.NEGATIVE_INFINITY;
  #before: TableState | undefined;

  /** @param at milliseconds of a clock of this process */
  due(now: TableState, at: number): boolean {
    this.#judge(now);
    this.#before = now;
    const everyMs = Math.min(SELDOM_MS, EVERY_MS * 2 ** Math.max(0, this.#inVain - PATIENT));
    return (
      now.free &&
      now.dead >= ENOUGH + now.live * OF_LIVE &&
      (now.vacuumedMs ?? Number.POSITIVE_INFINITY) >= everyMs &&
      at - this.#triedAt >= everyMs
    );
  }

  tried(at: number): void {
    this.#triedAt = at;
  }

  /** It failed, or freed nothing. */
  rest(): void {
    this.#inVain += 1;
  }

  /** What died since the last look is known, and what is dead now: the rest of what was dead then was removed. */
  #judge(now: TableState): void {
    const before = this.#before;
    if (before === undefined || now.vacuums === before.vacuums) return;
    const freed = before.dead + (now.changes - before.changes) - now.dead;
    if (freed >= Math.max(ENOUGH, now.dead) / 2) this.#inVain = 0;
    else if (now.dead >= ENOUGH) this.rest();
  }
}

interface Known {
  readonly vacuuming: Vacuuming | undefined;
  readonly paces: Map<string, VacuumPace>;
}

const known = new WeakMap<QueueCore, Known>();

function knownOf(core: QueueCore): Known {
  const { knex, dialect, options } = core;
  const found = known.get(core) ?? {
    vacuuming: options.vacuum ? vacuumingOf(knex, dialect, options.prefix) : undefined,
    paces: new Map<string, VacuumPace>(),
  };
  known.set(core, found);
  return found;
}

/** Vacuums what is due; undefined where that is not for us to do. `growing`: some table soon will be. */
export async function vacuumTables(
  core: QueueCore,
): Promise<{ count: number; growing: boolean } | undefined> {
  const { vacuuming, paces } = knownOf(core);
  if (vacuuming === undefined) return undefined;
  let count = 0;
  let growing = false;
  for (const state of await vacuuming.look()) {
    growing ||= state.dead >= GROWING;
    const pace = paces.get(state.table) ?? new VacuumPace();
    paces.set(state.table, pace);
    if (!pace.due(state, performance.now())) continue;
    try {
      await vacuuming.vacuum(state.table);
      count += 1;
    } catch (error) {
      pace.rest();
      throw error;
    } finally {
      pace.tried(performance.now());
    }
  }
  return { count, growing };
}
