import { chargeSchema, type LimitInput, limitSchema, parkSchema } from "../../protocol/gates.ts";
import { id, parse } from "../../protocol/validate.ts";
import type { Limit } from "../../store/gate-rows.ts";
import { GateSettings } from "../../store/gate-settings.ts";
import { EVERY_MAILBOX, GateStore } from "../../store/gates.ts";
import { transaction, translated } from "../../store/sql.ts";
import type { QueueCore } from "../core.ts";
import { tokensAt } from "./admission.ts";

/** A limit as it stands now. Instants are milliseconds since the epoch, by the database's clock. */
export interface LimitInfo {
  readonly name: string;
  readonly agentId: string | null;
  readonly messageType: string | null;
  readonly maxInFlight: number | null;
  /** Messages in flight now; null where their number is not limited. */
  readonly inFlight: number | null;
  readonly rate: { amount: number; perMs: number; burst: number } | null;
  /** What the bucket holds now; below zero after a message that cost more than it can hold. */
  readonly tokens: number | null;
  /** Nothing passes before; null when it is not parked. */
  readonly parkedUntil: number | null;
}

/**
 * Limits by name: how many messages may be in flight and how many, or what sum of costs, may pass in a time; for one
 * mailbox, one type, or all together. Exact for all processes, and changed while they run.
 */
export class Limits {
  readonly #core: QueueCore;
  readonly #store: GateStore;
  readonly #settings: GateSettings;

  constructor(core: QueueCore) {
    this.#core = core;
    this.#store = new GateStore(core.knex, core.dialect, core.options.prefix);
    this.#settings = new GateSettings(core.knex, core.dialect, core.options.prefix);
  }

  /** Makes or changes a limit. What is in flight, and what the bucket holds, stays as it is. */
  async set(name: string, limit: LimitInput): Promise<LimitInfo> {
    const key = parse(id, name, "name");
    const checked = parse(limitSchema, limit, "limit");
    await this.#core.db();
    const { dialect, knex } = this.#core;
    await translated(dialect, () =>
      transaction(dialect, knex, async (trx) => {
        await this.#settings.gate(trx, checked.agentId ?? EVERY_MAILBOX);
        await this.#settings.setLimit(trx, key, checked);
      }),
    );
    this.#core.gates.known.forget();
    this.#wake(checked.agentId);
    return (await this.get(key)) as LimitInfo;
  }

  async get(name: string): Promise<LimitInfo | null> {
    const key = parse(id, name, "name");
    const db = await this.#core.db();
    return translated(this.#core.dialect, async () => {
      const limit = await this.#settings.limit(db, key);
      if (limit === undefined || limit.removedAt !== null) return null;
      const [info] = await this.#infos([limit]);
      return info ?? null;
    });
  }

  async list(): Promise<LimitInfo[]> {
    const db = await this.#core.db();
    return translated(this.#core.dialect, async () => {
      const limits = await this.#store.limits(db);
      return this.#infos(limits.filter(({ removedAt }) => removedAt === null));
    });
  }

  /** It limits nothing any more. False when there was none of this name. */
  async remove(name: string): Promise<boolean> {
    const key = parse(id, name, "name");
    await this.#core.db();
    const { dialect, knex } = this.#core;
    const limit = await translated(dialect, () => this.#settings.limit(knex, key));
    const removed = await translated(dialect, () =>
      transaction(dialect, knex, (trx) => this.#settings.removeLimit(trx, key)),
    );
    this.#core.gates.known.forget();
    this.#wake(limit?.agentId);
    return removed;
  }

  /**
   * Takes `cost` more from a bucket, or gives back where it is negative: what a call really took may be known only
   * afterwards. False when there is no such bucket.
   */
  async charge(name: string, cost: number): Promise<boolean> {
    const key = parse(id, name, "name");
    const amount = parse(chargeSchema, cost, "cost");
    await this.#core.db();
    const { dialect, knex } = this.#core;
    return translated(dialect, () =>
      transaction(dialect, knex, async (trx) => {
        const limit = await this.#settings.limit(trx, key, true);
        if (limit?.rate === undefined) return false;
        const now = await this.#store.now(trx);
        const size = limit.rate.burst ?? limit.rate.amount;
        const tokens = Math.min(size, (tokensAt(limit, now) ?? size) - amount);
        await this.#store.setTokens(trx, key, tokens, now);
        return true;
      }),
    );
  }

  /** Nothing passes for so many milliseconds: the other side said to wait. */
  async park(name: string, forMs: number): Promise<void> {
    const key = parse(id, name, "name");
    const duration = parse(parkSchema, forMs, "forMs");
    await this.#store.park(await this.#core.db(), [key], duration);
  }

  async #infos(limits: readonly Limit[]): Promise<LimitInfo[]> {
    const db = this.#core.knex;
    const now = await this.#store.now(db);
    const names = limits.filter(({ maxInFlight }) => maxInFlight).map(({ name }) => name);
    const slots = await this.#store.slots(db, names, now);
    return limits.map((limit) => ({
      name: limit.name,
      agentId: limit.agentId ?? null,
      messageType: limit.messageType ?? null,
      maxInFlight: limit.maxInFlight ?? null,
      inFlight:
        limit.maxInFlight === undefined
          ? null
          : slots.filter(({ name, state }) => name === limit.name && state === "live").length,
      rate:
        limit.rate === undefined
          ? null
          : { ...limit.rate, burst: limit.rate.burst ?? limit.rate.amount },
      tokens: tokensAt(limit, now) ?? null,
      parkedUntil: limit.parkedUntil !== null && limit.parkedUntil > now ? limit.parkedUntil : null,
    }));
  }

  #wake(agentId: string | undefined): void {
    if (agentId === undefined) this.#core.wakeHub.wakeAll();
    else this.#core.signal(new Set([agentId]));
  }
}
