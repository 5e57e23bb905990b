import type { Knex } from "knex";
import type { Dialect } from "./dialect.ts";
import { parseText } from "./rows.ts";
import { int, type Row, translated } from "./sql.ts";

/** Who claims from a mailbox, and what. */
export interface ConsumerKey {
  readonly agentId: string;
  readonly workerId: string;
  /** Null: every type. */
  readonly messageTypes: readonly string[] | null;
}

/** A consumer as it was seen last. */
export interface ConsumerRow extends ConsumerKey {
  /** By the database's clock, in milliseconds since the epoch. */
  readonly seenAt: number;
  /** How long ago that was. */
  readonly idleMs: number;
}

/** Who consumes which mailbox: told by the consumers themselves, from time to time. */
export class ConsumerStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #table: string;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#table = `${prefix}consumers`;
  }

  /**
   * Notes that consumers are there. Those of one id and the same types are one statement; two and more where the
   * guess whether all are `known` was wrong.
   */
  async note(consumers: readonly ConsumerKey[], known: boolean): Promise<void> {
    await translated(this.#dialect, async () => {
      for (const group of alike(consumers)) {
        if (known ? (await this.#update(group)) === group.length : await this.#insert(group))
          continue;
        for (const one of group) {
          if ((await this.#update([one])) > 0 || (await this.#insert([one]))) continue;
          await this.#update([one]);
        }
      }
    });
  }

  #values(messageTypes: ConsumerKey["messageTypes"]) {
    return {
      message_types: messageTypes === null ? null : JSON.stringify(messageTypes),
      seen_at: this.#knex.raw(this.#dialect.now),
    };
  }

  #update(group: readonly ConsumerKey[]): Promise<number> {
    const [{ workerId, messageTypes }] = group as [ConsumerKey];
    return this.#knex(this.#table)
      .where({ worker_id: workerId })
      .whereIn(
        "agent_id",
        group.map(({ agentId }) => agentId),
      )
      .update(this.#values(messageTypes));
  }

  /** Whether none of them was there. */
  async #insert(group: readonly ConsumerKey[]): Promise<boolean> {
    try {
      await this.#knex(this.#table).insert(
        group.map(({ agentId, workerId, messageTypes }) => ({
          ...{ agent_id: agentId, worker_id: workerId },
          ...this.#values(messageTypes),
        })),
      );
      return true;
    } catch (error) {
      if (this.#dialect.classify(error) !== "unique") throw error;
      return false;
    }
  }

  async remove(consumers: readonly Pick<ConsumerKey, "agentId" | "workerId">[]): Promise<void> {
    await translated(this.#dialect, async () => {
      for (const { agentId, workerId } of consumers) {
        await this.#knex(this.#table).where({ agent_id: agentId, worker_id: workerId }).del();
      }
    });
  }

  /** Those of one mailbox, or of all; who was seen last first, at most `limit`. */
  async list(agentId: string | null, limit: number): Promise<ConsumerRow[]> {
    return translated(this.#dialect, async () => {
      const found = this.#knex(this.#table)
        .select("agent_id", "worker_id", "message_types", "seen_at")
        .select(this.#knex.raw(`${this.#dialect.now} AS now`))
        .orderBy("seen_at", "desc")
        .limit(limit);
      if (agentId !== null) found.where({ agent_id: agentId });
      return ((await found) as Row[]).map((row) => ({
        agentId: String(row.agent_id),
        workerId: String(row.worker_id),
        messageTypes: parseText(row.message_types) as string[] | null,
        seenAt: int(row.seen_at),
        idleMs: Math.max(0, int(row.now) - int(row.seen_at)),
      }));
    });
  }
}

/** Consumers of the same id and types, together. */
function alike(consumers: readonly ConsumerKey[]): ConsumerKey[][] {
  const groups = new Map<string, ConsumerKey[]>();
  for (const consumer of consumers) {
    const key = JSON.stringify([consumer.workerId, consumer.messageTypes]);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [consumer]);
    else group.push(consumer);
  }
  return [...groups.values()];
}
