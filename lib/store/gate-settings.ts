import type { Knex } from "knex";
import { ValidationFailed } from "../errors.ts";
import type { LimitDefinition, MailboxChanges } from "../protocol/gates.ts";
import { retryDocument } from "../protocol/retry.ts";
import { nextTurn, rankOfTurn, turnOfRank } from "../protocol/turns.ts";
import type { Db, Dialect, KeyRef } from "./dialect.ts";
import { type Limit, limitOf, mailboxOf } from "./gate-rows.ts";
import { nameOf } from "./keys.ts";
import { parseText } from "./rows.ts";
import { int, intOrNull, type Row, transaction, translated } from "./sql.ts";
import { Turns, turnKey } from "./turns.ts";

/** One statement takes at most this many rows. */
const STEP = 500;
/** Three parameters a row, of SQL Server's 2,100. */
const RERANK_STEP = 300;

/** Changes what mailboxes and limits are set to, and brings what waits already into the new order. */
export class GateSettings {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #messages: string;
  readonly #mailboxes: string;
  readonly #limits: string;
  readonly #slots: string;
  readonly #keys: string;
  readonly #prefix: string;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#prefix = prefix;
    this.#dialect = dialect;
    this.#messages = `${prefix}messages`;
    this.#mailboxes = `${prefix}mailboxes`;
    this.#limits = `${prefix}limits`;
    this.#slots = `${prefix}slots`;
    this.#keys = `${prefix}keys`;
  }

  /** Notes that due messages of this mailbox's concurrency keys are to be promoted; a gate does so anyway. */
  async notePromoting(db: Db, agentId: string): Promise<void> {
    await translated(this.#dialect, () =>
      this.#dialect.gates.noteShares(db, this.#mailboxes, agentId),
    );
  }

  /** Changes what is given and leaves the rest; makes the row where there is none. */
  async change(db: Db, agentId: string, values: Record<string, unknown>): Promise<void> {
    const update = () => db(this.#mailboxes).where({ agent_id: agentId }).update(values);
    await translated(this.#dialect, async () => {
      if ((await update()) > 0) return;
      try {
        await db(this.#mailboxes).insert({ agent_id: agentId, ...values });
      } catch (error) {
        // Someone else made it between the two statements.
        if (this.#dialect.classify(error) !== "unique") throw error;
        await update();
      }
    });
  }

  /** The settings as columns. */
  static columns(changes: MailboxChanges): Record<string, unknown> {
    const { keyLimit, onDeadLetter, agingMs, fair, breaker, maxDepth, retryPolicy } = changes;
    return defined({
      key_limit: keyLimit,
      on_dead_letter: onDeadLetter,
      aging_ms: agingMs,
      fair: fair === undefined ? undefined : fair ? 1 : null,
      max_depth: maxDepth,
      retry:
        retryPolicy === undefined || retryPolicy === null
          ? retryPolicy
          : retryDocument({ policy: retryPolicy, fixed: false }),
      ...(breaker === undefined
        ? {}
        : {
            breaker_threshold: breaker?.failureThreshold ?? null,
            breaker_recovery_ms: breaker?.recoveryTimeoutMs ?? null,
            breaker_window_ms: breaker?.monitoringPeriodMs ?? null,
            breaker_when_open: breaker?.whenOpen ?? null,
            ...(breaker === null
              ? {
                  breaker_state: null,
                  breaker_failures: null,
                  breaker_since: null,
                  breaker_until: null,
                }
              : {}),
          }),
    });
  }

  /** Sets a limit; what its bucket holds and who is in flight stays. */
  async setLimit(trx: Db, name: string, limit: LimitDefinition): Promise<void> {
    const size = limit.rate === undefined ? null : (limit.rate.burst ?? limit.rate.amount);
    const values = {
      agent_id: limit.agentId ?? null,
      message_type: limit.messageType ?? null,
      max_in_flight: limit.maxInFlight ?? null,
      bucket_size: size,
      refill: limit.rate?.amount ?? null,
      refill_ms: limit.rate?.perMs ?? null,
      removed_at: null,
    };
    const [known] = (await trx(this.#limits).where({ name }).forUpdate()) as Row[];
    const before = known === undefined ? undefined : limitOf(known);
    const same = before !== undefined && sameScope(before, limit);
    if (before !== undefined && !same) {
      if (before.removedAt === null) {
        throw new ValidationFailed(`limit ${name}: it is about another mailbox or type`, {
          recoverySuggestion: "Give the new limit another name, or remove this one first.",
        });
      }
      // Its lane may have messages still: it goes on under a name of its own until that is empty.
      await trx(this.#limits)
        .where({ name })
        .update({ name: `${name.slice(0, 100)}:${before.removedAt}` });
    }
    if (limit.maxInFlight === undefined) await trx(this.#slots).where({ name }).del();
    if (same) await trx(this.#limits).where({ name }).update(values);
    else await trx(this.#limits).insert({ name, ...values });
    await this.#admitRunning(trx, name, limit);
  }

  async limit(db: Db, name: string, lock = false): Promise<Limit | undefined> {
    const found = db(this.#limits).where({ name });
    const [row] = (await (lock ? found.forUpdate() : found)) as Row[];
    return row === undefined ? undefined : limitOf(row);
  }

  /** From now on it limits nothing; its row stays until its lane is empty. */
  async removeLimit(trx: Db, name: string): Promise<boolean> {
    const removed = await trx(this.#limits)
      .where({ name })
      .whereNull("removed_at")
      .update({ removed_at: trx.raw(this.#dialect.now) });
    await trx(this.#slots).where({ name }).del();
    return removed > 0;
  }

  async forgetLimit(name: string): Promise<void> {
    await translated(this.#dialect, () =>
      this.#knex(this.#limits).where({ name }).whereNotNull("removed_at").del(),
    );
  }

  /**
   * From now on claims of this mailbox (of all: the empty id) go through its gate. Within the transaction that sets
   * what the gate is for, so that nobody opens it in between.
   */
  async gate(trx: Db, agentId: string): Promise<void> {
    const gated = await trx(this.#mailboxes).where({ agent_id: agentId }).update({ gated: 1 });
    // Someone else may make it at once: then the transaction is tried again.
    if (gated === 0) await trx(this.#mailboxes).insert({ agent_id: agentId, gated: 1 });
  }

  /** Through the gate or not, as its breaker, the limits about it and what is held back say. */
  async regate(agentId: string): Promise<void> {
    await translated(this.#dialect, () =>
      transaction(this.#dialect, this.#knex, async (trx) => {
        const [row] = (await trx(this.#mailboxes)
          .where({ agent_id: agentId })
          .forUpdate()) as Row[];
        if (row === undefined) return;
        const [limit] = (await trx(this.#limits)
          .select("name")
          .where(agentId === "" ? { agent_id: null } : { agent_id: agentId })
          .limit(1)) as Row[];
        const guarded =
          limit !== undefined ||
          intOrNull(row.breaker_threshold) !== null ||
          (row.held ?? null) !== null;
        // A mailbox that had a gate may have delayed messages of concurrency keys.
        const gated = guarded ? 1 : row.gated === null ? null : 0;
        await trx(this.#mailboxes).where({ agent_id: agentId }).update({ gated });
      }),
    );
  }

  /** Counts what is in flight already. Claims through the gate wait for this transaction, or it has waited for them. */
  async #admitRunning(
    trx: Db,
    name: string,
    { agentId, messageType, maxInFlight }: LimitDefinition,
  ): Promise<void> {
    if (maxInFlight === undefined) return;
    const current = (slot: string) =>
      trx(`${this.#messages} as m`).whereRaw(`${slot}.seq = m.seq AND ${slot}.receipt = m.receipt`);
    await trx(this.#slots)
      .where({ name })
      .whereNotExists(current(this.#slots).select("m.seq"))
      .del();
    // A literal, so that the index of the ready ones may be used.
    const running = trx(`${this.#messages} as m`)
      .whereRaw(`m.state = 0 AND m.worker_id IS NOT NULL AND m.visible_at > ${this.#dialect.now}`)
      .whereNotExists(
        trx(`${this.#slots} as s`).select("s.seq").where("s.name", name).whereRaw("s.seq = m.seq"),
      )
      .select("m.seq", "m.receipt");
    if (agentId !== undefined) running.where("m.to_agent", agentId);
    if (messageType !== undefined) running.where("m.message_type", messageType);
    const rows = (await running) as Row[];
    for (let n = 0; n < rows.length; n += STEP) {
      const slots = rows.slice(n, n + STEP).map((row) => ({
        ...{ name, seq: int(row.seq), receipt: int(row.receipt) },
      }));
      await trx(this.#slots).insert(slots);
    }
  }

  /** Brings what waits in a mailbox into the order of its settings, in bounded steps, oldest first. */
  async rerank(agentId: string): Promise<void> {
    await translated(this.#dialect, async () => {
      const [row] = (await this.#knex(this.#mailboxes).where({ agent_id: agentId })) as Row[];
      if (row === undefined) return;
      const { agingMs, fair } = mailboxOf(row, parseText);
      const last = new Map<string, { key: KeyRef; last_rank: number }>();
      const rankOf = (message: Row): number => {
        const priority = int(message.priority);
        if (!fair) {
          if (agingMs === null) return 100 - priority;
          return int(message.visible_at) - Math.floor((priority * agingMs) / 10);
        }
        const context_id = (message.context_id as string | null) ?? null;
        const key = turnKey({ to_agent: agentId, priority, context_id });
        const before = last.get(nameOf(key))?.last_rank;
        const turn = nextTurn(before === undefined ? null : turnOfRank(before), 0);
        const last_rank = rankOfTurn(priority, turn);
        last.set(nameOf(key), { key, last_rank });
        return last_rank;
      };
      for (let after = 0; ; ) {
        const ranks = await transaction(this.#dialect, this.#knex, (trx) =>
          this.#rerankStep(trx, agentId, after, rankOf),
        );
        const [seq] = ranks.at(-1) ?? [];
        if (seq === undefined) break;
        after = seq;
      }
      const noted = [...last.values()];
      for (let n = 0; n < noted.length; n += STEP) {
        const some = noted.slice(n, n + STEP);
        const turns = new Turns(this.#dialect, this.#prefix);
        await transaction(this.#dialect, this.#knex, (trx) => turns.note(trx, some));
      }
    });
  }

  async #rerankStep(
    trx: Db,
    agentId: string,
    after: number,
    rankOf: (message: Row) => number,
  ): Promise<(readonly [number, number])[]> {
    const rows = (await trx(this.#messages)
      .select("seq", "priority", "visible_at", "context_id")
      .where({ to_agent: agentId })
      .where("seq", ">", after)
      .orderBy("seq")
      .limit(RERANK_STEP)) as Row[];
    if (rows.length === 0) return [];
    const ranks = rows.map((message) => [int(message.seq), rankOf(message)] as const);
    const cases = ranks.map(() => "WHEN ? THEN CAST(? AS bigint)").join(" ");
    const seqs = ranks.map(([seq]) => seq);
    await trx(this.#messages)
      .whereIn("seq", seqs)
      .update({ rank: trx.raw(`CASE seq ${cases} END`, ranks.flat()) });
    return ranks;
  }

  /** Concurrency keys of a mailbox with messages, by name, in steps. */
  async shares(agentId: string, after: string): Promise<KeyRef[]> {
    return translated(this.#dialect, async () => {
      const rows = (await this.#knex(this.#keys)
        .select("name")
        .where({ to_agent: agentId, kind: "share" })
        .where("name", ">", after)
        .orderBy("name")
        .limit(200)) as Row[];
      return rows.map((row) => ({ to_agent: agentId, kind: "share", name: String(row.name) }));
    });
  }
}

/** Whether a limit is about what another is about. */
function sameScope(limit: LimitDefinition, other: LimitDefinition): boolean {
  return limit.agentId === other.agentId && limit.messageType === other.messageType;
}

function defined(values: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
}
