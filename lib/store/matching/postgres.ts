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

export function postgres(prefix: string, clock: string): MatchingStatements {
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
  // In a query of its own the planner does not know it, and walks the index however many there are.
  const most = `(SELECT ${walked("CAST(:limit AS int)", "LEAST", "GREATEST")})`;
  // The load of each first: where nobody is idle, nothing else is asked.
  const walk = (required: boolean, good: string) => `
      w AS MATERIALIZED (
        SELECT ${COLUMNS}, a.used, 0 AS score
        FROM (SELECT a.*, l.used FROM (
                SELECT turn.* FROM ${agents} turn WHERE turn.lost_at IS NULL ${required ? `AND (SELECT agents FROM f) >= GREATEST(${MANY}, ${most})` : ""}
                ORDER BY turn.last_assigned_at, turn.agent_id LIMIT ${most}) a
              ${used}
              WHERE ${good} ORDER BY a.last_assigned_at, a.agent_id OFFSET 0) a
        WHERE ${alive("a", now)} AND a.status <> 'draining' AND a.lifecycle <> 'deprecated' AND ${STAGE} AND ${depends}
          AND a.max_concurrent_tasks >= CAST(:cost AS int) AND a.agent_id NOT IN (SELECT jsonb_array_elements_text(CAST(:exclude AS jsonb)))
          ${required ? `AND CAST(:needed AS int) = (SELECT COUNT(*) FROM q) AND NOT EXISTS (SELECT 1 FROM q WHERE NOT ${meets("q", "a.agent_id")} OFFSET 0)` : ""}
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
