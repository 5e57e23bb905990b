import type { Knex } from "knex";
import { type WorkflowState, workflowSourcesOf } from "../../protocol/workflow-states.ts";
import type { WorkflowFilter } from "../../protocol/workflows.ts";
import { agentStatements } from "../agent-statements.ts";
import type { Db, Dialect, DialectName } from "../dialect.ts";
import type { ParseJson } from "../rows.ts";
import { query, type Row, readClock, retried, transaction, translated } from "../sql.ts";
import {
  columnsOf,
  type FullStepRow,
  fullStepRow,
  STEP_COLUMNS,
  type StepChange,
  type StepPart,
  type StepPlan,
  type StepRow,
  type StepWork,
  stepRow,
  WORKFLOW_COLUMNS,
  type WorkflowChange,
  type WorkflowRow,
  workflowRow,
} from "./rows.ts";

/** A new workflow. JSON columns are text. */
export interface NewWorkflow {
  readonly workflow_id: string;
  readonly workflow_type: string;
  readonly mode: string;
  readonly supervisor_id: string;
  readonly input: string;
  readonly context_id: string | null;
  readonly correlation_id: string | null;
  readonly on_failure: string;
  readonly deadline_ms: number | null;
}

export interface NewStep {
  readonly stepId: string;
  readonly part: StepPart;
  readonly position: number;
  readonly plan: StepPlan;
  /** JSON text. */
  readonly work: string;
}

/** Rows of one insert: SQLite takes a few hundred, SQL Server 2,100 values. */
const INSERTED = 100;

const COLUMNS =
  "workflow_id, workflow_type, mode, supervisor_id, state, input, context_id, correlation_id, on_failure, deadline_ms, deadline_at, created_at";

/** Stores a workflow unless its id is taken; waits for another transaction that is about to take it. */
const INSERT: Record<DialectName, (table: string, now: string) => string> = {
  postgres: (table, now) => `
    INSERT INTO ${table} (${COLUMNS})
    SELECT :workflow_id, :workflow_type, :mode, :supervisor_id, 'running', CAST(:input AS jsonb), :context_id,
           :correlation_id, :on_failure, CAST(:deadline_ms AS bigint), n.now + CAST(:deadline_ms AS bigint), n.now
    FROM (SELECT ${now} AS now) n
    ON CONFLICT (workflow_id) DO NOTHING
    RETURNING seq`,
  // Differs from PostgreSQL: no ON CONFLICT. HOLDLOCK keeps the place of the missing id until the commit.
  mssql: (table, now) => `
    DECLARE @now bigint = ${now};
    INSERT INTO ${table} (${COLUMNS})
    OUTPUT inserted.seq
    SELECT :workflow_id, :workflow_type, :mode, :supervisor_id, 'running', :input, :context_id,
           :correlation_id, :on_failure, CAST(:deadline_ms AS bigint), @now + CAST(:deadline_ms AS bigint), @now
    WHERE NOT EXISTS (SELECT 1 FROM ${table} WITH (UPDLOCK, HOLDLOCK, ROWLOCK) WHERE workflow_id = :workflow_id)`,
  sqlite: (table, now) => `
    INSERT INTO ${table} (${COLUMNS})
    SELECT :workflow_id, :workflow_type, :mode, :supervisor_id, 'running', :input, :context_id,
           :correlation_id, :on_failure, :deadline_ms, n.now + :deadline_ms, n.now
    FROM (SELECT ${now} AS now) n WHERE true
    ON CONFLICT (workflow_id) DO NOTHING
    RETURNING seq`,
};

