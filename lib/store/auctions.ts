import type { Knex } from "knex";
import type { Bid, BidState } from "../protocol/auctions.ts";
import type { Db, Dialect } from "./dialect.ts";
import { int, intOrNull, type Row, translated } from "./sql.ts";

/** How long bids are kept: for people who ask why, nothing depends on it. */
const KEPT_MS = 7 * 86_400_000;
const DUE = 50;
const PURGED = 50;

/** Auctions under way, which are columns of their tasks, and what was bid in them. */
export class AuctionStore {
  readonly #knex: Knex;
  readonly #dialect: Dialect;
  readonly #tasks: string;
  readonly #bids: string;

  constructor(knex: Knex, dialect: Dialect, prefix: string) {
    this.#knex = knex;
    this.#dialect = dialect;
    this.#tasks = `${prefix}tasks`;
    this.#bids = `${prefix}bids`;
  }

  /** Notes who was asked. */
  async call(trx: Db, taskId: string, round: number, agentIds: readonly string[]): Promise<void> {
    await translated(this.#dialect, () =>
      trx(this.#bids).insert(
        agentIds.map((agent_id) => ({
          task_id: taskId,
          round,
          agent_id,
          state: "called",
          called_at: trx.raw(this.#dialect.now),
        })),
      ),
    );
  }

  /** Auctions whose time has passed, of tasks that may be given away. */
  async due(): Promise<string[]> {
    return translated(this.#dialect, async () => {
      const rows = await this.#open(this.#knex)
        .whereRaw(`auction_ends_at <= ${this.#dialect.now} AND waits_for = 0 AND paused_at IS NULL`)
        .orderBy("auction_ends_at")
        .limit(DUE)
        .select("task_id");
      return (rows as Row[]).map((row) => String(row.task_id));
    });
  }

  /** Holds the auction until the transaction ends. False when its time has passed, or it was awarded. */
  async hold(trx: Db, taskId: string): Promise<boolean> {
    return translated(this.#dialect, async () => {
      const held = await this.#open(trx)
        .where({ task_id: taskId })
        .whereRaw(`auction_ends_at > ${this.#dialect.now}`)
        .update({ auction_ends_at: trx.raw("auction_ends_at") });
      return held > 0;
    });
  }

  /** Ends the auction: of all that want to award it, one gets true. */
  async close(trx: Db, taskId: string): Promise<boolean> {
    return translated(this.#dialect, async () => {
      const closed = await this.#open(trx)
        .where({ task_id: taskId })
        .whereRaw("waits_for = 0 AND paused_at IS NULL")
        .update({ auction_ends_at: null });
      return closed > 0;
    });
  }

  /** In the transaction that closed it: it is not awarded yet, but its time has passed. */
  async endNow(trx: Db, taskId: string): Promise<void> {
    await translated(this.#dialect, () =>
      trx(this.#tasks)
        .where({ task_id: taskId })
        .update({ auction_ends_at: trx.raw(this.#dialect.now) }),
    );
  }

  #open(db: Db): Knex.QueryBuilder {
    return db(this.#tasks).whereRaw(
      "auction_ends_at IS NOT NULL AND finished_at IS NULL AND agent_id IS NULL",
    );
  }

  /** While the auction is held. False when the agent was not asked. */
  async bid(
    trx: Db,
    key: { readonly taskId: string; readonly round: number; readonly agentId: string },
    { amount, note }: { readonly amount: number | null; readonly note: string | null },
  ): Promise<boolean> {
    return translated(this.#dialect, async () => {
      const noted = await trx(this.#bids)
        .where({ task_id: key.taskId, round: key.round, agent_id: key.agentId })
        .update({
          state: amount === null ? "declined" : "bid",
          amount,
          note,
          answered_at: trx.raw(this.#dialect.now),
        });
      return noted > 0;
    });
  }

  async mark(
    trx: Db,
    taskId: string,
    round: number,
    agentIds: readonly string[],
    state: BidState,
  ): Promise<void> {
    if (agentIds.length === 0) return;
    await translated(this.#dialect, () =>
      trx(this.#bids)
        .where({ task_id: taskId, round })
        .whereIn("agent_id", [...agentIds])
        .update({ state }),
    );
  }

  async list(taskId: string, round: number | null, db: Db = this.#knex): Promise<Bid[]> {
    return translated(this.#dialect, async () => {
      const bids = db(this.#bids).where({ task_id: taskId });
      if (round !== null) bids.where({ round });
      const rows = await bids.orderBy(["round", "agent_id"]).limit(1_000);
      return (rows as Row[]).map((row) => ({
        taskId: String(row.task_id),
        round: int(row.round),
        agentId: String(row.agent_id),
        state: row.state as BidState,
        amount: intOrNull(row.amount),
        note: (row.note as string | null) ?? null,
        calledAt: int(row.called_at),
        answeredAt: intOrNull(row.answered_at),
      }));
    });
  }

  /** Deletes the bids of up to 50 auctions that were called a week ago or earlier. */
  async purge(): Promise<void> {
    await translated(this.#dialect, async () => {
      const old = `called_at <= ${this.#dialect.now} - ${KEPT_MS}`;
      const rows = (await this.#knex(this.#bids)
        .whereRaw(old)
        .orderBy("called_at")
        .limit(PURGED)
        .select("task_id")) as Row[];
      const ids = [...new Set(rows.map((row) => String(row.task_id)))];
      if (ids.length > 0) await this.#knex(this.#bids).whereIn("task_id", ids).whereRaw(old).del();
    });
  }
}
