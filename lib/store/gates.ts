import type { Knex } from "knex";
import type { ClaimedRow, Db, Dialect } from "./dialect.ts";
import { type Breaker, type Limit, limitOf, type Mailbox, mailboxOf } from "./gate-rows.ts";
import { parseText } from "./rows.ts";
import { int, type Row, readClock, retried, translated } from "./sql.ts";

/** The row that speaks for all mailboxes: no agent can have this id. */
export const EVERY_MAILBOX = "";

/** A message in flight under a limit, as its slot and the message itself tell. */
export interface Slot {
  readonly name: string;
  readonly seq: number;
  readonly receipt: number;
  readonly state: "live" | "lapsed" | "over";
}

/** One statement takes at most this many rows: three parameters each, of SQL Server's 2,100. */
const STEP = 500;

/** What mailboxes and limits are set to, and what goes through them. */
export class GateStore {
  readonly knex: Knex;
  readonly dialect: Dialect;
  readonly #messages: string;
  readonly #mailboxes: string;
  readonly #limits: string;
  readonly #slots: string;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.knex = knex;
    this.dialect = dialect;
    this.#messages = `${prefix}messages`;
    this.#mailboxes = `${prefix}mailboxes`;
    this.#limits = `${prefix}limits`;
    this.#slots = `${prefix}slots`;
  }

  /** Mailboxes with settings that senders or claims must know of. */
  async configured(db: Db): Promise<Mailbox[]> {
    const rows = (await db(this.#mailboxes)
      .whereNotNull("gated")
      .orWhereNotNull("aging_ms")
      .orWhereNotNull("fair")
      .orWhereNotNull("max_depth")
      .orWhereNotNull("topology")) as Row[];
    return rows.map((row) => mailboxOf(row, parseText));
  }

  async mailbox(db: Db, agentId: string): Promise<Mailbox | undefined> {
    const row = (await db(this.#mailboxes).where({ agent_id: agentId }).first()) as Row | undefined;
    return row === undefined ? undefined : mailboxOf(row, parseText);
  }

  async mailboxes(limit: number): Promise<Mailbox[]> {
    return translated(this.dialect, async () => {
      const rows = (await this.knex(this.#mailboxes)
        .whereNot({ agent_id: EVERY_MAILBOX })
        .orderBy("agent_id")
        .limit(limit)) as Row[];
      return rows.map((row) => mailboxOf(row, parseText));
    });
  }

  /** The row of a mailbox, locked until the transaction ends; undefined when nothing was ever set for it. */
  async lockMailbox(trx: Db, agentId: string): Promise<Mailbox | undefined> {
    const [row] = await this.dialect.gates.lockRows(trx, this.#mailboxes, {
      ...{
        where: (mailbox) => mailbox.where({ agent_id: agentId }),
        by: "agent_id",
        idle: "gated",
      },
    });
    return row === undefined ? undefined : mailboxOf(row, parseText);
  }

  async limits(db: Db): Promise<Limit[]> {
    return ((await db(this.#limits).orderBy("name")) as Row[]).map(limitOf);
  }

  /** The limits that are about a mailbox, or about all, locked in one order. */
  async lockLimits(trx: Db, agentId: string): Promise<Limit[]> {
    // Two statements, each by the index of the mailbox: no row of another mailbox is met, let alone waited for.
    const abouts: Knex.QueryCallback[] = [
      (about) => about.where({ agent_id: agentId }),
      (about) => about.whereNull("agent_id"),
    ];
    const limits: Limit[] = [];
    for (const where of abouts) {
      const order = { by: "name", idle: "tokens" };
      const rows = await this.dialect.gates.lockRows(trx, this.#limits, { where, ...order });
      limits.push(...rows.map(limitOf));
    }
    return limits;
  }

  async now(db: Db): Promise<number> {
    return readClock(db, this.dialect);
  }

  /** Who holds the slots of these names. */
  async slots(trx: Db, names: readonly string[], now: number): Promise<Slot[]> {
    if (names.length === 0) return [];
    const rows = (await trx(`${this.#slots} as s`)
      .leftJoin(`${this.#messages} as m`, "m.seq", "s.seq")
      .whereIn("s.name", [...names])
      .select(
        ...["s.name", "s.seq", "s.receipt", "m.worker_id", "m.visible_at"],
        "m.receipt as current",
      )) as Row[];
    return rows.map((row) => {
      const held =
        row.current !== null && int(row.current) === int(row.receipt) && row.worker_id !== null;
      const state = held ? (int(row.visible_at) > now ? "live" : "lapsed") : "over";
      return { name: String(row.name), seq: int(row.seq), receipt: int(row.receipt), state };
    });
  }

  /**
   * Ends a lease that has passed, so that its worker cannot make it longer once another took its slot. False when
   * it was made longer just now.
   */
  async voidLease(trx: Db, { seq, receipt }: Slot): Promise<boolean> {
    const ended = await trx(this.#messages)
      .where({ seq, receipt })
      .whereRaw(`visible_at <= ${this.dialect.now}`)
      .update({ receipt: receipt + 1 });
    if (ended > 0) return true;
    const row = (await trx(this.#messages).where({ seq, receipt }).first("seq")) as Row | undefined;
    return row === undefined;
  }

  async freeSlots(trx: Db, slots: readonly Slot[]): Promise<void> {
    for (const name of new Set(slots.map((slot) => slot.name))) {
      const some = slots.filter((slot) => slot.name === name);
      for (let n = 0; n < some.length; n += STEP) {
        await trx(this.#slots)
          .where({ name })
          .whereIn(
            "seq",
            some.slice(n, n + STEP).map(({ seq }) => seq),
          )
          .del();
      }
    }
  }

  async takeSlots(trx: Db, names: readonly string[], rows: readonly ClaimedRow[]): Promise<void> {
    const slots = names.flatMap((name) => rows.map(({ seq, receipt }) => ({ name, seq, receipt })));
    for (let n = 0; n < slots.length; n += STEP) {
      await trx(this.#slots).insert(slots.slice(n, n + STEP));
    }
  }

  async setTokens(trx: Db, name: string, tokens: number, now: number): Promise<void> {
    await trx(this.#limits).where({ name }).update({ tokens, refilled_at: now });
  }

  /** Nothing passes these limits before `until`; one that is parked for longer stays so. */
  async park(db: Db, names: readonly string[], forMs: number): Promise<void> {
    const until = `${this.dialect.now} + CAST(? AS bigint)`;
    // One by one, in the order in which claims lock them.
    for (const name of [...names].sort()) {
      await translated(this.dialect, () =>
        retried(this.dialect, async () =>
          db(this.#limits)
            .where({ name })
            .whereRaw(`(parked_until IS NULL OR parked_until < ${until})`, [forMs])
            .update({ parked_until: db.raw(until, [forMs]) }),
        ),
      );
    }
  }

  async setBreaker(trx: Db, agentId: string, breaker: Partial<Breaker>): Promise<void> {
    await trx(this.#mailboxes)
      .where({ agent_id: agentId })
      .update({
        ...(breaker.state === undefined ? {} : { breaker_state: breaker.state }),
        ...(breaker.failures === undefined ? {} : { breaker_failures: breaker.failures }),
        ...(breaker.since === undefined ? {} : { breaker_since: breaker.since }),
        ...(breaker.until === undefined ? {} : { breaker_until: breaker.until }),
      });
  }

  /** Puts messages into the lane of their type, so that claims that may not take them need not walk past them. */
  async moveToLane(trx: Db, lane: string, seqs: readonly number[]): Promise<void> {
    for (let n = 0; n < seqs.length; n += STEP) {
      await trx(this.#messages)
        .whereIn("seq", seqs.slice(n, n + STEP))
        .update({ lane });
    }
  }

  /** Due messages of concurrency keys, in bounded number: they wait for room once their key is locked. */
  async dueShares(trx: Db, agentId: string): Promise<{ seq: number; name: string }[]> {
    // Behind many due ones without a key, which claims make ready, they wait as those do: their index has no keys.
    const due = trx(this.#messages)
      .select("seq", "concurrency_key", "due_at")
      .where({ to_agent: agentId })
      .whereRaw(`state = 1 AND due_at <= ${this.dialect.now}`)
      .orderBy("due_at")
      .limit(2 * STEP)
      .as("x");
    const rows = (await trx
      .from(due)
      .select("seq", "concurrency_key")
      .whereNotNull("concurrency_key")
      .orderBy("due_at")
      .limit(STEP)) as Row[];
    return rows.map((row) => ({ seq: int(row.seq), name: String(row.concurrency_key) }));
  }

  async blockShares(trx: Db, seqs: readonly number[]): Promise<void> {
    await trx(this.#messages)
      .whereIn("seq", [...seqs])
      // Not state = 1: old statistics make PostgreSQL read the whole index of the scheduled ones for it.
      .whereRaw("state >= 1 AND state <= 1")
      .update({ state: 2, due_at: null });
  }
}
