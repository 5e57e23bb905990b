import type { Db, Dialect } from "./dialect.ts";
import { distinct, KeyStore, keyOfRow } from "./keys.ts";
import { int, intOrNull, type Row } from "./sql.ts";
import { isTurn, Turns, turnKey } from "./turns.ts";

/** What a mailbox says about the place of a message. */
interface Settings {
  readonly agingMs: number | null;
  readonly fair: boolean;
}

const placed = (row: Row) => ({
  to_agent: String(row.to_agent),
  priority: int(row.priority),
  context_id: (row.context_id as string | null) ?? null,
});

/** Puts dead letters back into the live table, in their order, each in the place that its mailbox gives it. */
export class PutBack {
  readonly #dialect: Dialect;
  readonly #messages: string;
  readonly #mailboxes: string;
  readonly #keys: KeyStore;
  readonly #turns: Turns;

  constructor(keys: KeyStore, dialect: Dialect, prefix: string) {
    this.#dialect = dialect;
    this.#messages = `${prefix}messages`;
    this.#mailboxes = `${prefix}mailboxes`;
    this.#keys = keys;
    this.#turns = new Turns(dialect, prefix);
  }

  /**
   * Those of keys behind their keys' locks. One whose end halted its key comes back in its old place, before all
   * that waited for it.
   */
  async insert(trx: Db, given: readonly Row[], step: number): Promise<void> {
    const settings = await this.#settings(trx, given);
    const fair = (row: Row) => settings.get(row.to_agent)?.fair === true;
    const keys = distinct(
      given.flatMap((row) => [keyOfRow(row), fair(row) ? turnKey(placed(row)) : undefined]),
    );
    const locked = keys.length > 0 ? await this.#dialect.gates.lockKeys(trx, keys, true) : [];
    const turns = await this.#turns.give(trx, given.map(placed), locked, ({ to_agent }) =>
      fair({ to_agent }),
    );
    const rows = given.map((row, n) => ({
      ...row,
      rank: turns[n] ?? this.#rank(trx, row, settings.get(row.to_agent)?.agingMs ?? null),
    }));
    // In their order: that of arrival is the order of the sequence that they get.
    let plain: Row[] = [];
    const flush = async () => {
      if (plain.length > 0) await trx(this.#messages).insert(plain.map(withoutSeq));
      plain = [];
    };
    for (const row of rows) {
      const key = keyOfRow(row);
      if (key === undefined) {
        if (plain.push(row) >= step) await flush();
        continue;
      }
      await flush();
      const scheduled = int((row as Row).state) === 1 && key.kind === "share";
      const waiting: Row = scheduled ? row : { ...row, state: 2, due_at: null };
      const halted = KeyStore.halts(row, locked);
      if (halted === undefined) await trx(this.#messages).insert(withoutSeq(waiting));
      else {
        await this.#dialect.gates.insertInPlace(trx, this.#messages, waiting);
        await this.#keys.release(trx, halted);
      }
      if (scheduled) await this.#dialect.gates.noteShares(trx, this.#mailboxes, key.to_agent);
    }
    await flush();
    const waiting = keys.filter((key) => !isTurn(key));
    if (waiting.length > 0) await this.#dialect.gates.openKeys(trx, waiting);
  }

  #rank(trx: Db, row: Row, agingMs: number | null) {
    const priority = int(row.priority);
    if (agingMs === null) return 100 - priority;
    return trx.raw(`${this.#dialect.now} - CAST(? AS bigint)`, [
      Math.floor((priority * agingMs) / 10),
    ]);
  }

  async #settings(trx: Db, rows: readonly Row[]): Promise<Map<unknown, Settings>> {
    const agents = [...new Set(rows.map(({ to_agent }) => String(to_agent)))];
    const found = (await trx(this.#mailboxes)
      .select("agent_id", "aging_ms", "fair")
      .whereIn("agent_id", agents)) as Row[];
    return new Map(
      found.map(({ agent_id, aging_ms, fair }) => [
        agent_id,
        { agingMs: intOrNull(aging_ms), fair: intOrNull(fair) === 1 },
      ]),
    );
  }
}

function withoutSeq({ seq: _, ...row }: Row): Row {
  return row;
}
