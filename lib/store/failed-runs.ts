import { ENVELOPE, list } from "./envelope-columns.ts";

/** So many of the last failed runs are kept with a message, and every text of them is cut: see `failedRun`. */
const MOST = 10;

const LAPSED = { code: "LEASE_EXPIRED", message: "the run ended without a word: its lease passed" };

/**
 * SQL for the column `failures` with one more run, for each database alike: `failed` with what a settling call
 * says of it (NULL: none is added), `lapsed` where a claim finds the name of a worker that never settled. `t` is the
 * alias of the row with a dot, or nothing. The row itself tells which run it was and whose.
 */
interface FailedRuns {
  failed(t: string, failure: string, now: string): string;
  lapsed(t: string): string;
}

/** Whose lease passed; a doomed message was leased to nobody. */
const held = (t: string) => `${t}worker_id IS NOT NULL AND ${t}worker_id NOT LIKE '!%'`;

const pgKept = (t: string) =>
  `CASE WHEN jsonb_array_length(${t}failures) >= ${MOST} THEN ${t}failures - 0 ELSE coalesce(${t}failures, CAST('[]' AS jsonb)) END`;

export const postgresRuns: FailedRuns = {
  failed: (t, failure, now) => `CASE WHEN ${failure} IS NULL THEN ${t}failures ELSE
      ${pgKept(t)} || jsonb_build_array(${failure} || jsonb_build_object('attempt', ${t}attempt, 'at', ${now}, 'worker', ${t}worker_id)) END`,
  lapsed: (t) => `CASE WHEN ${held(t)} THEN
      ${pgKept(t)} || jsonb_build_array(jsonb_build_object('attempt', ${t}attempt, 'at', ${t}visible_at, 'worker', ${t}worker_id,
        'durationMs', NULL, 'error', jsonb_build_object('code', '${LAPSED.code}', 'message', '${LAPSED.message}')))
      ELSE ${t}failures END`,
};

// Differs from PostgreSQL: JSON_MODIFY cannot take an element out, so the last ones are put together anew.
const mssqlKept = (t: string) =>
  `CASE WHEN JSON_QUERY(${t}failures, '$[${MOST - 1}]') IS NULL THEN COALESCE(${t}failures, N'[]')
        ELSE (SELECT N'[' + STRING_AGG(x.value, N',') WITHIN GROUP (ORDER BY CAST(x.[key] AS int)) + N']'
              FROM OPENJSON(${t}failures) x WHERE x.[key] <> N'0') END`;
const mssqlAppended = (t: string, run: string, at: string) =>
  `JSON_MODIFY(${mssqlKept(t)}, 'append $', JSON_QUERY(
        JSON_MODIFY(JSON_MODIFY(JSON_MODIFY(${run}, '$.attempt', ${t}attempt), '$.at', ${at}), '$.worker', ${t}worker_id)))`;

export const mssqlRuns: FailedRuns = {
  failed: (t, failure, now) =>
    `CASE WHEN ${failure} IS NULL THEN ${t}failures ELSE ${mssqlAppended(t, failure, now)} END`,
  lapsed: (t) =>
    // The space keeps knex from taking ":null" for a binding.
    `CASE WHEN ${held(t)} THEN ${mssqlAppended(t, `N'{"durationMs": null,"error":${JSON.stringify(LAPSED)}}'`, `${t}visible_at`)}
      ELSE ${t}failures END`,
};

const sqliteKept = (t: string) =>
  `CASE WHEN json_array_length(${t}failures) >= ${MOST} THEN json_remove(${t}failures, '$[0]') ELSE coalesce(${t}failures, '[]') END`;

export const sqliteRuns: FailedRuns = {
  failed: (t, failure, now) => `CASE WHEN ${failure} IS NULL THEN ${t}failures ELSE
      json_insert(${sqliteKept(t)}, '$[#]', json_set(${failure}, '$.attempt', ${t}attempt, '$.at', ${now}, '$.worker', ${t}worker_id)) END`,
  lapsed: (t) => `CASE WHEN ${held(t)} THEN
      json_insert(${sqliteKept(t)}, '$[#]', json_object('attempt', ${t}attempt, 'at', ${t}visible_at, 'worker', ${t}worker_id,
        'durationMs', NULL, 'error', json_object('code', '${LAPSED.code}', 'message', '${LAPSED.message}')))
      ELSE ${t}failures END`,
};

/** The envelope's columns with another expression for its failed runs. */
export function envelopeWith(failures: string, table?: string): string {
  return ENVELOPE.map((column) => (column === "failures" ? failures : list([column], table))).join(
    ", ",
  );
}
