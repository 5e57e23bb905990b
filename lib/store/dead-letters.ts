import type { Knex } from "knex";
import type { Db, Dialect } from "./dialect.ts";
import { ENVELOPE } from "./envelope-columns.ts";
import { asText } from "./messages.ts";
import { int, type Row, transaction, translated } from "./sql.ts";

/** Which dead letters are meant; all conditions must hold. */
export interface DeadLetterFilter {
  readonly messageIds?: readonly string[] | undefined;
  readonly agentId?: string | undefined;
  readonly reason?: string | undefined;
  readonly messageType?: string | undefined;
  readonly fingerprint?: string | undefined;
  /** Only those that failed before this instant. */
  readonly failedBefore?: number | undefined;
}

/** Rows of one step: within the parameters that a statement may have on SQL Server (2,100). */
const STEP = 50;

/** The messages that could not be delivered, with the reason. */
export class DeadLetterStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #table: string;
  readonly #messages: string;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#table = `${prefix}dead_letters`;
    this.#messages = `${prefix}messages`;
  }

  /** In the order of their sequence, from `afterSeq` on. */
  async list(filter: DeadLetterFilter, limit: number, afterSeq = 0): Promise<Row[]> {
    return translated(this.#dialect, () =>
      matching(this.#knex(this.#table), filter)
        .where("seq", ">", afterSeq)
        .orderBy("seq")
        .limit(limit),
    );
  }

  async get(db: Db, messageId: string): Promise<Row[]> {
    return translated(this.#dialect, () =>
      db(this.#table).where({ message_id: messageId }).orderBy("seq"),
    );
  }

  /**
   * Moves up to `limit` dead letters back, in bounded steps of one transaction each, so that an operator who
   * stops half-way has lost nothing and two who redrive at once send nothing twice.
   */
  async redrive(
    filter: DeadLetterFilter,
    options: { limit: number; toAgent?: string | undefined; delayMs: number },
  ): Promise<Row[]> {
    const moved: Row[] = [];
    while (moved.length < options.limit) {
      const step = Math.min(STEP, options.limit - moved.length);
      const rows = await translated(this.#dialect, () =>
        transaction(this.#dialect, this.#knex, (trx) =>
          this.#redriveStep(trx, filter, step, options),
        ),
      );
      moved.push(...rows.taken);
      if (rows.found < step) break;
    }
    return moved;
  }

  async #redriveStep(
    trx: Db,
    filter: DeadLetterFilter,
    step: number,
    options: { toAgent?: string | undefined; delayMs: number },
  ): Promise<{ found: number; taken: Row[] }> {
    const chosen = (await matching(trx(this.#table), filter)
      .select("seq")
      .orderBy("seq")
      .limit(step)) as Row[];
    if (chosen.length === 0) return { found: 0, taken: [] };
    // What a second operator took in the meantime is not returned to us, so it is not sent again.
    const rows = await this.#dialect.takeOut(
      trx,
      this.#table,
      chosen.map((row) => int(row.seq)),
    );
    rows.sort((a, b) => int(a.seq) - int(b.seq));
    const now = this.#dialect.now;
    const back = rows.map((row) => ({
      ...Object.fromEntries(ENVELOPE.map((column) => [column, row[column]])),
      content: asText(row.content),
      headers: asText(row.headers),
      last_error: asText(row.last_error),
      to_agent: options.toAgent ?? row.to_agent,
      created_at: int(row.created_at),
      // It had its time once; an operator who sends it again wants it delivered.
      expires_at: null,
      state: options.delayMs > 0 ? 1 : 0,
      visible_at: trx.raw(`${now} + CAST(? AS bigint)`, [options.delayMs]),
      due_at: options.delayMs > 0 ? trx.raw(`${now} + CAST(? AS bigint)`, [options.delayMs]) : null,
      worker_id: null,
      // The fence goes on growing: a worker that still holds an old receipt stays stale.
      receipt: int(row.receipt) + 1,
      attempt: 0,
      max_attempts: row.max_attempts,
      first_failed_at: row.first_failed_at === null ? null : int(row.first_failed_at),
      redriven: int(row.redriven) + 1,
    }));
    if (back.length > 0) await trx(this.#messages).insert(back);
    return { found: chosen.length, taken: rows };
  }

  /** Deletes for good. */
  async purge(filter: DeadLetterFilter, limit: number): Promise<number> {
    return translated(this.#dialect, async () => {
      let gone = 0;
      while (gone < limit) {
        const step = Math.min(500, limit - gone);
        const chosen = (await matching(this.#knex(this.#table), filter)
          .select("seq")
          .orderBy("seq")
          .limit(step)) as Row[];
        if (chosen.length === 0) break;
        gone += await this.#knex(this.#table)
          .whereIn(
            "seq",
            chosen.map((row) => int(row.seq)),
          )
          .del();
        if (chosen.length < step) break;
      }
      return gone;
    });
  }
}

function matching(builder: Knex.QueryBuilder, filter: DeadLetterFilter): Knex.QueryBuilder {
  if (filter.messageIds !== undefined) builder.whereIn("message_id", [...filter.messageIds]);
  if (filter.agentId !== undefined) builder.where("to_agent", filter.agentId);
  if (filter.reason !== undefined) builder.where("reason", filter.reason);
  if (filter.messageType !== undefined) builder.where("message_type", filter.messageType);
  if (filter.fingerprint !== undefined) builder.where("fingerprint", filter.fingerprint);
  if (filter.failedBefore !== undefined) builder.where("failed_at", "<", filter.failedBefore);
  return builder;
}
