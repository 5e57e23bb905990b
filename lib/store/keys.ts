import type { Knex } from "knex";
import { nextTurn, rankOfTurn } from "../protocol/turns.ts";
import type { Db, Dialect, KeyRef, LockedKey, NewMessage } from "./dialect.ts";
import { int, intOrNull, type Row, transaction, translated } from "./sql.ts";

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

  /** Numbers messages with the turns of their contexts, whose keys are locked, and notes the last ones. */
  async giveTurns(
    trx: Db,
    rows: readonly NewMessage[],
    locked: readonly LockedKey[],
    contextOf: (row: NewMessage) => KeyRef | undefined,
  ): Promise<readonly NewMessage[]> {
    const contexts = locked.filter(({ kind }) => kind === "turn");
    if (contexts.length === 0) return rows;
    const last = new Map(contexts.map((key) => [nameOf(key), key.last_rank]));
    const agents = [...new Set(contexts.map(({ to_agent }) => to_agent))];
    const found = (await trx(this.#mailboxes)
      .select("agent_id", "virtual_time")
      .whereIn("agent_id", agents)) as Row[];
    const served = new Map(found.map((row) => [row.agent_id, intOrNull(row.virtual_time) ?? 0]));
    const ranked = rows.map((row) => {
      const context = contextOf(row);
      if (context === undefined) return row;
      const turn = nextTurn(last.get(nameOf(context)) ?? null, served.get(row.to_agent) ?? 0);
      last.set(nameOf(context), turn);
      return { ...row, rank: rankOfTurn(row.priority, turn) };
    });
    for (const key of contexts) {
      await trx(this.#table)
        .where(only(key))
        .update({ last_rank: last.get(nameOf(key)) ?? null });
    }
    return ranked;
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

  /**
   * Puts messages back into the live table, those of keys behind their keys' locks. One whose end halted its key
   * comes back in its old place, before all that waited for it.
   */
  async putBack(trx: Db, messages: string, rows: readonly Row[], step: number): Promise<void> {
    const keys = distinct(rows.map(keyOfRow));
    const locked = keys.length > 0 ? await this.#dialect.gates.lockKeys(trx, keys, true) : [];
    // In their order: that of arrival is the order of the sequence that they get.
    let plain: Row[] = [];
    const flush = async () => {
      if (plain.length > 0) await trx(messages).insert(plain.map(withoutSeq));
      plain = [];
    };
    for (const row of rows) {
      const key = keyOfRow(row);
      if (key === undefined) {
        if (plain.push(row) >= step) await flush();
        continue;
      }
      await flush();
      const scheduled = int(row.state) === 1 && key.kind === "share";
      const waiting = scheduled ? row : { ...row, state: 2, due_at: null };
      const halted = KeyStore.halts(row, locked);
      if (halted === undefined) await trx(messages).insert(withoutSeq(waiting));
      else {
        await this.#dialect.gates.insertInPlace(trx, messages, waiting);
        await this.release(trx, halted);
      }
    }
    await flush();
    if (keys.length === 0) return;
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

function withoutSeq({ seq: _, ...row }: Row): Row {
  return row;
}

function only({ to_agent, kind, name }: KeyRef): KeyRef {
  return { to_agent, kind, name };
}
