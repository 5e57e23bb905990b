import type { Knex } from "knex";
import type { Maintenance } from "../protocol/system.ts";
import type { Db, Dialect } from "./dialect.ts";
import { GateSettings } from "./gate-settings.ts";
import { EVERY_MAILBOX, GateStore } from "./gates.ts";
import { int, type Row, readClock, translated } from "./sql.ts";

/** What of the maintenance stands in the tables: what is held back everywhere, and which agents know. */
export class SystemStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #agents: string;
  readonly #acks: string;
  readonly #gates: GateStore;
  readonly #settings: GateSettings;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#agents = `${prefix}agents`;
    this.#acks = `${prefix}maintenance_acks`;
    this.#gates = new GateStore(knex, dialect, prefix);
    this.#settings = new GateSettings(knex, dialect, prefix);
  }

  async current(db: Db = this.#knex): Promise<Maintenance | null> {
    return translated(this.#dialect, async () => {
      return (await this.#gates.mailbox(db, EVERY_MAILBOX))?.held ?? null;
    });
  }

  /** Holds back from now on, unless somebody does already; returns what holds then, and whether it is this one. */
  async enter(
    trx: Db,
    wanted: Omit<Maintenance, "since">,
  ): Promise<{ held: Maintenance; entered: boolean }> {
    return translated(this.#dialect, async () => {
      // The row is made first, so that there is one to lock.
      await this.#settings.gate(trx, EVERY_MAILBOX);
      const before = (await this.#gates.lockMailbox(trx, EVERY_MAILBOX))?.held ?? null;
      if (before !== null) return { held: before, entered: false };
      const held = { ...wanted, since: await readClock(trx, this.#dialect) };
      await this.#settings.change(trx, EVERY_MAILBOX, { held: JSON.stringify(held) });
      return { held, entered: true };
    });
  }

  /** Holds nothing back any more; returns what it was, or null when nothing was held back. */
  async leave(trx: Db): Promise<Maintenance | null> {
    return translated(this.#dialect, async () => {
      const before = (await this.#gates.lockMailbox(trx, EVERY_MAILBOX))?.held ?? null;
      if (before === null) return null;
      await this.#settings.change(trx, EVERY_MAILBOX, { held: null });
      // What an earlier maintenance left, too.
      await trx(this.#acks).where("since", "<=", before.since).del();
      return before;
    });
  }

  /** Claims go through the gate of all mailboxes only as long as something else needs it. */
  async ungate(): Promise<void> {
    await this.#settings.regate(EVERY_MAILBOX);
  }

  /** Notes that an agent knows of the maintenance; once. */
  async acknowledge(db: Db, since: number, agentId: string): Promise<void> {
    await translated(this.#dialect, async () => {
      const ack = { since, agent_id: agentId };
      if ((await db(this.#acks).where(ack).first("agent_id")) !== undefined) return;
      try {
        await db(this.#acks).insert({ ...ack, acked_at: db.raw(this.#dialect.now) });
      } catch (error) {
        if (this.#dialect.classify(error) !== "unique") throw error;
      }
    });
  }

  /** Agents that are there, with whether they know; by id, at most `limit` of each. */
  async census(
    since: number,
    limit: number,
  ): Promise<{ known: Acknowledged[]; waiting: string[] }> {
    return translated(this.#dialect, async () => {
      const acks = (await this.#knex(this.#acks)
        .where({ since })
        .orderBy("agent_id")
        .limit(limit)) as Row[];
      const waiting = (await this.#knex({ a: this.#agents })
        .leftJoin({ k: this.#acks }, (on) =>
          on.on("k.agent_id", "a.agent_id").andOnVal("k.since", since),
        )
        .select("a.agent_id")
        .whereRaw("a.lost_at IS NULL AND a.status NOT IN ('offline', 'removed')")
        .whereNull("k.agent_id")
        .orderBy("a.agent_id")
        .limit(limit)) as Row[];
      return {
        known: acks.map((row) => ({
          agentId: String(row.agent_id),
          acknowledgedAt: int(row.acked_at),
        })),
        waiting: waiting.map((row) => String(row.agent_id)),
      };
    });
  }
}

export interface Acknowledged {
  readonly agentId: string;
  readonly acknowledgedAt: number;
}
