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

  /** Notes that a consumer is there. One statement; two where the guess whether it is `known` was wrong. */
  async note({ agentId, workerId, messageTypes }: ConsumerKey, known: boolean): Promise<void> {
    const key = { agent_id: agentId, worker_id: workerId };
    const values = {
      message_types: messageTypes === null ? null : JSON.stringify(messageTypes),
      seen_at: this.#knex.raw(this.#dialect.now),
    };
    const update = () => this.#knex(this.#table).where(key).update(values);
    await translated(this.#dialect, async () => {
      if (known && (await update()) > 0) return;
      try {
        await this.#knex(this.#table).insert({ ...key, ...values });
      } catch (error) {
        if (this.#dialect.classify(error) !== "unique") throw error;
        await update();
      }
    });
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
