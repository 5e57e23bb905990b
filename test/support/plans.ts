import type { Knex } from "knex";
import type { DialectName } from "./database-server.ts";

/** A statement as the driver gets it. */
export interface Statement {
  readonly sql: string;
  readonly bindings: unknown[];
}

/** Everything that a call sends to the database. */
export async function allStatementsOf(
  knex: Knex,
  run: () => Promise<unknown>,
): Promise<Statement[]> {
  const seen: Statement[] = [];
  const listen = (statement: Statement) => seen.push(statement);
  knex.on("query", listen);
  await run().finally(() => knex.removeListener("query", listen));
  return seen;
}

/** What a call reads and writes, in transactions too, without what only begins and ends them. */
export async function statementsOf(
  knex: Knex,
  run: () => Promise<unknown>,
  about = /outbox_/,
): Promise<Statement[]> {
  const seen = await allStatementsOf(knex, run);
  return seen.filter(({ sql }) => isData(sql) && about.test(sql));
}

export function isData(sql: string): boolean {
  return /^\s*(with|select|insert|update|delete)/i.test(sql);
}

/** How PostgreSQL or SQLite would run a statement with these bindings now, a line per step. */
export async function planOf(
  knex: Knex,
  dialect: DialectName,
  { sql, bindings }: Statement,
): Promise<string> {
  const explain = dialect === "postgres" ? "EXPLAIN (COSTS OFF)" : "EXPLAIN QUERY PLAN";
  // The bindings stand in the driver's own notation already, which knex.raw would not take.
  const { client } = knex as unknown as {
    client: { query(c: unknown, q: object): Promise<{ response: unknown }> } & Knex.Client;
  };
  const connection = await client.acquireConnection();
  try {
    const query = { method: "raw", sql: `${explain} ${sql}`, bindings };
    const response = (await client.query(connection, query)).response as
      | { rows?: unknown[] }
      | unknown[];
    const rows = Array.isArray(response) ? response : (response.rows ?? []);
    return rows.map((row) => Object.values(row as object).join(" ")).join("\n");
  } finally {
    await client.releaseConnection(connection);
  }
}

const SERIES: Record<DialectName, string> = {
  postgres: "generate_series(1, :n) AS s(i)",
  sqlite:
    "(WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < :n) SELECT i FROM s) s",
  mssql:
    "(SELECT TOP (:n) ROW_NUMBER() OVER (ORDER BY (SELECT NULL)) AS i FROM sys.all_columns a CROSS JOIN sys.all_columns b) s",
};

/** Runs `INSERT … SELECT … FROM series` with `i` from 1 to `n`: rows that are made in the database. */
export function inserter(knex: Knex, dialect: DialectName) {
  return async (
    text: string,
    n: number,
    bindings: Record<string, number | string> = {},
  ): Promise<void> => {
    await knex.raw(text.replace("FROM series", `FROM ${SERIES[dialect]}`), { n, ...bindings });
  };
}

/** Statistics of the tables as they are now. */
export async function analyze(knex: Knex, dialect: DialectName): Promise<void> {
  await knex.raw(dialect === "postgres" ? "VACUUM ANALYZE" : "ANALYZE");
}
