import type { Db, DialectName } from "./dialect.ts";
import { type ParseJson, parseText } from "./rows.ts";
import { int, type Row } from "./sql.ts";

/** What the registry and the tasks need of SQL that no two databases write alike. */
export interface AgentStatements {
  /** An expression for the rows of the capabilities of the agent `a`, as a JSON array in no order; null for none. */
  readonly capabilities: string;
  /** Stores a task unless its id is taken; waits for another transaction that is about to take it. */
  readonly insertTask: string;
  /** Locks the agent `:agent`, unless another transaction holds it. */
  readonly lockAgent: string;
  /** Those of the JSON list `:ids` that are dead letters. */
  readonly buried: string;
  readonly json: ParseJson;
}

/** How many live tasks the agent `a` has, by the index tasks_live. */
export function liveTasks(prefix: string): string {
  return `(SELECT COUNT(*) AS live FROM ${prefix}tasks t WHERE t.agent_id = a.agent_id AND t.agent_id IS NOT NULL AND t.finished_at IS NULL)`;
}

const liveOf = (db: Db, tasks: string, agentId: string) =>
  db(tasks).where({ agent_id: agentId }).whereRaw("agent_id IS NOT NULL AND finished_at IS NULL");

/** How many tasks an agent has. */
export async function countLive(db: Db, tasks: string, agentId: string): Promise<number> {
  const row = (await liveOf(db, tasks, agentId).count({ live: "*" }).first()) as Row | undefined;
  return int(row?.live ?? 0);
}

/** The slots that they use. */
export async function usedSlots(db: Db, tasks: string, agentId: string): Promise<number> {
  const row = (await liveOf(db, tasks, agentId).sum({ used: "cost" }).first()) as Row | undefined;
  return int(row?.used ?? 0);
}

/** Gets new tasks, as far as the row `a` itself tells; "removed" agents wait for their tasks to be taken away. */
export const TAKES_TASKS = "lost_at IS NULL AND status NOT IN ('draining', 'offline', 'removed')";

export function isFresh(now: string): string {
  return `heartbeat_at + stale_after_ms > ${now}`;
}

const TASK_COLUMNS =
  "task_id, task_type, description, parameters, required_capabilities, need_key, priority, state, supervisor_id, agent_id, message_id, assignment, max_assignments, context_id, correlation_id, created_at, assigned_at, deadline_at, urgent_at, cost, preferred_capabilities, strategy, parent_task_id, requested_by, waits_for, run_timeout_ms, operation, auction, auction_ends_at";

/** When a task without a deadline is urgent. */
const NEVER = Number.MAX_SAFE_INTEGER;

function postgres(prefix: string, now: string): AgentStatements {
  const capabilities = `coalesce((SELECT jsonb_agg(jsonb_build_object('capability', k.capability, 'kind', k.kind, 'sort_key', k.sort_key, 'value', k.value)) FROM ${prefix}agent_capabilities k WHERE k.agent_id = a.agent_id), '[]')`;
  return {
    capabilities,
    // The conflict waits for the other transaction to end.
    insertTask: `
      INSERT INTO ${prefix}tasks (${TASK_COLUMNS})
      SELECT :task_id, :task_type, :description, CAST(:parameters AS jsonb), CAST(:required_capabilities AS jsonb),
             :need_key, CAST(:priority AS smallint), :state, :supervisor_id, :agent_id, :message_id,
             CAST(:assignment AS int), CAST(:max_assignments AS int), :context_id, :correlation_id, n.now,
             CASE WHEN CAST(:assignment AS int) > 0 THEN n.now END, n.now + CAST(:deadline_ms AS bigint),
             COALESCE(n.now + CAST(:deadline_ms AS bigint), ${NEVER}), CAST(:cost AS int),
             CAST(:preferred_capabilities AS jsonb), :strategy, :parent_task_id, :requested_by, CAST(:waits_for AS int),
             CAST(:run_timeout_ms AS bigint), :operation, CAST(:auction AS jsonb), n.now + CAST(:auction_ms AS bigint)
      FROM (SELECT ${now} AS now) n
      ON CONFLICT (task_id) DO NOTHING
      RETURNING *`,
    lockAgent: `SELECT agent_id FROM ${prefix}agents WHERE agent_id = :agent FOR UPDATE SKIP LOCKED`,
    buried: `
      SELECT d.message_id, d.reason, d.last_error
      FROM jsonb_array_elements_text(CAST(:ids AS jsonb)) AS j(id)
      JOIN ${prefix}dead_letters d ON d.message_id = j.id`,
    // Parsed by the driver; a result may be a bare text, which must not be parsed again.
    json: (value) => value ?? null,
  };
}

