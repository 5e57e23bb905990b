import { randomBytes } from "node:crypto";
import type { Knex } from "knex";
import { messageIdOfKey } from "../protocol/claim-check.ts";
import { afterCommit } from "./after-commit.ts";
import type { Db, Dialect } from "./dialect.ts";
import { parseText } from "./rows.ts";
import { type Row, transaction, translated } from "./sql.ts";

/** Beside the keys of senders, which begin with another word. */
const OUTBOX = "claim-check:outbox";
const SWEEP = "claim-check:sweep";
const CENTURY_MS = 3_155_760_000_000;

/** SQL for the reference in a row, where its content lies in a claim-check store; else null. */
export const REF = "CASE WHEN content_encoding = 'ref' THEN content END AS content_ref";

/** What the tables know of contents in a claim-check store. */
export class PayloadStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #dedupe: string;
  readonly #tables: readonly string[];
  #outbox: string | undefined;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#dedupe = `${prefix}dedupe`;
    this.#tables = ["dead_letters", "messages", "archive"].map((name) => `${prefix}${name}`);
  }

  /**
   * The name under which these tables' contents lie in the store: random, made with the first one and kept in the
   * tables, so that no two databases ever sweep each other's.
   */
  async outbox(db: Db = this.#knex): Promise<string> {
    if (this.#outbox !== undefined) return this.#outbox;
    const made = randomBytes(8).toString("hex");
    const name = await translated(this.#dialect, async () => {
      const [row] = (await db(this.#dedupe)
        .select("message_id")
        .where({ dedupe_key: OUTBOX })) as Row[];
      if (row !== undefined) return String(row.message_id);
      return transaction(this.#dialect, db, async (trx) => {
        const key = { key: OUTBOX, message_id: made, window_ms: CENTURY_MS };
        const [held] = await this.#dialect.holdKeys(trx, [key]);
        return held?.message_id ?? made;
      });
    });
    // A transaction that made it may still be rolled back, and the name with it.
    afterCommit(db, () => {
      this.#outbox = name;
    });
    return name;
  }

  /** Which of these keys (at most 500) a row refers to. */
  async needed(keys: readonly string[]): Promise<Set<string>> {
    const found = await this.#refs(keys);
    // Where a statement sees no snapshot (SQL Server), a row that moves from one table to another while it runs may
    // be in neither: what was not found is looked for once more.
    const missing = keys.filter((key) => !found.has(key));
    for (const key of await this.#refs(missing)) found.add(key);
    return found;
  }

  async #refs(keys: readonly string[]): Promise<Set<string>> {
    const ids = [...new Set(keys.map((key) => messageIdOfKey(key) ?? ""))];
    if (ids.length === 0) return new Set();
    const [first, ...others] = this.#tables.map((table) =>
      this.#knex(table)
        .select("content")
        .whereIn("message_id", ids)
        .andWhere({ content_encoding: "ref" }),
    );
    const rows = await translated(
      this.#dialect,
      async () => (await first?.unionAll(others)) as unknown as Row[],
    );
    return new Set(rows.flatMap(({ content }) => refOf(content)));
  }

  /** True for one process in `everyMs`: the turn to sweep. */
  async takeTurn(everyMs: number): Promise<boolean> {
    return translated(this.#dialect, () =>
      transaction(this.#dialect, this.#knex, async (trx) => {
        const key = { key: SWEEP, message_id: "sweep", window_ms: everyMs };
        return (await this.#dialect.holdKeys(trx, [key])).length === 0;
      }),
    );
  }
}

/** The key in the content of a row whose encoding is 'ref'; nothing where there is none. */
export function refOf(content: unknown): string[] {
  try {
    const { ref } = (parseText(content) ?? {}) as { ref?: unknown };
    return typeof ref === "string" ? [ref] : [];
  } catch {
    return [];
  }
}
