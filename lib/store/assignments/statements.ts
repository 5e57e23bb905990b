import { sourcesOf } from "../../protocol/states.ts";
import { isFresh, TAKES_TASKS } from "../agent-statements.ts";
import type { DialectName } from "../dialect.ts";

/** What gives many tasks to many agents at once. Lists are JSON parameters. */
export interface AssignmentStatements {
  /** Locks those agents of `:ids` that take tasks; what another transaction holds is passed over. */
  readonly lockAgents: string;
  /** The slots that the tasks of the agents `:ids` use. */
  readonly used: string;
  /** Notes that the agents `:ids` got tasks. */
  readonly touch: string;
  /** Locks up to `:limit` parked tasks of `:key`, the most urgent first; what another transaction holds is passed over. */
  readonly parked: string;
  /** Gives the tasks of `:items` to their agents; returns those that were still as the item says. */
  readonly assign: string;
  /** Stores the tasks of `:items`, each with its first agent or without one; returns those whose id was not taken. */
  readonly insert: string;
  /** The tasks `:ids`. */
  readonly some: string;
  /** The states of the tasks `:ids`, by their ids. */
  readonly states: string;
  /** The same, locked in that order. */
  readonly lockTasks: string;
  /** Up to `:limit` tasks that wait for the task `:id`, by their ids. */
  readonly dependents: string;
  /** Stores the dependencies of `:items`. */
  readonly depend: string;
  /** Forgets that the tasks `:ids` wait for the task `:id`. */
  readonly settle: string;
  /** One less to wait for, for the tasks `:ids`; returns those that now wait for none. */
  readonly countDown: string;
}

/** No agent has it, and one may get it: the conditions of the index tasks_parked. */
export const PARKED =
  "agent_id IS NULL AND finished_at IS NULL AND waits_for = 0 AND paused_at IS NULL AND auction_ends_at IS NULL";

export const NEXT_FIRST = "priority DESC, urgent_at, seq";

const LIVE = "t.agent_id IS NOT NULL AND t.finished_at IS NULL";

/**
 * The same, written so that no index fits: a task is found by its number, and with old statistics the planner would
 * rather walk the index of parked tasks that was empty when they were made.
 */
const STILL_PARKED = `COALESCE(t.agent_id, '') = '' AND COALESCE(t.finished_at, 0) = 0 AND COALESCE(t.waits_for, 0) = 0
  AND COALESCE(t.paused_at, 0) = 0 AND COALESCE(t.state, '') IN (${sourcesOf("assigned")
    .map((state) => `'${state}'`)
    .join(", ")})`;

const STATE = "task_id, state, finished_at";

const COUNT_DOWN = "COALESCE(t.waits_for, 0) > 0 AND COALESCE(t.finished_at, 0) = 0";

const AGENT =
  "a.agent_id, a.max_concurrent_tasks, a.weight, a.lifecycle, a.last_assigned_at, a.card_hash";

/** When a task without a deadline is urgent. */
const NEVER = Number.MAX_SAFE_INTEGER;

/** The columns of a new task that are taken as they are given, with their types on PostgreSQL and SQL Server. */
const TEXT = ["text", "nvarchar(max)"] as const;
const KEY = ["text", "nvarchar(128)"] as const;
const INT = ["int", "int"] as const;
const BIGINT = ["bigint", "bigint"] as const;
const JSON_TEXT = ["jsonb", "nvarchar(max)"] as const;
const GIVEN: Record<string, readonly [string, string]> = {
  task_id: KEY,
  task_type: KEY,
  description: TEXT,
  parameters: JSON_TEXT,
  required_capabilities: JSON_TEXT,
  preferred_capabilities: JSON_TEXT,
  need_key: KEY,
  priority: INT,
  state: KEY,
  supervisor_id: KEY,
  agent_id: KEY,
  message_id: KEY,
  assignment: INT,
  max_assignments: INT,
  context_id: KEY,
  correlation_id: KEY,
  cost: INT,
  strategy: KEY,
  parent_task_id: KEY,
  requested_by: KEY,
  waits_for: INT,
  run_timeout_ms: BIGINT,
  operation: KEY,
  auction: JSON_TEXT,
};
/** Of those: JSON, put into the list as it is. */
export const DOCUMENTS = Object.keys(GIVEN).filter((name) => GIVEN[name] === JSON_TEXT);

