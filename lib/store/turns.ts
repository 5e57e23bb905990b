import { bandOf, nextTurn, rankOfTurn, turnOfRank } from "../protocol/turns.ts";
import type { Db, Dialect, KeyRef, LockedKey } from "./dialect.ts";
import { nameOf } from "./keys.ts";
import { intOrNull, type Row } from "./sql.ts";

/** A message whose place is still to be decided. */
interface Placed {
  readonly to_agent: string;
  readonly priority: number;
  readonly context_id: string | null;
}

/** The key of a context's turns among messages of one priority. */
export function turnKey({ to_agent, priority, context_id }: Placed): KeyRef {
  return { to_agent, kind: `turn${priority}`, name: context_id ?? "" };
}

export function isTurn({ kind }: KeyRef): boolean {
  return kind.startsWith("turn");
}

/** The turns of contexts in mailboxes where these are fair. */
export class Turns {
  readonly #dialect: Dialect;
  readonly #messages: string;
  readonly #keys: string;

  constructor(dialect: Dialect, prefix: string) {
    this.#dialect = dialect;
    this.#messages = `${prefix}messages`;
    this.#keys = `${prefix}keys`;
  }

  /**
   * The ranks of messages, null where `fair` says that their mailbox takes no turns. The contexts' keys must be
   * locked; their last ranks are noted.
   */
  async give<P extends Placed>(
    trx: Db,
    rows: readonly P[],
    locked: readonly LockedKey[],
    fair: (row: P) => boolean,
  ): Promise<(number | null)[]> {
    const contexts = new Map(locked.filter(isTurn).map((key) => [nameOf(key), key]));
    if (contexts.size === 0) return rows.map(() => null);
    const last = new Map<string, number>();
    const bases = new Map<string, number>();
    const ranks: (number | null)[] = [];
    for (const row of rows) {
      const name = nameOf(turnKey(row));
      const context = fair(row) ? contexts.get(name) : undefined;
      if (context === undefined) {
        ranks.push(null);
        continue;
      }
      const band = `${row.priority}:${row.to_agent}`;
      const base = bases.get(band) ?? (await this.#base(trx, row));
      bases.set(band, base);
      const before = last.get(name) ?? context.last_rank;
      const turn = nextTurn(before === null ? null : turnOfRank(before), base);
      const rank = rankOfTurn(row.priority, turn);
      last.set(name, rank);
      ranks.push(rank);
    }
    for (const [name, last_rank] of last) {
      const { to_agent, kind, name: context } = contexts.get(name) as LockedKey;
      await trx(this.#keys).where({ to_agent, kind, name: context }).update({ last_rank });
    }
    return ranks;
  }

  /** The turn before the one that is being served: who waits for the first time begins with that one. */
  async #base(trx: Db, row: Placed): Promise<number> {
    const { to_agent } = row;
    const [from, to] = bandOf(row.priority);
    const head = (await trx(this.#messages)
      .where({ to_agent, lane: "" })
      // A literal, so that the index of the ready ones may be used.
      .whereRaw("state = 0 AND rank >= ? AND rank < ?", [from, to])
      .orderBy("rank")
      .first("rank")) as Row | undefined;
    if (head !== undefined) return turnOfRank(Number(head.rank)) - 1;
    // Nobody waits: all that were given out were served.
    const newest = (await trx(this.#keys)
      .where({ to_agent, kind: turnKey(row).kind })
      .max({ last: "last_rank" })
      .first()) as Row | undefined;
    const rank = intOrNull(newest?.last);
    return rank === null ? 0 : turnOfRank(rank);
  }

  /** Notes the last turns of contexts, by their key. */
  async note(trx: Db, ranks: readonly { key: KeyRef; last_rank: number }[]): Promise<void> {
    await this.#dialect.gates.lockKeys(
      trx,
      ranks.map(({ key }) => key),
      true,
    );
    for (const { key, last_rank } of ranks) {
      const { to_agent, kind, name } = key;
      await trx(this.#keys).where({ to_agent, kind, name }).update({ last_rank });
    }
  }
}
