import type { Knex } from "knex";
import { agentStatements } from "../agent-statements.ts";
import type { Db, Dialect } from "../dialect.ts";
import type { ParseJson } from "../rows.ts";
import { type Row, translated } from "../sql.ts";

/** Signals that workflows were given. All calls are made while the workflow's row is held. */
export class SignalStore {
  readonly #dialect: Dialect;
  readonly #table: string;
  readonly #json: ParseJson;

  constructor(dialect: Dialect, prefix: string) {
    this.#dialect = dialect;
    this.#table = `${prefix}workflow_signals`;
    this.#json = agentStatements(dialect.name, prefix, dialect.now).json;
  }

  /** What came with a signal; undefined when there was none. */
  async get(db: Db, workflowId: string, name: string): Promise<{ data: unknown } | undefined> {
    return translated(this.#dialect, async () => {
      const row = (await this.#rows(db, workflowId).where({ name }).select("data").first()) as
        | Row
        | undefined;
      // Wrapped, because a document of SQL Server's is no bare value.
      return row === undefined
        ? undefined
        : { data: (this.#json(row.data) as { readonly value: unknown }).value };
    });
  }

  async put(
    trx: Db,
    workflowId: string,
    signal: { name: string; data: unknown; sentBy: string | null; at: number },
  ): Promise<void> {
    await translated(this.#dialect, () =>
      trx(this.#table).insert({
        workflow_id: workflowId,
        name: signal.name,
        data: JSON.stringify({ value: signal.data }),
        sent_by: signal.sentBy,
        sent_at: signal.at,
      }),
    );
  }

  /** Forgets signals: of these names, or all. */
  async forget(trx: Db, workflowId: string, names?: readonly string[]): Promise<void> {
    await translated(this.#dialect, async () => {
      const rows = this.#rows(trx, workflowId);
      if (names !== undefined) rows.whereIn("name", [...names]);
      await rows.del();
    });
  }

  #rows(db: Db, workflowId: string): Knex.QueryBuilder {
    return db(this.#table).where({ workflow_id: workflowId });
  }
}