/** Workflows and their steps. A move holds the workflow's row from its first statement on. */
export class WorkflowStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #workflows: string;
  readonly #steps: string;
  readonly #tasks: string;
  readonly #insert: string;
  readonly #json: ParseJson;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#workflows = `${prefix}workflows`;
    this.#steps = `${prefix}workflow_steps`;
    this.#tasks = `${prefix}tasks`;
    this.#insert = INSERT[dialect.name](this.#workflows, dialect.now);
    this.#json = agentStatements(dialect.name, prefix, dialect.now).json;
  }

  /** Runs `run` in the caller's transaction, or in one of its own that is tried again after a conflict. */
  async transaction<T>(
    run: (trx: Knex.Transaction) => Promise<T>,
    db: Db = this.#knex,
  ): Promise<T> {
    return translated(this.#dialect, () =>
      transaction(this.#dialect, db, (trx) => run(trx as Knex.Transaction)),
    );
  }

  /** Runs `run` so that, when it throws, only what it wrote is taken back. */
  async savepoint<T>(
    trx: Knex.Transaction,
    run: (trx: Knex.Transaction) => Promise<T>,
  ): Promise<T> {
    return translated(this.#dialect, () => trx.transaction(run));
  }

  async now(db: Db): Promise<number> {
    return translated(this.#dialect, () => readClock(db, this.#dialect));
  }

  /** False when the id is taken. */
  async insert(trx: Db, workflow: NewWorkflow): Promise<boolean> {
    return translated(this.#dialect, async () => {
      return (await query(trx, this.#insert, { ...workflow })).length > 0;
    });
  }

  async insertSteps(trx: Db, workflowId: string, steps: readonly NewStep[]): Promise<void> {
    await translated(this.#dialect, async () => {
      for (let from = 0; from < steps.length; from += INSERTED) {
        await trx(this.#steps).insert(
          steps.slice(from, from + INSERTED).map(({ stepId, part, position, plan, work }) => ({
            workflow_id: workflowId,
            step_id: stepId,
            part,
            position,
            plan: JSON.stringify(plan),
            work,
            state: "pending",
          })),
        );
      }
    });
  }

  async get(workflowId: string, db: Db = this.#knex): Promise<WorkflowRow | undefined> {
    return translated(this.#dialect, async () => {
      const row = (await db(this.#workflows)
        .select(WORKFLOW_COLUMNS)
        .where({ workflow_id: workflowId })
        .first()) as Row | undefined;
      return row === undefined ? undefined : workflowRow(row, this.#json);
    });
  }

  /**
   * Takes the row until the transaction ends, by writing it: whoever waited for it reads, in the statements that
   * follow, what the one before committed.
   */
  async lock(trx: Db, workflowId: string): Promise<WorkflowRow | undefined> {
    return translated(this.#dialect, async () => {
      const [row] = (await trx(this.#workflows)
        .where({ workflow_id: workflowId })
        .update({ version: trx.raw("version + 1") }, WORKFLOW_COLUMNS)) as unknown as Row[];
      return row === undefined ? undefined : workflowRow(row, this.#json);
    });
  }

  /**
   * Writes a move: state after state, each from one from which it is legal, and nobody has moved it since it was
   * locked. Anything else is a fault of ours, which must not be committed.
   */
  async move(
    trx: Db,
    { workflowId, version }: WorkflowRow,
    states: readonly WorkflowState[],
    change: WorkflowChange,
  ): Promise<void> {
    const locked = () => trx(this.#workflows).where({ workflow_id: workflowId, version: version });
    await translated(this.#dialect, async () => {
      for (const state of states) {
        const moved = await locked()
          .whereIn("state", [...workflowSourcesOf(state)])
          .update({ state });
        if (moved === 0) throw new Error(`the workflow "${workflowId}" cannot become ${state}`);
      }
      if ((await locked().update(columnsOf(change))) === 0) {
        throw new Error(`the workflow "${workflowId}" was moved by somebody else`);
      }
    });
  }

  /** All steps and compensations, in the order of the definition. */
  async steps(db: Db, workflowId: string): Promise<StepRow[]> {
    return translated(this.#dialect, async () => {
      const rows = (await db(this.#steps)
        .select(STEP_COLUMNS)
        .where({ workflow_id: workflowId })) as Row[];
      return inOrder(rows.map((row) => stepRow(row, this.#json)));
    });
  }

  /** The same with what they brought. */
  async fullSteps(db: Db, workflowId: string): Promise<FullStepRow[]> {
    return translated(this.#dialect, async () => {
      const rows = (await db(this.#steps)
        .select([...STEP_COLUMNS, "result", "error", "started_at", "finished_at"])
        .where({ workflow_id: workflowId })) as Row[];
      return inOrder(rows.map((row) => fullStepRow(row, this.#json)));
    });
  }

  async change(
    trx: Db,
    workflowId: string,
    { stepId, part }: Pick<StepRow, "stepId" | "part">,
    change: StepChange,
  ): Promise<void> {
    await translated(this.#dialect, () =>
      trx(this.#steps)
        .where({ workflow_id: workflowId, step_id: stepId, part })
        .update(columnsOf(change)),
    );
  }

  async work(db: Db, workflowId: string, stepId: string, part: StepPart): Promise<StepWork> {
    return translated(this.#dialect, async () => {
      const row = (await db(this.#steps)
        .select("work")
        .where({ workflow_id: workflowId, step_id: stepId, part })
        .first()) as Row;
      return this.#json(row.work) as StepWork;
    });
  }

  async input(db: Db, workflowId: string): Promise<unknown> {
    return translated(this.#dialect, async () => {
      const row = (await db(this.#workflows)
        .select("input")
        .where({ workflow_id: workflowId })
        .first()) as Row;
      // Wrapped, because a document of SQL Server's is no bare value.
      return (this.#json(row.input) as { readonly value: unknown }).value;
    });
  }

  /** What these steps brought; a step that has not completed is missing. */
  async results(
    db: Db,
    workflowId: string,
    stepIds: readonly string[],
  ): Promise<Map<string, unknown>> {
    if (stepIds.length === 0) return new Map();
    return translated(this.#dialect, async () => {
      const rows = (await db(this.#steps)
        .select("step_id", "result")
        .where({ workflow_id: workflowId, part: "do", state: "completed" })
        .whereIn("step_id", [...stepIds])) as Row[];
      return new Map(rows.map((row) => [String(row.step_id), this.#json(row.result)]));
    });
  }

  /** The workflow that waits for this task. */
  async workflowOf(db: Db, taskId: string): Promise<string | undefined> {
    return translated(this.#dialect, async () => {
      const row = (await db(this.#steps)
        .select("workflow_id")
        .where({ task_id: taskId })
        .whereRaw("task_id IS NOT NULL AND finished_at IS NULL")
        .first()) as Row | undefined;
      return row === undefined ? undefined : String(row.workflow_id);
    });
  }

  async list(filter: WorkflowFilter): Promise<WorkflowRow[]> {
    return translated(this.#dialect, async () => {
      const rows = this.#knex(this.#workflows).select(WORKFLOW_COLUMNS);
      if (filter.state !== undefined) rows.where("state", filter.state);
      if (filter.workflowType !== undefined) rows.where("workflow_type", filter.workflowType);
      rows.where("seq", ">", filter.afterSeq).orderBy("seq").limit(filter.limit);
      return ((await rows) as Row[]).map((row) => workflowRow(row, this.#json));
    });
  }

  /** Workflows that a sweep has to look at, the longest due first. */
  async due(limit: number): Promise<string[]> {
    return translated(this.#dialect, async () => {
      const rows = (await this.#knex(this.#workflows)
        .select("workflow_id")
        .whereRaw(`due_at IS NOT NULL AND due_at <= ${this.#dialect.now}`)
        .orderBy("due_at")
        .limit(limit)) as Row[];
      return rows.map((row) => String(row.workflow_id));
    });
  }

  /** Looks at a workflow later: it could not be moved now. */
  async postpone(workflowId: string, delayMs: number): Promise<void> {
    await translated(this.#dialect, () =>
      retried(this.#dialect, () =>
        this.#knex(this.#workflows)
          .where({ workflow_id: workflowId })
          .whereNotNull("due_at")
          .update({
            due_at: this.#knex.raw(`${this.#dialect.now} + CAST(? AS bigint)`, [delayMs]),
          }),
      ),
    );
  }

  /** A page of the tasks that steps wait for, from after a task on: those that have ended, or are gone. */
  async loose(
    after: string,
    limit: number,
  ): Promise<{ last: string | undefined; loose: string[] }> {
    return translated(this.#dialect, async () => {
      const page = this.#knex(this.#steps)
        .select("task_id")
        .whereRaw("task_id IS NOT NULL AND finished_at IS NULL")
        .where("task_id", ">", after)
        .orderBy("task_id")
        .limit(limit)
        .as("s");
      const rows = (await this.#knex
        .from(page)
        .leftJoin({ t: this.#tasks }, "t.task_id", "s.task_id")
        .select("s.task_id", "t.seq", "t.finished_at")
        .orderBy("s.task_id")) as Row[];
      const loose = rows
        .filter((row) => row.seq === null || row.finished_at !== null)
        .map((row) => String(row.task_id));
      const last = rows.length < limit ? undefined : String(rows.at(-1)?.task_id);
      return { last, loose };
    });
  }

  /** Workflows that ended longer ago. */
  async outlived(olderThanMs: number, limit: number): Promise<string[]> {
    return translated(this.#dialect, async () => {
      const rows = (await this.#knex(this.#workflows)
        .select("workflow_id")
        .whereRaw(
          `finished_at IS NOT NULL AND finished_at <= ${this.#dialect.now} - CAST(? AS bigint)`,
          [olderThanMs],
        )
        .orderBy("finished_at")
        .limit(limit)) as Row[];
      return rows.map((row) => String(row.workflow_id));
    });
  }

  /** Deletes a workflow that has ended, with its steps. */
  async remove(trx: Db, { workflowId, version }: WorkflowRow): Promise<void> {
    await translated(this.#dialect, async () => {
      await trx(this.#steps).where({ workflow_id: workflowId }).del();
      await trx(this.#workflows).where({ workflow_id: workflowId, version }).del();
    });
  }
}

function inOrder<T extends StepRow>(rows: T[]): T[] {
  return rows.sort((a, b) => a.position - b.position || (a.part < b.part ? -1 : 1));
}
