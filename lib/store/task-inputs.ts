import type { Knex } from "knex";
import type { InputFilter, InputKind, InputRequest } from "../protocol/task-inputs.ts";
import { agentStatements } from "./agent-statements.ts";
import type { Db, Dialect } from "./dialect.ts";
import type { ParseJson } from "./rows.ts";
import { int, intOrNull, type Row, translated } from "./sql.ts";

/** A new question. JSON columns are text. */
export interface NewInput {
  readonly input_id: string;
  readonly task_id: string;
  readonly assignment: number;
  readonly kind: InputKind;
  readonly prompt: string;
  readonly answer_schema: string | null;
  readonly asked_by: string;
}

const OPEN = "answered_at IS NULL";

/** What agents asked in the middle of tasks. Of two answers the second changes nothing. */
export class TaskInputs {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #table: string;
  readonly #tasks: string;
  readonly #json: ParseJson;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#table = `${prefix}task_inputs`;
    this.#tasks = `${prefix}tasks`;
    this.#json = agentStatements(dialect.name, prefix, dialect.now).json;
  }

  async get(inputId: string, db: Db = this.#knex): Promise<InputRequest | undefined> {
    const [input] = await this.#select(db, (inputs) => inputs.where({ input_id: inputId }));
    return input;
  }

  /** Stores a question. The caller holds the row of its task, so that nobody stores it beside us. */
  async insert(trx: Db, input: NewInput, dueMs: number | null): Promise<InputRequest> {
    const { now } = this.#dialect;
    return translated(this.#dialect, async () => {
      await trx(this.#table).insert({
        ...input,
        asked_at: trx.raw(now),
        due_at: dueMs === null ? null : trx.raw(`${now} + ?`, [dueMs]),
      });
      return (await this.get(input.input_id, trx)) as InputRequest;
    });
  }

  /** Undefined when it was answered before, or its time has passed. */
  async answer(
    trx: Db,
    inputId: string,
    answer: string,
    by: string,
  ): Promise<InputRequest | undefined> {
    return this.#close(
      trx,
      (inputs) =>
        inputs
          .where({ input_id: inputId })
          .whereRaw(`(due_at IS NULL OR due_at > ${this.#dialect.now})`),
      { answer, answered_by: by },
    );
  }

  /** Closes a question whose time has passed. Undefined when it was answered, or closed by somebody else. */
  async lapse(trx: Db, inputId: string): Promise<InputRequest | undefined> {
    return this.#close(trx, (inputs) =>
      inputs.where({ input_id: inputId }).whereRaw(`due_at <= ${this.#dialect.now}`),
    );
  }

  /** Closes what a task that has ended asked. */
  async closeOf(trx: Db, taskId: string): Promise<void> {
    await this.#close(trx, (inputs) => inputs.where({ task_id: taskId }));
  }

  async #close(
    trx: Db,
    narrow: (inputs: Knex.QueryBuilder) => Knex.QueryBuilder,
    values: Record<string, string> = {},
  ): Promise<InputRequest | undefined> {
    return translated(this.#dialect, async () => {
      const [row] = (await narrow(trx(this.#table))
        .whereRaw(OPEN)
        .update({ ...values, answered_at: trx.raw(this.#dialect.now) }, ["*"])) as Row[];
      return row === undefined ? undefined : this.#input(row);
    });
  }

  /** Whether a task waits for an answer. */
  async anyOpen(trx: Db, taskId: string): Promise<boolean> {
    const open = await this.#select(trx, (inputs) =>
      inputs.where({ task_id: taskId }).whereRaw(OPEN).limit(1),
    );
    return open.length > 0;
  }

  /** What was answered to the questions of a task, in the order in which they were asked. */
  async answersOf(taskId: string, limit: number): Promise<InputRequest[]> {
    return this.#select(this.#knex, (inputs) =>
      inputs
        .where({ task_id: taskId })
        .whereRaw("answered_by IS NOT NULL")
        .orderBy("seq")
        .limit(limit),
    );
  }

  /** In the order in which they were asked. Open ones are those of tasks that have not ended. */
  async list({ taskId, all, afterSeq, limit }: InputFilter): Promise<InputRequest[]> {
    return this.#select(this.#knex, (inputs) => {
      if (taskId !== undefined) inputs.where({ task_id: taskId });
      if (!all) inputs.whereRaw(`${OPEN} AND ${this.#ofLiveTask}`);
      return inputs.where("seq", ">", afterSeq).orderBy("seq").limit(limit);
    });
  }

  /** Open questions whose time has passed, the longest ago first. */
  async overdue(limit: number): Promise<InputRequest[]> {
    return this.#select(this.#knex, (inputs) =>
      inputs
        .whereRaw(`due_at IS NOT NULL AND ${OPEN} AND due_at <= ${this.#dialect.now}`)
        .orderBy("due_at")
        .limit(limit),
    );
  }

  /** A page of open questions, and which of them nobody needs an answer to: their tasks have ended. */
  async strays(after: number, limit: number): Promise<{ next: number; taskIds: string[] }> {
    return translated(this.#dialect, async () => {
      const page = (await this.#knex(this.#table)
        .select("seq", "task_id")
        .whereRaw(OPEN)
        .where("seq", ">", after)
        .orderBy("seq")
        .limit(limit)) as Row[];
      if (page.length === 0) return { next: 0, taskIds: [] };
      const ids = [...new Set(page.map((row) => String(row.task_id)))];
      const live = (await this.#knex(this.#tasks)
        .select("task_id")
        .whereIn("task_id", ids)
        .whereNull("finished_at")) as Row[];
      const alive = new Set(live.map((row) => String(row.task_id)));
      return {
        next: page.length < limit ? 0 : int(page.at(-1)?.seq),
        taskIds: ids.filter((taskId) => !alive.has(taskId)),
      };
    });
  }

  get #ofLiveTask(): string {
    return `EXISTS (SELECT 1 FROM ${this.#tasks} t WHERE t.task_id = ${this.#table}.task_id AND t.finished_at IS NULL)`;
  }

  async #select(
    db: Db,
    narrow: (inputs: Knex.QueryBuilder) => Knex.QueryBuilder,
  ): Promise<InputRequest[]> {
    return translated(this.#dialect, async () => {
      const rows = (await narrow(db(this.#table).select("*"))) as Row[];
      return rows.map((row) => this.#input(row));
    });
  }

  #input(row: Row): InputRequest {
    const answeredAt = intOrNull(row.answered_at);
    const answeredBy = (row.answered_by as string | null) ?? null;
    return {
      inputId: String(row.input_id),
      taskId: String(row.task_id),
      assignment: int(row.assignment),
      kind: row.kind as InputKind,
      prompt: String(row.prompt),
      schema: this.#json(row.answer_schema) as InputRequest["schema"],
      askedBy: String(row.asked_by),
      askedAt: int(row.asked_at),
      dueAt: intOrNull(row.due_at),
      state: answeredAt === null ? "open" : answeredBy === null ? "closed" : "answered",
      answeredBy,
      answeredAt,
      answer: this.#json(row.answer) ?? null,
      seq: int(row.seq),
    };
  }
}
