import type { MatchingStrategy } from "../../protocol/agents.ts";
import type { DialectName } from "../dialect.ts";

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
const PASSES = `(r.o = 'has' OR c.kind = r.k AND (
  r.o = '=' AND c.sort_key = r.v OR r.o = '!=' AND c.sort_key <> r.v OR r.o = '<' AND c.sort_key < r.v OR
  r.o = '<=' AND c.sort_key <= r.v OR r.o = '>' AND c.sort_key > r.v OR r.o = '>=' AND c.sort_key >= r.v))`;

/** Beats, and is neither offline nor about to leave. */
const alive = (agent: string, now: string) =>
  `${agent}.lost_at IS NULL AND ${agent}.status NOT IN ('offline', 'removed') AND ${agent}.heartbeat_at + ${agent}.stale_after_ms > ${now}`;

const OPEN = "t.agent_id IS NOT NULL AND t.finished_at IS NULL";

/** What an agent in development gets only where it was asked for. */
const STAGE = "(a.lifecycle <> 'development' OR :development = 1)";

const LOAD = "x.used * 1.0 / NULLIF(x.max_concurrent_tasks, 0)";
const DEPRECATED = "CASE WHEN x.lifecycle = 'deprecated' THEN 1 ELSE 0 END";
const LEAST_LOADED = `${DEPRECATED}, x.score DESC, ${LOAD}, x.last_assigned_at, x.agent_id`;

/** @param random above 0, at most 1, anew for each row; `log` its natural logarithm */
function orders(log: string): Record<MatchingStrategy, string> {
  return {
    leastLoaded: LEAST_LOADED,
    roundRobin: `${DEPRECATED}, x.score DESC, x.last_assigned_at, x.agent_id`,
    // Who draws the shortest time of an exponential distribution: each wins as often as its rate is of the sum.
    weighted: `${DEPRECATED}, -${log} / (x.weight * (x.max_concurrent_tasks - x.used))`,
    sticky: `CASE WHEN x.agent_id = x.last_one THEN 0 ELSE 1 END, ${LEAST_LOADED}`,
  };
}

const FOUND = "agent_id, max_concurrent_tasks, last_assigned_at, lifecycle, weight, used, score";

/** How far it is counted how many agents can do a thing, to find what fewest can do. */
const COUNTED = 2_000;

const PREFERENCES = "p AS MATERIALIZED (SELECT DISTINCT n, c, o, w FROM r WHERE w IS NOT NULL),";

const COLUMNS =
  "a.agent_id, a.status, a.max_concurrent_tasks, a.last_assigned_at, a.lifecycle, a.weight";

/**
 * How many agents are looked at first: those whose last assignment is longest ago. Where enough of them are idle,
 * no other can be better, and what all can do costs no more than what few can do.
 */
const WALKED = 256;
/** Not where fewer can do what is required: those are soon looked at all. */
const MANY = 1_000;
/** Whether such an agent is as good as any. */
const GOOD_ENOUGH: Partial<Record<MatchingStrategy, string>> = {
  leastLoaded: "l.used = 0",
  roundRobin: "a.max_concurrent_tasks - l.used >= :cost",
};

const ANSWER =
  "SELECT x.agent_id, x.max_concurrent_tasks - x.used AS free, x.max_concurrent_tasks, x.used, x.score";

const FIGURES = `
  SELECT COUNT(*) AS capable, SUM(x.alive) AS alive, SUM(x.taking) AS taking,
         SUM(CASE WHEN x.taking = 1 AND x.max_concurrent_tasks - x.used >= :cost THEN 1 ELSE 0 END) AS free
  FROM x`;

