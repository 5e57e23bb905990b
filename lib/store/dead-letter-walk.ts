import type { Knex } from "knex";
import type { Db, Dialect } from "./dialect.ts";
import { int, intOrNull, type Row } from "./sql.ts";

/** Which dead letters are meant; all conditions must hold. */
export interface DeadLetterFilter {
  readonly messageIds?: readonly string[] | undefined;
  readonly agentId?: string | undefined;
  readonly fromAgent?: string | undefined;
  readonly reason?: string | undefined;
  readonly messageType?: string | undefined;
  readonly fingerprint?: string | undefined;
  readonly errorCode?: string | undefined;
  readonly errorText?: string | undefined;
  readonly failedAfter?: number | undefined;
  readonly failedBefore?: number | undefined;
  readonly createdAfter?: number | undefined;
  readonly createdBefore?: number | undefined;
}

/** Rows that one statement reads at most to find those that match. */
const WINDOW = 1_000;

/** Rows that are counted at most: the cost of a count must not grow with the backlog. */
const COUNTED = 10_000;

/** A group of dead letters with one cause. */
export interface GroupRow extends Row {
  readonly mailboxes: { readonly agentId: string; readonly count: number }[];
}

/**
 * Finds dead letters in the order of their sequence. Each statement is bounded: the one condition that has an index
 * leads, and a window of it is read, so that a filter which hardly anything matches costs many small statements and
 * never a long one.
 */
export class DeadLetterWalk {
  readonly #dialect: Dialect;
  readonly #table: string;

  constructor(dialect: Dialect, table: string) {
    this.#dialect = dialect;
    this.#table = table;
  }