const columns = Object.keys(GIVEN);
const INTO = `${columns.join(", ")}, created_at, assigned_at, deadline_at, urgent_at, auction_ends_at`;
const given = (prefix: string) => columns.map((name) => `${prefix}.${name}`).join(", ");
/** What is reckoned from the clock. */
const reckoned = (j: string, now: string) =>
  `${now}, CASE WHEN ${j}.agent_id IS NOT NULL THEN ${now} END, ${now} + ${j}.deadline_ms, COALESCE(${now} + ${j}.deadline_ms, ${NEVER}), ${now} + ${j}.auction_ms`;

function postgres(prefix: string, now: string): AssignmentStatements {
  const agents = `${prefix}agents`;
  const tasks = `${prefix}tasks`;
  const waits = `${prefix}task_dependencies`;
  // An array drives the scan through the primary key, whatever the statistics say.
  const ids = "ARRAY(SELECT jsonb_array_elements_text(CAST(:ids AS jsonb)))";
  const types = columns.map((name) => `${name} ${GIVEN[name]?.[0]}`).join(", ");
  return {
    lockAgents: `
      SELECT ${AGENT} FROM ${agents} a WHERE a.agent_id = ANY (${ids}) AND ${TAKES_TASKS} AND ${isFresh(now)}
      ORDER BY a.agent_id FOR UPDATE SKIP LOCKED`,
    used: `
      SELECT i.agent_id, l.used FROM unnest(${ids}) AS i(agent_id)
      CROSS JOIN LATERAL (
        SELECT COALESCE(SUM(t.cost), 0) AS used FROM ${tasks} t WHERE t.agent_id = i.agent_id AND ${LIVE} OFFSET 0) l`,
    touch: `UPDATE ${agents} SET last_assigned_at = ${now} WHERE agent_id = ANY (${ids})`,
    parked: `
      SELECT * FROM ${tasks} WHERE ${PARKED} AND need_key = :key ORDER BY ${NEXT_FIRST} LIMIT :limit
      FOR UPDATE SKIP LOCKED`,
    assign: `
      WITH j AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(CAST(:items AS jsonb)) AS j(seq bigint, assignment int, agent_id text, message_id text))
      UPDATE ${tasks} t SET state = 'assigned', agent_id = j.agent_id, message_id = j.message_id, assignment = j.assignment + 1,
        assigned_at = ${now}, started_at = NULL, run_deadline_at = NULL, auction_ends_at = NULL
      FROM j WHERE t.seq = ANY (ARRAY(SELECT seq FROM j)) AND t.seq = j.seq AND t.assignment = j.assignment AND ${STILL_PARKED}
      RETURNING t.*`,
    insert: `
      INSERT INTO ${tasks} (${INTO})
      SELECT ${given("j")}, ${reckoned("j", "n.now")}
      FROM (SELECT ${now} AS now) n
      CROSS JOIN jsonb_to_recordset(CAST(:items AS jsonb)) AS j(n int, ${types}, deadline_ms bigint, auction_ms bigint)
      ORDER BY j.n
      ON CONFLICT (task_id) DO NOTHING
      RETURNING *`,
    some: `SELECT * FROM ${tasks} WHERE task_id = ANY (${ids})`,
    states: `SELECT ${STATE} FROM ${tasks} WHERE task_id = ANY (${ids}) ORDER BY task_id`,
    lockTasks: `SELECT ${STATE} FROM ${tasks} WHERE task_id = ANY (${ids}) ORDER BY task_id FOR UPDATE`,
    dependents: `SELECT task_id FROM ${waits} WHERE depends_on = :id ORDER BY task_id LIMIT :limit`,
    depend: `
      INSERT INTO ${waits} (task_id, depends_on, when_failed)
      SELECT j.task_id, j.depends_on, j.when_failed
      FROM jsonb_to_recordset(CAST(:items AS jsonb)) AS j(task_id text, depends_on text, when_failed text)
      ON CONFLICT DO NOTHING`,
    settle: `
      DELETE FROM ${waits} WHERE depends_on = :id AND task_id = ANY (${ids})
      RETURNING task_id, when_failed`,
    countDown: `
      UPDATE ${tasks} t SET waits_for = t.waits_for - 1 WHERE t.task_id = ANY (${ids}) AND ${COUNT_DOWN}
      RETURNING t.*`,
  };
}