function postgres(prefix: string, clock: string): MatchingStatements {
  // In a query of its own it is worked out once, not for each row.
  const now = `(SELECT ${clock})`;
  const agents = `${prefix}agents`;
  const capabilities = `${prefix}agent_capabilities`;
  const order = orders("ln(1 - random())");
  const depends = `(a.needs_agents IS NULL OR NOT EXISTS (
    SELECT 1 FROM jsonb_array_elements_text(a.needs_agents) AS d(id)
    WHERE NOT EXISTS (SELECT 1 FROM ${agents} b WHERE b.agent_id = d.id AND ${alive("b", now)} OFFSET 0)))`;
  const tests =
    "r AS MATERIALIZED (SELECT * FROM jsonb_to_recordset(CAST(:tests AS jsonb)) AS j(n int, w float8, c text, k text, o text, v text)), q AS MATERIALIZED (SELECT DISTINCT n, c, o FROM r WHERE w IS NULL)";
  // OFFSET 0 and LATERAL: rows are looked up by their keys, also when old statistics say that reading all were as
  // cheap. What fewest agents can do leads: of the others only those agents are asked.
  const meets = (list: "q" | "p", agent: string) =>
    `EXISTS (SELECT 1 FROM ${capabilities} c WHERE c.capability = ${list}.c AND c.agent_id = ${agent}
       AND (${list}.o = 'has' OR EXISTS (SELECT 1 FROM r WHERE r.n = ${list}.n AND ${PASSES})) OFFSET 0)`;
  const rarest = `f AS MATERIALIZED (
        SELECT q.n, (SELECT COUNT(*) FROM (SELECT 1 FROM ${capabilities} c WHERE c.capability = q.c LIMIT ${COUNTED}) s) AS agents
        FROM q ORDER BY agents, q.n LIMIT 1),`;
  const matching = (required: boolean, open = "true") =>
    required
      ? `m AS MATERIALIZED (
           SELECT DISTINCT c.agent_id FROM r CROSS JOIN LATERAL (
             SELECT c.agent_id FROM ${capabilities} c WHERE c.capability = r.c AND ${PASSES} OFFSET 0) c
           WHERE r.w IS NULL AND r.n = (SELECT n FROM f) AND ${open})`
      : `m AS MATERIALIZED (SELECT agent_id FROM ${agents} WHERE lost_at IS NULL AND ${open})`;
  const others = (required: boolean) =>
    required
      ? `AND CAST(:needed AS int) = (SELECT COUNT(*) FROM q) AND NOT EXISTS (
           SELECT 1 FROM q WHERE q.n <> (SELECT n FROM f) AND NOT ${meets("q", "m.agent_id")} OFFSET 0)`
      : "";
  const used = `CROSS JOIN LATERAL (SELECT COALESCE(SUM(t.cost), 0) AS used FROM ${prefix}tasks t WHERE t.agent_id = a.agent_id AND ${OPEN} OFFSET 0) l`;
  const walk = (required: boolean, good: string) => `
      w AS MATERIALIZED (
        SELECT a.agent_id, a.max_concurrent_tasks, a.last_assigned_at, a.lifecycle, a.weight, l.used AS used, 0 AS score
        FROM (SELECT turn.* FROM ${agents} turn WHERE turn.lost_at IS NULL ${required ? `AND (SELECT agents FROM f) >= ${MANY}` : ""}
                 ORDER BY turn.last_assigned_at, turn.agent_id LIMIT ${WALKED}) a
         ${used}
        WHERE ${alive("a", now)} AND a.status <> 'draining' AND a.lifecycle <> 'deprecated' AND ${STAGE} AND ${depends}
          AND a.max_concurrent_tasks >= CAST(:cost AS int) AND a.agent_id NOT IN (SELECT jsonb_array_elements_text(CAST(:exclude AS jsonb)))
          ${required ? `AND CAST(:needed AS int) = (SELECT COUNT(*) FROM q) AND NOT EXISTS (SELECT 1 FROM q WHERE NOT ${meets("q", "a.agent_id")} OFFSET 0)` : ""}
          AND ${good}
        ORDER BY a.last_assigned_at, a.agent_id LIMIT :limit),
      g AS MATERIALIZED (SELECT COUNT(*) AS n FROM w),`;
  return {
    candidates: ({ required, preferred, strategy }) => {
      const good = preferred ? undefined : GOOD_ENOUGH[strategy];
      const first = good === undefined ? "" : walk(required, good);
      const open = good === undefined ? "true" : "(SELECT n FROM g) < CAST(:limit AS int)";
      const found =
        good === undefined
          ? "x"
          : `(SELECT ${FOUND} FROM x UNION ALL SELECT ${FOUND} FROM w WHERE NOT ${open}) x`;
      return `
      WITH ${tests}, ${required ? rarest : ""} ${first} ${preferred ? PREFERENCES : ""} ${matching(required, open)},
      x AS MATERIALIZED (
        SELECT a.*, l.used, ${
          preferred
            ? `COALESCE((SELECT SUM(p.w) FROM p WHERE ${meets("p", "a.agent_id")}), 0)`
            : "0"
        } AS score${strategy === "sticky" ? `, (SELECT t.agent_id FROM ${prefix}tasks t WHERE t.context_id = :context AND t.agent_id IS NOT NULL ORDER BY t.assigned_at DESC, t.agent_id LIMIT 1) AS last_one` : ""}
        FROM m CROSS JOIN LATERAL (
          SELECT ${COLUMNS} FROM ${agents} a
          WHERE a.agent_id = m.agent_id AND ${alive("a", now)} AND a.status <> 'draining' AND ${STAGE} AND ${depends} OFFSET 0) a
        ${used}
        WHERE a.max_concurrent_tasks >= CAST(:cost AS int) ${others(required)})
      ${ANSWER} FROM ${found} WHERE x.max_concurrent_tasks - x.used >= CAST(:cost AS int)
        AND x.agent_id NOT IN (SELECT jsonb_array_elements_text(CAST(:exclude AS jsonb)))
      ORDER BY ${order[strategy]} LIMIT :limit`;
    },
    census: (required) => `
      WITH ${tests}, ${required ? rarest : ""} ${matching(required)},
      x AS MATERIALIZED (
        SELECT a.max_concurrent_tasks, l.used, a.alive,
               CASE WHEN a.alive = 1 AND a.status <> 'draining' AND a.max_concurrent_tasks > 0 AND ${STAGE} AND ${depends} THEN 1 ELSE 0 END AS taking
        FROM m CROSS JOIN LATERAL (
          SELECT ${COLUMNS}, a.needs_agents, CASE WHEN ${alive("a", now)} THEN 1 ELSE 0 END AS alive FROM ${agents} a
          WHERE a.agent_id = m.agent_id AND a.status <> 'removed' OFFSET 0) a
        ${used}
        WHERE true ${others(required)})
      ${FIGURES}`,
    passing: `
      WITH ${tests}
      SELECT r.n, COUNT(DISTINCT c.agent_id) AS agents
      FROM r CROSS JOIN LATERAL (
        SELECT c.agent_id FROM ${capabilities} c WHERE c.capability = r.c AND ${PASSES} OFFSET 0) c
      GROUP BY r.n`,
  };
}

