import type { MatchingStrategy } from "../../protocol/agents.ts";

/** What a statement is made for: what is not asked for is not in its text. */
export interface Wanted {
  readonly required: boolean;
  readonly preferred: boolean;
  readonly strategy: MatchingStrategy;
}

/**
 * Statements over the tests of `:tests` (see testsOf): of one requirement, and each with its number `n`, one has
 * to pass. `w` is null for what is required, and the weight for what is preferred.
 */
export interface MatchingStatements {
  /** `:tests`, `:needed` of them required, `:cost`, `:exclude`, `:context`, `:development`, `:limit`. */
  candidates(wanted: Wanted): string;
  /** Of the agents that meet all that is required: how many, how many beat, take tasks, have room for `:cost`. */
  census(required: boolean): string;
  /** How many agents meet each requirement. */
  readonly passing: string;
}

/** Whether the capability `c` of an agent passes the test `r`. Of two kinds it never does. */
export const PASSES = `(r.o = 'has' OR c.kind = r.k AND (
  r.o = '=' AND c.sort_key = r.v OR r.o = '!=' AND c.sort_key <> r.v OR r.o = '<' AND c.sort_key < r.v OR
  r.o = '<=' AND c.sort_key <= r.v OR r.o = '>' AND c.sort_key > r.v OR r.o = '>=' AND c.sort_key >= r.v))`;

/** Beats, and is neither offline nor about to leave. */
export const alive = (agent: string, now: string) =>
  `${agent}.lost_at IS NULL AND ${agent}.status NOT IN ('offline', 'removed') AND ${agent}.heartbeat_at + ${agent}.stale_after_ms > ${now}`;

export const OPEN = "t.agent_id IS NOT NULL AND t.finished_at IS NULL";

/** What an agent in development gets only where it was asked for. */
export const STAGE = "(a.lifecycle <> 'development' OR :development = 1)";

const LOAD = "x.used * 1.0 / NULLIF(x.max_concurrent_tasks, 0)";
const DEPRECATED = "CASE WHEN x.lifecycle = 'deprecated' THEN 1 ELSE 0 END";
const LEAST_LOADED = `${DEPRECATED}, x.score DESC, ${LOAD}, x.last_assigned_at, x.agent_id`;

/** @param log the natural logarithm of a number above 0, at most 1, that is drawn for each row */
export function orders(log: string): Record<MatchingStrategy, string> {
  return {
    leastLoaded: LEAST_LOADED,
    roundRobin: `${DEPRECATED}, x.score DESC, x.last_assigned_at, x.agent_id`,
    // Who draws the shortest time of an exponential distribution: each wins as often as its rate is of the sum.
    // NULLIF: SQL Server may reckon this before it has left out those without a free slot.
    weighted: `${DEPRECATED}, -${log} / NULLIF(x.weight * (x.max_concurrent_tasks - x.used), 0)`,
    sticky: `CASE WHEN x.agent_id = x.last_one THEN 0 ELSE 1 END, ${LEAST_LOADED}`,
  };
}

/** What is known of an agent beside who it is, from its row `a`. `leans`: on others, without which it gets nothing. */
const ABOUT = ["max_concurrent_tasks", "last_assigned_at", "lifecycle", "weight", "card_hash"];
const LEANS = "CASE WHEN a.needs_agents IS NULL THEN 0 ELSE 1 END AS leans";

export const FOUND = `agent_id, ${ABOUT.join(", ")}, leans, used, score`;

/** How far it is counted how many agents can do a thing, to find what fewest can do. */
export const COUNTED = 2_000;

export const PREFERENCES =
  "p AS MATERIALIZED (SELECT DISTINCT n, c, o, w FROM r WHERE w IS NOT NULL),";

export const COLUMNS = `a.agent_id, a.status, ${ABOUT.map((name) => `a.${name}`).join(", ")}, ${LEANS}`;

/**
 * How many agents are looked at first, at least, and how many more for each that is asked for: those whose last
 * assignment is longest ago. Where enough of them are idle, no other can be better, and what all can do costs no more
 * than what few can do.
 */
const WALKED = 256;
const WALKED_FOR_ONE = 4;
/** Not where fewer can do what is required, or fewer than are walked: those are soon looked at all. */
export const MANY = 1_000;
/** `least` and `greatest`: the databases' functions for the lesser and the greater of two numbers. */
export function walked(limit: string, least: string, greatest: string): string {
  return `${least}(${greatest}(${WALKED}, ${WALKED_FOR_ONE} * ${limit}), ${COUNTED})`;
}
/** Whether such an agent is as good as any. */
export const GOOD_ENOUGH: Partial<Record<MatchingStrategy, string>> = {
  leastLoaded: "l.used = 0",
  roundRobin: "a.max_concurrent_tasks - l.used >= :cost",
};

export const ANSWER =
  "SELECT x.agent_id, x.max_concurrent_tasks - x.used AS free, x.max_concurrent_tasks, x.used, x.score, x.lifecycle, x.last_assigned_at, x.card_hash, x.leans";

export const FIGURES = `
  SELECT COUNT(*) AS capable, SUM(x.alive) AS alive, SUM(x.taking) AS taking,
         SUM(CASE WHEN x.taking = 1 AND x.max_concurrent_tasks - x.used >= :cost THEN 1 ELSE 0 END) AS free
  FROM x`;
