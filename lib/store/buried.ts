import type { Knex } from "knex";
import type { Dialect } from "./dialect.ts";
import { int, type Row, translated } from "./sql.ts";

/** A place in the order in which messages died. */
interface Place {
  readonly failedAt: number;
  readonly seq: number;
}

/** As much of a dead letter as tells whether it is worth a look. */
export interface BuriedRow extends Place {
  readonly messageId: string;
  readonly toAgent: string;
  readonly messageType: string;
  readonly reason: string;
  /** How often it was sent again before. */
  readonly redriven: number;
}

interface PageOptions {
  /** Where the last page ended; undefined: begin so many milliseconds ago. */
  readonly after: Place | undefined;
  readonly lookBackMs: number;
  /** What died within so many milliseconds is left for a later page: one that died before may not be committed. */
  readonly settledMs: number;
  readonly limit: number;
}

/** Dead letters of all mailboxes in the order of their deaths: what a page costs, the number of others changes not. */
export class BuriedStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #table: string;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#table = `${prefix}dead_letters`;
  }

  async page({ after, lookBackMs, settledMs, limit }: PageOptions): Promise<BuriedRow[]> {
    const { now } = this.#dialect;
    return translated(this.#dialect, async () => {
      const dead = this.#knex(this.#table)
        .select("seq", "failed_at", "message_id", "to_agent", "message_type", "reason", "redriven")
        .whereRaw(`failed_at < ${now} - CAST(? AS bigint)`, [settledMs])
        .orderBy(["failed_at", "seq"])
        .limit(limit);
      if (after === undefined) {
        dead.whereRaw(`failed_at >= ${now} - CAST(? AS bigint)`, [lookBackMs]);
      } else {
        const { failedAt, seq } = after;
        dead
          .where("failed_at", ">=", failedAt)
          .where((or) => or.where("failed_at", ">", failedAt).orWhere("seq", ">", seq));
      }
      return ((await dead) as Row[]).map((row) => ({
        failedAt: int(row.failed_at),
        seq: int(row.seq),
        messageId: String(row.message_id),
        toAgent: String(row.to_agent),
        messageType: String(row.message_type),
        reason: String(row.reason),
        redriven: int(row.redriven),
      }));
    });
  }

  /** Which of them have this field in their content; one whose content is packed may have. */
  async having(field: string, seqs: readonly number[]): Promise<Set<number>> {
    if (seqs.length === 0) return new Set();
    const has = `${this.#dialect.jsonText("content", field)} IS NOT NULL`;
    return translated(this.#dialect, async () => {
      const rows = (await this.#knex(this.#table)
        .select("seq")
        .whereIn("seq", [...seqs])
        .whereRaw(`(content_encoding IS NOT NULL OR ${has})`)) as Row[];
      return new Set(rows.map((row) => int(row.seq)));
    });
  }
}
