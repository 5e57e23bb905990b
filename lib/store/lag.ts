import type { Knex } from "knex";
import type { Dialect } from "./dialect.ts";
import { nextScheduled } from "./due.ts";
import { int, intOrNull, query, type Row, translated } from "./sql.ts";

/** Mailboxes that one look at due messages asks. */
const MAILBOXES = 100;
/** Expired messages that one look passes: those that are leased are not overdue yet. */
const LOOK = 1_000;

/** What is kept for how long, in milliseconds; undefined: for ever, or not at all. */
export interface Retentions {
  readonly archive: number | undefined;
  readonly deadLetters: number | undefined;
  readonly inbox: number | undefined;
  readonly conversations: number | undefined;
}

/** By how many milliseconds the oldest of what upkeep should have done is overdue; 0: nothing is. */
export interface Overdue {
  readonly expired: number;
  readonly due: number;
  readonly schedules: number;
  readonly archive: number;
  readonly dedupe: number;
  readonly inbox: number;
  readonly deadLetters: number;
  readonly conversations: number;
}

/** How far upkeep is behind. Each figure is the end of an index; none costs more with a backlog. */
export class LagStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #prefix: string;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#prefix = prefix;
  }

  async overdue(kept: Retentions): Promise<Overdue> {
    const { now } = this.#dialect;
    const oldest = (table: string, column: string) =>
      `(SELECT MIN(${column}) FROM ${this.#prefix}${table} WHERE ${column} IS NOT NULL)`;
    return translated(this.#dialect, async () => {
      const [row = {}] = await query(
        this.#knex,
        `SELECT ${now} AS now,
          ${oldest("schedules", "due_at")} AS schedules,
          ${oldest("archive", "finished_at")} AS archive,
          ${oldest("dedupe", "expires_at")} AS dedupe,
          ${oldest("inbox", "processed_at")} AS inbox,
          ${oldest("dead_letters", "failed_at")} AS dead_letters,
          ${oldest("conversations", "updated_at")} AS conversations`,
      );
      const since = (column: string, keptMs: number | undefined = undefined) => {
        const at = intOrNull(row[column]);
        return at === null || keptMs === undefined ? 0 : Math.max(0, int(row.now) - keptMs - at);
      };
      return {
        expired: await this.#expired(),
        due: await this.#due(),
        schedules: since("schedules", 0),
        archive: since("archive", kept.archive),
        dedupe: since("dedupe", 0),
        inbox: since("inbox", kept.inbox),
        deadLetters: since("dead_letters", kept.deadLetters),
        conversations: since("conversations", kept.conversations),
      };
    });
  }

  /** The same of one mailbox: how long the first of its scheduled messages is due. */
  async dueOf(agentId: string): Promise<number> {
    return translated(this.#dialect, async () => {
      const row = (await this.#knex(`${this.#prefix}messages`)
        .select("due_at", this.#knex.raw(`${this.#dialect.now} AS now`))
        .where({ to_agent: agentId })
        .whereRaw("state = 1")
        .orderBy("due_at")
        .first()) as Row | undefined;
      return row === undefined ? 0 : Math.max(0, int(row.now) - int(row.due_at));
    });
  }

  async #expired(): Promise<number> {
    const { now } = this.#dialect;
    const inner = this.#knex(`${this.#prefix}messages`)
      .select("expires_at", "worker_id", "visible_at")
      .whereRaw(`expires_at IS NOT NULL AND expires_at <= ${now}`)
      .orderBy("expires_at")
      .limit(LOOK)
      .as("x");
    const row = (await this.#knex
      .from(inner)
      .select(this.#knex.raw(`${now} - MIN(expires_at) AS overdue`))
      .whereRaw(`(worker_id IS NULL OR visible_at <= ${now})`)
      .first()) as Row | undefined;
    return Math.max(0, intOrNull(row?.overdue) ?? 0);
  }

  /** Of the first mailboxes with scheduled messages: the index begins with the mailbox. */
  async #due(): Promise<number> {
    let most = 0;
    let after = "";
    for (let n = 0; n < MAILBOXES; n++) {
      const next = await nextScheduled(this.#knex, this.#dialect, this.#prefix, after);
      if (next === undefined) break;
      most = Math.max(most, next.overdueMs);
      after = next.agentId;
    }
    return most;
  }
}
