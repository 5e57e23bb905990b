import type { Knex } from "knex";
import type { Db, Dialect, KeyRef, LockedKey } from "./dialect.ts";
import { int, type Row, transaction, translated } from "./sql.ts";

/** What a message waits with, where it bears an ordering or a concurrency key. */
export interface Keyed {
  readonly toAgent: string;
  readonly orderingKey?: string | null | undefined;
  readonly concurrencyKey?: string | null | undefined;
}

export function keyOf({ toAgent, orderingKey, concurrencyKey }: Keyed): KeyRef | undefined {
  if (orderingKey) return { to_agent: toAgent, kind: "order", name: orderingKey };
  if (concurrencyKey) return { to_agent: toAgent, kind: "share", name: concurrencyKey };
  return undefined;
}

export function keyOfRow(row: Row): KeyRef | undefined {
  return keyOf({
    toAgent: String(row.to_agent),
    orderingKey: row.ordering_key as string | null,
    concurrencyKey: row.concurrency_key as string | null,
  });
}

export function nameOf({ to_agent, kind, name }: KeyRef): string {
  return `${kind}:${to_agent.length}:${to_agent}:${name}`;
}

/** Each key once, in the one order in which everybody locks them. */
export function distinct(keys: Iterable<KeyRef | undefined>): KeyRef[] {
  const byName = new Map<string, KeyRef>();
  for (const key of keys) if (key !== undefined) byName.set(nameOf(key), key);
  return [...byName.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, key]) => key);
}

/** A key whose dead-lettered head nobody has decided about yet. */
export interface HaltedKey {
  readonly agentId: string;
  readonly orderingKey: string;
  readonly haltedAt: number;
  /** The sequence of the dead letter. */
  readonly sequence: number;
}

/** Ordering keys that a dead letter has halted. */
export class KeyStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #table: string;
  readonly #mailboxes: string;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#table = `${prefix}keys`;
    this.#mailboxes = `${prefix}mailboxes`;
  }

  /** Within the transaction that buries these heads: halts the keys of mailboxes that want it. */
  async halt(trx: Db, heads: readonly { key: KeyRef; seq: number }[]): Promise<void> {
    const agents = [...new Set(heads.map(({ key }) => key.to_agent))];
    const halting = new Set<unknown>();
    for (let n = 0; n < agents.length; n += 500) {
      const rows = (await trx(this.#mailboxes)
        .select("agent_id")
        .whereIn("agent_id", agents.slice(n, n + 500))
        .where("on_dead_letter", "halt")) as Row[];
      for (const row of rows) halting.add(row.agent_id);
    }
    for (const { key, seq } of heads) {
      if (key.kind !== "order" || !halting.has(key.to_agent)) continue;
      await trx(this.#table)
        .where(only(key))
        .update({ halted_by: seq, halted_at: trx.raw(this.#dialect.now) });
    }
  }

  async halted(agentId: string | null, limit: number): Promise<HaltedKey[]> {
    return translated(this.#dialect, async () => {
      const query = this.#knex(this.#table).whereNotNull("halted_by").limit(limit);
      if (agentId !== null) query.where("to_agent", agentId);
      const rows = (await query.orderBy(["to_agent", "name"])) as Row[];
      return rows.map((row) => ({
        agentId: String(row.to_agent),
        orderingKey: String(row.name),
        haltedAt: int(row.halted_at),
        sequence: int(row.halted_by),
      }));
    });
  }

  /** Goes on with the message after the dead one. False when the key was not halted. */
  async resume(db: Db, agentId: string, orderingKey: string): Promise<boolean> {
    const key: KeyRef = { to_agent: agentId, kind: "order", name: orderingKey };
    return translated(this.#dialect, () =>
      transaction(this.#dialect, db, async (trx) => {
        const [locked] = await this.#dialect.gates.lockKeys(trx, [key], true);
        await this.release(trx, key);
        await this.#dialect.gates.openKeys(trx, [key]);
        return locked?.halted_by !== null;
      }),
    );
  }

  /** Goes on with the keys that these dead letters halted: they are gone. */
  async free(trx: Db, seqs: readonly number[]): Promise<void> {
    const halted = (await trx(this.#table)
      .select("to_agent", "kind", "name")
      .whereIn("halted_by", [...seqs])) as Row[];
    if (halted.length === 0) return;
    const keys = distinct(halted.map((row) => row as unknown as KeyRef));
    const locked = await this.#dialect.gates.lockKeys(trx, keys, true);
    for (const key of locked) {
      if (key.halted_by !== null && seqs.includes(key.halted_by)) await this.release(trx, key);
    }
    await this.#dialect.gates.openKeys(trx, keys);
  }

  async release(trx: Db, key: KeyRef): Promise<void> {
    await trx(this.#table).where(only(key)).update({ halted_by: null, halted_at: null });
  }

  /** Where `row` is the dead letter that halts its key: the key, and it is to come back in its old place. */
  static halts(row: Row, locked: readonly LockedKey[]): LockedKey | undefined {
    return locked.find(
      (key) =>
        key.kind === "order" &&
        key.to_agent === row.to_agent &&
        key.name === row.ordering_key &&
        key.halted_by === int(row.seq),
    );
  }
}

function only({ to_agent, kind, name }: KeyRef): KeyRef {
  return { to_agent, kind, name };
}
