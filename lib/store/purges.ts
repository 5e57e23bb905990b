import type { Knex } from "knex";
import type { Dialect } from "./dialect.ts";
import { REF } from "./payloads.ts";
import type { Row } from "./sql.ts";
import { translated } from "./sql.ts";

/** What is kept for a time, and its age. */
const KEPT = {
  archive: { key: ["seq"], age: "finished_at" },
  dedupe: { key: ["dedupe_key"], age: "expires_at" },
  inbox: { key: ["consumer", "from_agent", "message_id"], age: "processed_at" },
  conversations: { key: ["context_id"], age: "updated_at" },
  consumers: { key: ["agent_id", "worker_id"], age: "seen_at" },
} as const;

export type Kept = keyof typeof KEPT;

/** Deletes what was kept long enough. Every step is bounded, and any number of processes may take it at once. */
export class PurgeStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #prefix: string;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#prefix = prefix;
  }

  /** Deletes at most `limit` rows older than `olderThanMs`, oldest first; tells `gone` of the large contents. */
  async purge(
    kept: Kept,
    olderThanMs: number,
    limit: number,
    gone?: (rows: Row[]) => void,
  ): Promise<number> {
    const { key, age } = KEPT[kept];
    const table = `${this.#prefix}${kept}`;
    const old = `${age} <= ${this.#dialect.now} - CAST(? AS bigint)`;
    return translated(this.#dialect, async () => {
      const found = (await this.#knex(table)
        .select(...key, ...(gone === undefined ? [] : [this.#knex.raw(REF)]))
        .whereRaw(old, [olderThanMs])
        .orderBy(age)
        .limit(limit)) as Row[];
      let deleted = 0;
      for (const { where, last } of groups(found, key)) {
        // The time is asked again: the row may have been written anew since.
        deleted += await this.#knex(table)
          .where(where)
          .whereIn(key.at(-1) as string, last)
          .whereRaw(old, [olderThanMs])
          .del();
      }
      if (found.length > 0) gone?.(found);
      return deleted;
    });
  }
}

/** Rows whose keys differ in the last column only: one statement deletes them. */
function groups(rows: readonly Row[], key: readonly string[]) {
  const found = new Map<string, { where: Record<string, string>; last: (string | number)[] }>();
  for (const row of rows) {
    const where = Object.fromEntries(key.slice(0, -1).map((name) => [name, String(row[name])]));
    const id = JSON.stringify(where);
    const group = found.get(id) ?? { where, last: [] };
    group.last.push(row[key.at(-1) as string] as string | number);
    found.set(id, group);
  }
  return found.values();
}
