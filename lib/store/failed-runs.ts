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

// Differs from PostgreSQL: JSON_MODIFY cannot take an element out of an array, and would read and write the whole text
// once per field. What is there is ours and ends with its bracket, so it is text that is put together.
const mssqlKept = (t: string) =>
  `CASE WHEN JSON_QUERY(${t}failures, '$[0]') IS NULL THEN N'['
        WHEN JSON_QUERY(${t}failures, '$[${MOST - 1}]') IS NULL THEN SUBSTRING(${t}failures, 1, LEN(${t}failures) - 1) + N','
        ELSE (SELECT N'[' + STRING_AGG(CAST(x.value AS nvarchar(max)), N',') WITHIN GROUP (ORDER BY CAST(x.[key] AS int)) + N','
              FROM OPENJSON(${t}failures) x WHERE x.[key] <> N'0') END`;
/** `rest`: the text of an object whose first brace the fields of the row replace. */
const mssqlAppended = (t: string, rest: string, at: string) =>
  `${mssqlKept(t)} + N'{"attempt":' + CAST(${t}attempt AS nvarchar(12)) + N',"at":' + CAST(${at} AS nvarchar(20))
        + N',"worker":"' + STRING_ESCAPE(${t}worker_id, 'json') + N'",' + ${rest} + N']'`;

export const mssqlRuns: FailedRuns = {
  failed: (t, failure, now) =>
    `CASE WHEN ${failure} IS NULL THEN ${t}failures
           ELSE ${mssqlAppended(t, `SUBSTRING(${failure}, 2, LEN(${failure}))`, now)} END`,
  lapsed: (t) =>
    // The space keeps knex from taking ":null" for a binding.
    `CASE WHEN ${held(t)} THEN ${mssqlAppended(t, `N'"durationMs": null,"error":${JSON.stringify(LAPSED)}}'`, `${t}visible_at`)}
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