function mssql(prefix: string, now: string): AgentStatements {
  const capabilities = `(SELECT k.capability, k.kind, k.sort_key, k.value FROM ${prefix}agent_capabilities k WHERE k.agent_id = a.agent_id FOR JSON PATH)`;
  return {
    capabilities,
    // Differs from PostgreSQL: no ON CONFLICT. HOLDLOCK keeps the place of the missing id until the commit.
    insertTask: `
      DECLARE @now bigint = ${now};
      INSERT INTO ${prefix}tasks (${TASK_COLUMNS})
      OUTPUT inserted.*
      SELECT :task_id, :task_type, :description, :parameters, :required_capabilities, :need_key, :priority, :state,
             :supervisor_id, :agent_id, :message_id, :assignment, :max_assignments, :context_id, :correlation_id, @now,
             CASE WHEN :assignment > 0 THEN @now END, @now + CAST(:deadline_ms AS bigint),
             COALESCE(@now + CAST(:deadline_ms AS bigint), ${NEVER}), :cost, :preferred_capabilities, :strategy,
             :parent_task_id, :requested_by, :waits_for, :run_timeout_ms, :operation, :auction, @now + CAST(:auction_ms AS bigint)
      WHERE NOT EXISTS (SELECT 1 FROM ${prefix}tasks WITH (UPDLOCK, HOLDLOCK, ROWLOCK) WHERE task_id = :task_id)`,
    lockAgent: `SELECT agent_id FROM ${prefix}agents WITH (UPDLOCK, READPAST, ROWLOCK, READCOMMITTEDLOCK) WHERE agent_id = :agent`,
    buried: `
      SELECT d.message_id, d.reason, d.last_error
      FROM OPENJSON(:ids) WITH (id nvarchar(128) '$') j
      INNER LOOP JOIN ${prefix}dead_letters d ON d.message_id = j.id COLLATE Latin1_General_100_BIN2`,
    json: parseText,
  };
}

function sqlite(prefix: string, now: string): AgentStatements {
  const capabilities = `(SELECT json_group_array(json_object('capability', k.capability, 'kind', k.kind, 'sort_key', k.sort_key, 'value', k.value)) FROM ${prefix}agent_capabilities k WHERE k.agent_id = a.agent_id)`;
  return {
    capabilities,
    insertTask: `
      INSERT INTO ${prefix}tasks (${TASK_COLUMNS})
      SELECT :task_id, :task_type, :description, :parameters, :required_capabilities, :need_key, :priority, :state,
             :supervisor_id, :agent_id, :message_id, :assignment, :max_assignments, :context_id, :correlation_id, n.now,
             CASE WHEN :assignment > 0 THEN n.now END, n.now + :deadline_ms,
             COALESCE(n.now + :deadline_ms, ${NEVER}), :cost, :preferred_capabilities, :strategy, :parent_task_id,
             :requested_by, :waits_for, :run_timeout_ms, :operation, :auction, n.now + :auction_ms
      FROM (SELECT ${now} AS now) n WHERE true
      ON CONFLICT (task_id) DO NOTHING
      RETURNING *`,
    // Differs from PostgreSQL: who writes has locked the whole database.
    lockAgent: `SELECT agent_id FROM ${prefix}agents WHERE agent_id = :agent`,
    buried: `
      SELECT d.message_id, d.reason, d.last_error
      FROM json_each(:ids) j CROSS JOIN ${prefix}dead_letters d ON d.message_id = j.value`,
    json: parseText,
  };
}

const STATEMENTS: Record<DialectName, (prefix: string, now: string) => AgentStatements> = {
  postgres,
  mssql,
  sqlite,
};

export function agentStatements(name: DialectName, prefix: string, now: string): AgentStatements {
  return STATEMENTS[name](prefix, now);
}
