import type { Knex } from "knex";

/** Tables whose instants only say until when something is kept or remembered: nothing happens then. */
const KEPT = [
  "archive",
  "dedupe",
  "inbox",
  "conversations",
  "consumers",
  "migrations",
  "dead_letters",
];

interface Column {
  readonly table: string;
  readonly column: string;
}

/** Finds the next instant at which something in the database falls due, whatever table it stands in. */
export class Instants {
  readonly #knex: Knex;
  readonly #prefix: string;
  #columns: Promise<Column[]> | undefined;

  constructor(knex: Knex, prefix: string) {
    this.#knex = knex;
    this.#prefix = prefix;
  }

  /** The first instant after `now` and up to `until` that stands anywhere; undefined when there is none. */
  async next(now: number, until: number, beating: readonly string[]): Promise<number | undefined> {
    this.#columns ??= this.#read();
    const looks = (await this.#columns).map(
      ({ table, column }) =>
        `SELECT MIN(${column}) AS at FROM ${table} WHERE ${column} > ${now} AND ${column} <= ${until}`,
    );
    // One that beats never falls silent.
    const silent = `heartbeat_at + stale_after_ms`;
    looks.push(
      `SELECT MIN(${silent}) AS at FROM ${this.#prefix}agents WHERE ${silent} > ${now} AND ${silent} <= ${until}
         AND lost_at IS NULL AND agent_id NOT IN (SELECT value FROM json_each(?))`,
    );
    const found = (await this.#knex.raw(
      `SELECT MIN(at) AS at FROM (${looks.join(" UNION ALL ")})`,
      [JSON.stringify(beating)],
    )) as { at: number | null }[];
    return found[0]?.at ?? undefined;
  }

  /** A text that differs whenever anything differs that a test could mean. */
  async fingerprint(): Promise<string> {
    this.#columns ??= this.#read();
    const tables = new Set((await this.#columns).map(({ table }) => table));
    const all: string[] = [];
    for (const table of tables) {
      const rows = (await this.#knex(table)) as Record<string, unknown>[];
      all.push(
        JSON.stringify(rows, (name, value: unknown) => (VOLATILE.has(name) ? undefined : value)),
      );
    }
    return all.join("\n");
  }

  async #read(): Promise<Column[]> {
    const columns = (await this.#knex.raw(
      `SELECT m.name AS "table", c.name AS "column" FROM sqlite_master m JOIN pragma_table_info(m.name) c
       WHERE m.type = 'table' AND c.name LIKE '%\\_at' ESCAPE '\\'`,
    )) as Column[];
    return columns.filter(
      ({ table }) =>
        table.startsWith(this.#prefix) && !KEPT.includes(table.slice(this.#prefix.length)),
    );
  }
}

const VOLATILE = new Set(["heartbeat_at", "seen_at", "updated_at", "last_assigned_at"]);