function mssql(prefix: string, now: string): AssignmentStatements {
  const agents = `${prefix}agents`;
  const tasks = `${prefix}tasks`;
  const waits = `${prefix}task_dependencies`;
  const BIN = "COLLATE Latin1_General_100_BIN2";
  const ids = "OPENJSON(:ids) WITH (id nvarchar(128) '$') i";
  const FREE = "WITH (UPDLOCK, READPAST, ROWLOCK, READCOMMITTEDLOCK)";
  const types = columns
    .map(
      (name) =>
        `${name} ${GIVEN[name]?.[1]} '$.${name}'${DOCUMENTS.includes(name) ? " AS JSON" : ""}`,
    )
    .join(", ");
  return {
    lockAgents: `
      SELECT ${AGENT} FROM ${ids} INNER LOOP JOIN ${agents} a ${FREE} ON a.agent_id = i.id ${BIN}
      WHERE ${TAKES_TASKS} AND ${isFresh(now)} ORDER BY a.agent_id`,
    used: `
      SELECT i.id AS agent_id, l.used FROM ${ids}
      CROSS APPLY (SELECT COALESCE(SUM(t.cost), 0) AS used FROM ${tasks} t WHERE t.agent_id = i.id ${BIN} AND ${LIVE}) l`,
    touch: `UPDATE a SET last_assigned_at = ${now} FROM ${ids} INNER LOOP JOIN ${agents} a WITH (ROWLOCK) ON a.agent_id = i.id ${BIN}`,
    parked: `
      SELECT TOP (:limit) * FROM ${tasks} ${FREE} WHERE ${PARKED} AND need_key = :key ORDER BY ${NEXT_FIRST}`,
    // Differs from PostgreSQL: OUTPUT instead of RETURNING, and the clock is read once. From the list to the table,
    // whatever the plan was compiled with: a scan would wait for tasks that others hold.
    assign: `
      DECLARE @now bigint = ${now};
      UPDATE t SET state = N'assigned', agent_id = j.agent_id, message_id = j.message_id, assignment = j.assignment + 1,
        assigned_at = @now, started_at = NULL, run_deadline_at = NULL, auction_ends_at = NULL
      OUTPUT inserted.*
      FROM OPENJSON(:items) WITH (
        seq bigint '$.seq', assignment int '$.assignment', agent_id nvarchar(128) '$.agent_id', message_id nvarchar(128) '$.message_id') j,
        ${tasks} t WITH (ROWLOCK)
      WHERE t.seq = j.seq AND t.assignment = j.assignment AND ${STILL_PARKED}
      OPTION (LOOP JOIN, FORCE ORDER)`,
    // Differs from PostgreSQL: no ON CONFLICT. Another transaction that stores one of the ids at the same time ends
    // in a unique violation here, and ours is tried again: HOLDLOCK for many ids would lock the gaps between them.
    // The loop follows the list, so that sequence numbers do.
    insert: `
      DECLARE @now bigint = ${now};
      INSERT INTO ${tasks} (${INTO})
      OUTPUT inserted.*
      SELECT ${given("j")}, ${reckoned("j", "@now")}
      FROM OPENJSON(:items) WITH (n int '$.n', ${types}, deadline_ms bigint '$.deadline_ms', auction_ms bigint '$.auction_ms') j
      WHERE NOT EXISTS (SELECT 1 FROM ${tasks} t WITH (UPDLOCK, ROWLOCK) WHERE t.task_id = j.task_id ${BIN})
      OPTION (LOOP JOIN)`,
    some: `SELECT t.* FROM ${ids} INNER LOOP JOIN ${tasks} t ON t.task_id = i.id ${BIN}`,
    states: `SELECT ${STATE} FROM ${ids} INNER LOOP JOIN ${tasks} t ON t.task_id = i.id ${BIN} ORDER BY task_id`,
    // The list comes sorted, and the loop follows it.
    lockTasks: `SELECT ${STATE} FROM ${ids} INNER LOOP JOIN ${tasks} t WITH (UPDLOCK, ROWLOCK) ON t.task_id = i.id ${BIN}`,
    dependents: `SELECT TOP (:limit) task_id FROM ${waits} WHERE depends_on = :id ORDER BY task_id`,
    depend: `
      INSERT INTO ${waits} (task_id, depends_on, when_failed)
      SELECT j.task_id, j.depends_on, j.when_failed
      FROM OPENJSON(:items) WITH (task_id nvarchar(128) '$.task_id', depends_on nvarchar(128) '$.depends_on', when_failed nvarchar(8) '$.when_failed') j
      WHERE NOT EXISTS (
        SELECT 1 FROM ${waits} w WHERE w.task_id = j.task_id ${BIN} AND w.depends_on = j.depends_on ${BIN})`,
    settle: `
      DELETE w OUTPUT deleted.task_id, deleted.when_failed
      FROM ${ids} INNER LOOP JOIN ${waits} w WITH (ROWLOCK) ON w.task_id = i.id ${BIN} AND w.depends_on = :id`,
    countDown: `
      UPDATE t SET waits_for = t.waits_for - 1 OUTPUT inserted.*
      FROM ${ids} INNER LOOP JOIN ${tasks} t WITH (ROWLOCK) ON t.task_id = i.id ${BIN} WHERE ${COUNT_DOWN}`,
  };
}

