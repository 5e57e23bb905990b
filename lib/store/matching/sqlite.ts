import {
  ANSWER,
  alive,
  COLUMNS,
  COUNTED,
  FIGURES,
  FOUND,
  GOOD_ENOUGH,
  MANY,
  type MatchingStatements,
  OPEN,
  orders,
  PASSES,
  PREFERENCES,
  STAGE,
  walked,
} from "./texts.ts";

export function sqlite(prefix: string, clock: string): MatchingStatements {
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
  // Differs from PostgreSQL: MIN and MAX of two.
  const most = walked(":limit", "MIN", "MAX");
  const walk = (required: boolean, good: string) => `
      w AS MATERIALIZED (
        SELECT ${COLUMNS}, a.used AS used, 0 AS score
        FROM (SELECT a.*, ${used} AS used FROM (
                 SELECT turn.* FROM ${agents} turn WHERE turn.lost_at IS NULL ${required ? `AND (SELECT agents FROM f) >= MAX(${MANY}, ${most})` : ""}
                 ORDER BY turn.last_assigned_at, turn.agent_id LIMIT ${most}) a) a
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
