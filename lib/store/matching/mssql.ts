import {
  ANSWER,
  alive,
  COLUMNS,
  FIGURES,
  type MatchingStatements,
  OPEN,
  orders,
  PASSES,
  STAGE,
} from "./texts.ts";

export function mssql(prefix: string, now: string): MatchingStatements {
  const agents = `${prefix}agents`;
  const capabilities = `${prefix}agent_capabilities`;
  // Differs from PostgreSQL: no RANDOM() for each row but this. Above 0 and at most 1.
  const order = orders("LOG((ABS(CAST(CHECKSUM(NEWID()) AS bigint)) + 1) / 2147483649.0)");
  const depends = `(a.needs_agents IS NULL OR NOT EXISTS (
    SELECT 1 FROM OPENJSON(a.needs_agents) WITH (id nvarchar(128) '$') d
    WHERE NOT EXISTS (SELECT 1 FROM ${agents} b WHERE b.agent_id = d.id COLLATE Latin1_General_100_BIN2 AND ${alive("b", now)})))`;
  const BIN = "COLLATE Latin1_General_100_BIN2";
  const tests = `(SELECT j.n, j.w, j.c ${BIN} AS c, j.k ${BIN} AS k, j.o ${BIN} AS o, j.v ${BIN} AS v
    FROM OPENJSON(:tests) WITH (n int, w float, c nvarchar(128), k nvarchar(8), o nvarchar(4), v nvarchar(140)) j) r`;
  // Differs from PostgreSQL: nothing keeps the tests apart from the rest, so they are joined once, and counted; and
  // nothing makes sure that a first look at a few is not worked out for all, so there is none.
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
        ${ANSWER}, x.weight${strategy === "sticky" ? ", x.last_one" : ""} FROM (
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
          AND a.agent_id NOT IN (SELECT e.id ${BIN} FROM OPENJSON(:exclude) WITH (id nvarchar(128) '$') e)) x
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