function sqlite(prefix: string, now: string): AssignmentStatements {
  const agents = `${prefix}agents`;
  const tasks = `${prefix}tasks`;
  const waits = `${prefix}task_dependencies`;
  const ids = "(SELECT value FROM json_each(:ids))";
  const field = (name: string) => `value ->> '$.${name}' AS ${name}`;
  const fields = [...columns, "deadline_ms", "auction_ms"].map(field).join(", ");
  return {
    // Differs from PostgreSQL: who writes has locked the whole database.
    lockAgents: `
      SELECT ${AGENT} FROM ${agents} a WHERE a.agent_id IN ${ids} AND ${TAKES_TASKS} AND ${isFresh(now)} ORDER BY a.agent_id`,
    used: `
      SELECT i.value AS agent_id, (
        SELECT COALESCE(SUM(t.cost), 0) FROM ${tasks} t WHERE t.agent_id = i.value AND ${LIVE}) AS used
      FROM json_each(:ids) i`,
    touch: `UPDATE ${agents} SET last_assigned_at = ${now} WHERE agent_id IN ${ids}`,
    parked: `SELECT * FROM ${tasks} WHERE ${PARKED} AND need_key = :key ORDER BY ${NEXT_FIRST} LIMIT :limit`,
    assign: `
      UPDATE ${tasks} AS t SET state = 'assigned', agent_id = j.agent_id, message_id = j.message_id, assignment = j.assignment + 1,
        assigned_at = ${now}, started_at = NULL, run_deadline_at = NULL, auction_ends_at = NULL
      FROM (SELECT ${["seq", "assignment", "agent_id", "message_id"].map(field).join(", ")} FROM json_each(:items)) j
      WHERE t.seq = j.seq AND t.assignment = j.assignment AND ${STILL_PARKED}
      RETURNING *`,
    insert: `
      INSERT INTO ${tasks} (${INTO})
      SELECT ${given("j")}, ${reckoned("j", "j.now")}
      FROM (SELECT key, ${fields}, ${now} AS now FROM json_each(:items)) j WHERE true ORDER BY j.key
      ON CONFLICT (task_id) DO NOTHING
      RETURNING *`,
    some: `SELECT * FROM ${tasks} WHERE task_id IN ${ids}`,
    states: `SELECT ${STATE} FROM ${tasks} WHERE task_id IN ${ids} ORDER BY task_id`,
    lockTasks: `SELECT ${STATE} FROM ${tasks} WHERE task_id IN ${ids} ORDER BY task_id`,
    dependents: `SELECT task_id FROM ${waits} WHERE depends_on = :id ORDER BY task_id LIMIT :limit`,
    depend: `
      INSERT INTO ${waits} (task_id, depends_on, when_failed)
      SELECT ${["task_id", "depends_on", "when_failed"].map(field).join(", ")} FROM json_each(:items) WHERE true
      ON CONFLICT DO NOTHING`,
    settle: `DELETE FROM ${waits} WHERE depends_on = :id AND task_id IN ${ids} RETURNING task_id, when_failed`,
    countDown: `
      UPDATE ${tasks} AS t SET waits_for = t.waits_for - 1 WHERE t.task_id IN ${ids} AND ${COUNT_DOWN}
      RETURNING *`,
  };
}

const STATEMENTS: Record<DialectName, (prefix: string, now: string) => AssignmentStatements> = {
  postgres,
  mssql,
  sqlite,
};

export function assignmentStatements(
  name: DialectName,
  prefix: string,
  now: string,
): AssignmentStatements {
  return STATEMENTS[name](prefix, now);
}