  /** The greatest sequence there is: what fails after a walk began is not part of it. */
  async end(db: Db): Promise<number> {
    const row = (await db(this.#table).max({ last: "seq" }).first()) as Row | undefined;
    return intOrNull(row?.last) ?? 0;
  }

  /** Sequences in steps of at most `step`, after `after` and up to `until`. */
  async *steps(
    db: Db,
    filter: DeadLetterFilter,
    range: { after: number; until: number; step: number },
  ): AsyncGenerator<number[]> {
    const { step, until } = range;
    // Where an index serves the whole filter, what it reads is what matches.
    const lead = leader(filter);
    const served = Object.entries(filter).every(
      ([key, value]) => key === lead || value === undefined,
    );
    let after = range.after;
    while (after < until) {
      const last = (served ? undefined : await this.#windowEnd(db, filter, after)) ?? until;
      while (after < last) {
        const found = (await this.#matching(db, filter)
          .select("seq")
          .where("seq", ">", after)
          .where("seq", "<=", Math.min(last, until))
          .orderBy("seq")
          .limit(step)) as Row[];
        const seqs = found.map((row) => int(row.seq));
        after = seqs.length < step ? last : (seqs.at(-1) as number);
        if (seqs.length > 0) yield seqs;
      }
    }
  }

  /** Where a window of the leading condition's rows ends; undefined when all the rest lies in it. */
  async #windowEnd(db: Db, filter: DeadLetterFilter, after: number): Promise<number | undefined> {
    const [row] = (await leading(db(this.#table), filter)
      .select("seq")
      .where("seq", ">", after)
      .orderBy("seq")
      .offset(WINDOW - 1)
      .limit(1)) as Row[];
    return row === undefined ? undefined : int(row.seq);
  }

  /** Those of one cause together, the greatest first, counted over the newest COUNTED of the leading condition. */
  async groups(
    db: Db,
    filter: DeadLetterFilter,
    limit: number,
  ): Promise<{ groups: GroupRow[]; capped: boolean }> {
    const [floor] = (await leading(db(this.#table), filter)
      .select("seq")
      .orderBy("seq", "desc")
      .offset(COUNTED)
      .limit(1)) as Row[];
    const matching = () =>
      this.#matching(db, filter).where("seq", ">", floor === undefined ? 0 : int(floor.seq));
    const grouped = matching()
      .select("fingerprint")
      .count({ total: "*" })
      .max({ newest: "seq" })
      .min({ earliest: "failed_at" })
      .max({ latest: "failed_at" })
      .groupBy("fingerprint")
      .orderBy([{ column: "total", order: "desc" }, { column: "fingerprint" }])
      .limit(limit);
    const rows = (await db
      .from(grouped.as("g"))
      .join({ d: this.#table }, "d.seq", "g.newest")
      .select("g.*", "d.message_id", "d.message_type", "d.reason", "d.last_error")
      .orderBy([{ column: "g.total", order: "desc" }, { column: "g.fingerprint" }])) as Row[];
    const mailboxes = await this.#mailboxes(db, matching, rows);
    return {
      groups: rows.map((row) => ({
        ...row,
        mailboxes: mailboxes
          .filter(({ fingerprint }) => fingerprint === row.fingerprint)
          .map((one) => ({ agentId: String(one.to_agent), count: int(one.total) })),
      })),
      capped: floor !== undefined,
    };
  }

  /** The five mailboxes that have most of each group. */
  async #mailboxes(
    db: Db,
    matching: () => Knex.QueryBuilder,
    groups: readonly Row[],
  ): Promise<Row[]> {
    if (groups.length === 0) return [];
    const counted = matching()
      .whereIn(
        "fingerprint",
        groups.map((row) => String(row.fingerprint)),
      )
      .select("fingerprint", "to_agent")
      .count({ total: "*" })
      .groupBy("fingerprint", "to_agent");
    const ranked = db
      .from(counted.as("c"))
      .select("c.*")
      .select(
        db.raw(
          "ROW_NUMBER() OVER (PARTITION BY c.fingerprint ORDER BY c.total DESC, c.to_agent) AS place",
        ),
      );
    return (await db.from(ranked.as("r")).where("r.place", "<=", 5).orderBy("r.place")) as Row[];
  }

  #matching(db: Db, filter: DeadLetterFilter): Knex.QueryBuilder {
    const builder = db(this.#table);
    if (filter.messageIds !== undefined) builder.whereIn("message_id", [...filter.messageIds]);
    const equal = {
      to_agent: filter.agentId,
      from_agent: filter.fromAgent,
      reason: filter.reason,
      message_type: filter.messageType,
      fingerprint: filter.fingerprint,
    };
    for (const [column, value] of Object.entries(equal)) {
      if (value !== undefined) builder.where(column, value);
    }
    if (filter.errorCode !== undefined) {
      builder.whereRaw(`${this.#dialect.jsonText("last_error", "code")} = ?`, [filter.errorCode]);
    }
    if (filter.errorText !== undefined) {
      const message = this.#dialect.jsonText("last_error", "message");
      // "Contains" without a LIKE: its wildcards and their escape differ between the databases.
      builder.whereRaw(`REPLACE(LOWER(${message}), LOWER(?), '') <> LOWER(${message})`, [
        filter.errorText,
      ]);
    }
    const { failedAfter, failedBefore, createdAfter, createdBefore } = filter;
    if (failedAfter !== undefined) builder.where("failed_at", ">=", failedAfter);
    if (failedBefore !== undefined) builder.where("failed_at", "<", failedBefore);
    if (createdAfter !== undefined) builder.where("created_at", ">=", createdAfter);
    if (createdBefore !== undefined) builder.where("created_at", "<", createdBefore);
    return builder;
  }
}

const LEADERS = {
  messageIds: "message_id",
  fingerprint: "fingerprint",
  agentId: "to_agent",
} as const;

/** The narrowest condition that an index with the sequence serves. */
function leader(filter: DeadLetterFilter): keyof typeof LEADERS | undefined {
  return (["messageIds", "fingerprint", "agentId"] as const).find(
    (key) => filter[key] !== undefined,
  );
}

function leading(builder: Knex.QueryBuilder, filter: DeadLetterFilter): Knex.QueryBuilder {
  const lead = leader(filter);
  if (lead === undefined) return builder;
  const value = filter[lead];
  return builder.whereIn(LEADERS[lead], typeof value === "string" ? [value] : [...(value ?? [])]);
}