function mssql(prefix: string, now: string): MatchingStatements {
  const agents = `${prefix}agents`;
  const capabilities = `${prefix}agent_capabilities`;
  // Differs from PostgreSQL: no RANDOM() for each row but this. Above 0 and at most 1.
  const order = orders("LOG((ABS(CAST(CHECKSUM(NEWID()) AS bigint)) + 1) / 2147483649.0)");
  const depends = `(a.needs_agents IS NULL OR NOT EXISTS (
    SELECT 1 FROM OPENJSON(a.needs_agents) d
    WHERE NOT EXISTS (SELECT 1 FROM ${agents} b WHERE b.agent_id = d.[value] COLLATE Latin1_General_100_BIN2 AND ${alive("b", now)})))`;
  const BIN = "COLLATE Latin1_General_100_BIN2";
  const tests = `(SELECT j.n, j.w, j.c ${BIN} AS c, j.k ${BIN} AS k, j.o ${BIN} AS o, j.v ${BIN} AS v
    FROM OPENJSON(:tests) WITH (n int, w float, c nvarchar(128), k nvarchar(8), o nvarchar(4), v nvarchar(140)) j) r`;
  // Differs from PostgreSQL: nothing keeps the tests apart from the rest, so they are joined once, and counted.
  const matching = (required: boolean) =>
    required
      ? `(SELECT c.agent_id FROM ${tests} JOIN ${capabilities} c ON c.capability = r.c AND ${PASSES}
          WHERE r.w IS NULL GROUP BY c.agent_id HAVING COUNT(DISTINCT r.n) = :needed) m`
      : `(SELECT agent_id FROM ${agents} WHERE lost_at IS NULL) m`;
  const scores = `
    LEFT JOIN (SELECT q.agent_id, SUM(q.w) AS score FROM (
      SELECT DISTINCT c.agent_id, r.n, r.w FROM ${tests} JOIN ${capabilities} c ON c.capability = r.c AND ${PASSES}
      WHERE r.w IS NOT NULL) q GROUP BY q.agent_id) p ON p.agent_id = a.agent_id`;
  const used = `CROSS APPLY (SELECT COALESCE(SUM(t.cost), 0) AS used FROM ${prefix}tasks t WHERE t.agent_id = a.agent_id AND ${OPEN}) l`;
  return {
    candidates: ({ required, preferred, strategy }) => `
      SELECT TOP (:limit) x.* FROM (
        ${ANSWER}, x.lifecycle, x.weight, x.last_assigned_at${strategy === "sticky" ? ", x.last_one" : ""} FROM (
        SELECT ${COLUMNS}, l.used, ${preferred ? "COALESCE(p.score, 0)" : "0"} AS score${
          strategy === "sticky"
            ? `, (SELECT TOP (1) t.agent_id FROM ${prefix}tasks t WHERE t.context_id = :context AND t.agent_id IS NOT NULL ORDER BY t.assigned_at DESC, t.agent_id) AS last_one`
            : ""
        }
        FROM ${matching(required)}
        JOIN ${agents} a ON a.agent_id = m.agent_id
        ${used}
        ${preferred ? scores : ""}
        WHERE ${alive("a", now)} AND a.status <> 'draining' AND ${STAGE} AND ${depends} AND a.max_concurrent_tasks >= :cost
          AND a.agent_id NOT IN (SELECT e.[value] ${BIN} FROM OPENJSON(:exclude) e)) x
        WHERE x.max_concurrent_tasks - x.used >= :cost) x
      ORDER BY ${order[strategy]}`,
    census: (required) => `
      WITH x AS (
        SELECT a.max_concurrent_tasks, l.used, CASE WHEN ${alive("a", now)} THEN 1 ELSE 0 END AS alive,
               CASE WHEN ${alive("a", now)} AND a.status <> 'draining' AND a.max_concurrent_tasks > 0 AND ${STAGE} AND ${depends} THEN 1 ELSE 0 END AS taking
        FROM ${matching(required)}
        JOIN ${agents} a ON a.agent_id = m.agent_id
        ${used}
        WHERE a.status <> 'removed')
      ${FIGURES}`,
    passing: `
      SELECT r.n, COUNT(DISTINCT c.agent_id) AS agents
      FROM ${tests} JOIN ${capabilities} c ON c.capability = r.c AND ${PASSES}
      GROUP BY r.n`,
  };
}

function sqlite(prefix: string, clock: string): MatchingStatements {
  const now = `(SELECT ${clock})`;
  const agents = `${prefix}agents`;
  const capabilities = `${prefix}agent_capabilities`;
  // Differs from PostgreSQL: random() is a whole number of 64 bits. Above 0 and at most 1.
  const order = orders("ln(((random() & 9007199254740991) + 1) / 9007199254740992.0)");
  const depends = `(a.needs_agents IS NULL OR NOT EXISTS (
    SELECT 1 FROM json_each(a.needs_agents) d
    WHERE NOT EXISTS (SELECT 1 FROM ${agents} b WHERE b.agent_id = d.value AND ${alive("b", now)})))`;
  const tests = `r AS MATERIALIZED (
    SELECT value ->> '$.n' AS n, value ->> '$.w' AS w, value ->> '$.c' AS c, value ->> '$.k' AS k,
           value ->> '$.o' AS o, value ->> '$.v' AS v FROM json_each(:tests)),
    q AS MATERIALIZED (SELECT DISTINCT n, c, o FROM r WHERE w IS NULL)`;
  // Differs from PostgreSQL: CROSS JOIN, which SQLite never reorders, leads from what matches to its rows.
  const meets = (list: "q" | "p", agent: string) =>
    `EXISTS (SELECT 1 FROM ${capabilities} c WHERE c.capability = ${list}.c AND c.agent_id = ${agent}
       AND (${list}.o = 'has' OR EXISTS (SELECT 1 FROM r WHERE r.n = ${list}.n AND ${PASSES})))`;
  const rarest = `f AS MATERIALIZED (
        SELECT q.n, (SELECT COUNT(*) FROM (SELECT 1 FROM ${capabilities} c WHERE c.capability = q.c LIMIT ${COUNTED}) s) AS agents
        FROM q ORDER BY agents, q.n LIMIT 1),`;
  const matching = (required: boolean, open = "true") =>
    required
      ? `m AS MATERIALIZED (
           SELECT DISTINCT c.agent_id FROM (SELECT n FROM f WHERE ${open}) f CROSS JOIN r ON r.n = f.n CROSS JOIN ${capabilities} c ON c.capability = r.c
           WHERE r.w IS NULL AND ${PASSES})`
      : `m AS MATERIALIZED (SELECT agent_id FROM ${agents} WHERE lost_at IS NULL AND ${open})`;
  const others = (required: boolean) =>
    required
      ? `AND :needed = (SELECT COUNT(*) FROM q) AND NOT EXISTS (
           SELECT 1 FROM q WHERE q.n <> (SELECT n FROM f) AND NOT ${meets("q", "m.agent_id")})`
      : "";
  const used = `(SELECT COALESCE(SUM(t.cost), 0) FROM ${prefix}tasks t WHERE t.agent_id = a.agent_id AND ${OPEN})`;
  const walk = (required: boolean, good: string) => `
      w AS MATERIALIZED (
        SELECT a.agent_id, a.max_concurrent_tasks, a.last_assigned_at, a.lifecycle, a.weight, a.used AS used, 0 AS score
        FROM (SELECT a.*, ${used} AS used FROM (
                 SELECT turn.* FROM ${agents} turn WHERE turn.lost_at IS NULL ${required ? `AND (SELECT agents FROM f) >= ${MANY}` : ""}
                 ORDER BY turn.last_assigned_at, turn.agent_id LIMIT ${WALKED}) a) a
        WHERE ${alive("a", now)} AND a.status <> 'draining' AND a.lifecycle <> 'deprecated' AND ${STAGE} AND ${depends}
          AND a.max_concurrent_tasks >= :cost AND a.agent_id NOT IN (SELECT value FROM json_each(:exclude))
          ${required ? `AND :needed = (SELECT COUNT(*) FROM q) AND NOT EXISTS (SELECT 1 FROM q WHERE NOT ${meets("q", "a.agent_id")})` : ""}
          AND ${good.replaceAll("l.used", "a.used")}
        ORDER BY a.last_assigned_at, a.agent_id LIMIT :limit),
      g AS MATERIALIZED (SELECT COUNT(*) AS n FROM w),`;
  return {
    candidates: ({ required, preferred, strategy }) => {
      const good = preferred ? undefined : GOOD_ENOUGH[strategy];
      const first = good === undefined ? "" : walk(required, good);
      const open = good === undefined ? "true" : "(SELECT n FROM g) < :limit";
      const found =
        good === undefined
          ? "x"
          : `(SELECT ${FOUND} FROM x UNION ALL SELECT ${FOUND} FROM w WHERE NOT ${open}) x`;
      return `
      WITH ${tests}, ${required ? rarest : ""} ${first} ${preferred ? PREFERENCES : ""} ${matching(required, open)},
      x AS MATERIALIZED (
        SELECT ${COLUMNS}, ${used} AS used, ${
          preferred
            ? `COALESCE((SELECT SUM(p.w) FROM p WHERE ${meets("p", "a.agent_id")}), 0)`
            : "0"
        } AS score${strategy === "sticky" ? `, (SELECT t.agent_id FROM ${prefix}tasks t WHERE t.context_id = :context AND t.agent_id IS NOT NULL ORDER BY t.assigned_at DESC, t.agent_id LIMIT 1) AS last_one` : ""}
        FROM m CROSS JOIN ${agents} a ON a.agent_id = m.agent_id
        WHERE ${alive("a", now)} AND a.status <> 'draining' AND ${STAGE} AND ${depends} AND a.max_concurrent_tasks >= :cost ${others(required)})
      ${ANSWER} FROM ${found} WHERE x.max_concurrent_tasks - x.used >= :cost
        AND x.agent_id NOT IN (SELECT value FROM json_each(:exclude))
      ORDER BY ${order[strategy]} LIMIT :limit`;
    },
    census: (required) => `
      WITH ${tests}, ${required ? rarest : ""} ${matching(required)},
      x AS MATERIALIZED (
        SELECT a.max_concurrent_tasks, ${used} AS used, CASE WHEN ${alive("a", now)} THEN 1 ELSE 0 END AS alive,
               CASE WHEN ${alive("a", now)} AND a.status <> 'draining' AND a.max_concurrent_tasks > 0 AND ${STAGE} AND ${depends} THEN 1 ELSE 0 END AS taking
        FROM m CROSS JOIN ${agents} a ON a.agent_id = m.agent_id
        WHERE a.status <> 'removed' ${others(required)})
      ${FIGURES}`,
    passing: `
      WITH ${tests}
      SELECT r.n, COUNT(DISTINCT c.agent_id) AS agents
      FROM r CROSS JOIN ${capabilities} c ON c.capability = r.c
      WHERE ${PASSES}
      GROUP BY r.n`,
  };
}

const STATEMENTS: Record<DialectName, (prefix: string, now: string) => MatchingStatements> = {
  postgres,
  mssql,
  sqlite,
};

export function matchingStatements(
  name: DialectName,
  prefix: string,
  now: string,
): MatchingStatements {
  return STATEMENTS[name](prefix, now);
}
