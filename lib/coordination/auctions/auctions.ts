import { setTimeout as sleep } from "node:timers/promises";
import { AgentCommunicationError } from "../../errors.ts";
import { type Bid, type BidInput, bidSchema, type CallForBids } from "../../protocol/auctions.ts";
import { given, noMore } from "../../protocol/given.ts";
import { type FinishedTask, type Task, taskIdOf } from "../../protocol/tasks.ts";
import { MessageType } from "../../protocol/types.ts";
import { id, parse } from "../../protocol/validate.ts";
import type { TxOption } from "../../queue/claimed.ts";
import { afterCommit } from "../../store/after-commit.ts";
import type { AuctionStore } from "../../store/auctions.ts";
import type { Db } from "../../store/dialect.ts";
import { joined } from "../../store/identity.ts";
import type { SchemaCheck } from "../../store/migrate.ts";
import type { Assigner } from "../assigner.ts";
import {
  apart,
  isFault,
  type Parts,
  type SweepStep,
  type TaskFollower,
  TELLING,
  type Tx,
  tellTask,
} from "../parts.ts";
import { wantedOf } from "../submission.ts";
import { about, callOf, names, termsOf } from "./calls.ts";

/** `closed`: the time has passed, or it was awarded. `not_called`: this agent was not asked. */
export type BidOutcome = "accepted" | "declined" | "closed" | "not_called";

export interface BidOptions extends TxOption {
  /** Of the call that it answers. Default: the one under way. */
  round?: number | undefined;
}

/** What decides of an agent's call for bids: an amount, or null to decline. */
export type BidHook = (call: CallForBids) => number | null | Promise<number | null>;

/** An agent whose row another transaction holds may have the best bid: looked at again, that often. */
const TRIES = 5;
const PAUSE_MS = 20;
/** Agents that an award looks at. */
const MOST_ABLE = 500;
const PURGE_EVERY_MS = 600_000;

class Busy extends Error {}

/**
 * Contract net: a task is stored, agents that can do it are asked what they want for it, and the best bid gets it
 * when the time has passed or all have answered. Whatever goes wrong, it ends as a task like any other, for the
 * least loaded agent.
 */
export class Auctions implements SweepStep, TaskFollower {
  readonly #knex: Db;
  readonly #parts: Parts;
  readonly #schema: SchemaCheck;
  readonly #store: AuctionStore;
  readonly #assigner: Assigner;
  #purgeAt = 0;

  /** @internal Made by Coordination. */
  constructor(
    knex: Db,
    parts: Parts,
    schema: SchemaCheck,
    { store, assigner }: { store: AuctionStore; assigner: Assigner },
  ) {
    this.#knex = knex;
    this.#parts = parts;
    this.#schema = schema;
    this.#store = store;
    this.#assigner = assigner;
    parts.auctioned.push((trx, task) => this.#call(trx, task));
    parts.sweepSteps.push(this);
    parts.followers.push(this);
  }

  /**
   * What an agent wants for a task, or null when it declines. The last bid before the end counts. When all that were
   * asked have answered, the task is awarded in the same commit.
   *
   * @throws ValidationFailed, AgentCommunicationError UNKNOWN_TASK
   */
  async bid(
    taskId: string,
    agentId: string,
    bid: BidInput,
    options: BidOptions = {},
  ): Promise<BidOutcome> {
    const { tx, round, ...rest } = given(options);
    noMore(rest);
    const bidder = parse(id, agentId, "agentId");
    const task = taskIdOf(taskId);
    const { amount, note = null } = parse(bidSchema, bid, "bid");
    const db = joined(this.#knex, tx);
    await this.#schema.ensure(tx);
    return this.#parts.tasks.transaction(async (trx) => {
      // First, so that who bids and who awards take turns.
      const open = await this.#store.hold(trx, task);
      const found = await this.#parts.tasks.get(task, trx);
      if (found === undefined) {
        throw new AgentCommunicationError("UNKNOWN_TASK", `there is no task "${task}"`);
      }
      const current = found.assignment + 1;
      if (!open || (round !== undefined && round !== current)) return "closed";
      const key = { taskId: task, round: current, agentId: bidder };
      if (!(await this.#store.bid(trx, key, { amount, note }))) return "not_called";
      const bids = await this.#store.list(task, current, trx);
      if (bids.every(({ state }) => state !== "called")) await this.#awardNow(trx, task);
      return amount === null ? "declined" : "accepted";
    }, db);
  }

  /** Where the best bidder's row is another's for a moment, the next sweep awards: a worse bid must not win by that. */
  async #awardNow(trx: Tx, taskId: string): Promise<void> {
    try {
      await this.#award(trx, taskId, true);
    } catch (error) {
      if (!(error instanceof Busy)) throw error;
      await this.#store.endNow(trx, taskId);
    }
  }

  /** What was bid for a task, of all rounds; kept for a week. */
  async bids(taskId: string): Promise<Bid[]> {
    const task = taskIdOf(taskId);
    await this.#schema.ensure();
    return this.#store.list(task, null);
  }

  /** Asks agents that have room for it, in the commit that stores the task. */
  async #call(trx: Tx, task: Task): Promise<void> {
    const terms = termsOf(task);
    const { needs, cost } = wantedOf(task);
    const candidates = await this.#parts.matching.candidates(trx, needs, {
      limit: terms.maxBidders,
      cost,
      exclude: [task.supervisorId],
    });
    if (candidates.length < terms.minBids) {
      // Nobody, or too few, to ask: it is parked as any other.
      await this.#store.close(trx, task.taskId);
      afterCommit(trx, this.#parts.freed);
      return;
    }
    const round = task.assignment + 1;
    const agentIds = candidates.map(({ agentId }) => agentId);
    await this.#store.call(trx, task.taskId, round, agentIds);
    const content = callOf(task, round);
    await this.#parts.queue.sendMessages(
      agentIds.map((toAgent) => ({
        ...about(task),
        toAgent,
        messageType: MessageType.CALL_FOR_BIDS,
        content,
        expiresAt: task.auctionEndsAt ?? undefined,
      })),
      { tx: trx, flow: TELLING },
    );
  }

  /** Awards what is due. Any number of processes may do so at once: each auction is ended by one of them. */
  async sweep(): Promise<number> {
    let awarded = 0;
    for (const taskId of await this.#store.due()) {
      if (await apart(this.#parts, () => this.#awardDue(taskId))) awarded++;
    }
    if (performance.now() >= this.#purgeAt) {
      this.#purgeAt = performance.now() + PURGE_EVERY_MS;
      await this.#store.purge();
    }
    return awarded;
  }

  async #awardDue(taskId: string): Promise<boolean> {
    for (let left = TRIES; ; left--) {
      try {
        return await this.#parts.tasks.transaction((trx) => this.#award(trx, taskId, left > 1));
      } catch (error) {
        if (!(error instanceof Busy)) throw error;
        await sleep(Math.random() * PAUSE_MS);
      }
    }
  }

  /**
   * Ends the auction and gives the task to the best bid whose agent has room. False when somebody else ended it, or
   * there was no such bid: then it is parked as any other task.
   */
  async #award(trx: Tx, taskId: string, patient: boolean): Promise<boolean> {
    if (!(await this.#store.close(trx, taskId))) return false;
    const task = await this.#parts.tasks.get(taskId, trx);
    if (task === undefined) return false;
    const terms = termsOf(task);
    const round = task.assignment + 1;
    const bids = (await this.#store.list(taskId, round, trx)).filter(
      ({ state }) => state === "bid",
    );
    const winner =
      bids.length < terms.minBids ? undefined : await this.#best(trx, task, bids, patient);
    const losers = bids.filter((bid) => bid !== winner);
    if (winner === undefined) {
      tellTask(this.#parts, trx, "submitted", task, { reason: "no_usable_bid", bids: bids.length });
      afterCommit(trx, this.#parts.freed);
    } else await this.#store.mark(trx, taskId, round, [winner.agentId], "won");
    await this.#reject(trx, task, losers, winner === undefined ? "no_award" : "outbid");
    return winner !== undefined;
  }

  /** Nobody who bid for a task waits for it when it ends before its award. */
  async ended(trx: Tx, task: FinishedTask): Promise<void> {
    if (task.auctionEndsAt === null) return;
    const bids = await this.#store.list(task.taskId, task.assignment + 1, trx);
    const open = bids.filter(({ state }) => state === "bid");
    await this.#reject(trx, task, open, "task_ended");
  }

  async #reject(trx: Tx, task: Task, bids: readonly Bid[], reason: string): Promise<void> {
    if (bids.length === 0) return;
    const { taskId } = task;
    const round = bids[0]?.round ?? 0;
    await this.#store.mark(trx, taskId, round, names(bids), "lost");
    await this.#parts.queue.sendMessages(
      bids.map(({ agentId }) => ({
        ...about(task),
        toAgent: agentId,
        messageType: MessageType.BID_REJECTED,
        content: { task_id: taskId, round, reason },
      })),
      { tx: trx, flow: TELLING },
    );
  }

  async #best(
    trx: Tx,
    task: Task,
    bids: readonly Bid[],
    patient: boolean,
  ): Promise<Bid | undefined> {
    const { assignments } = this.#parts;
    const agents = await assignments.lockAgents(trx, names(bids));
    const loads = new Map(
      agents.map(({ agentId, used, maxConcurrentTasks }) => [agentId, used / maxConcurrentTasks]),
    );
    const sign = termsOf(task).lowest ? 1 : -1;
    const load = ({ agentId }: Bid) => loads.get(agentId) ?? 1;
    const able = await this.#able(trx, task);
    const sorted = bids
      .filter(able)
      .sort(
        (a, b) =>
          ((a.amount ?? 0) - (b.amount ?? 0)) * sign ||
          load(a) - load(b) ||
          (a.answeredAt ?? 0) - (b.answeredAt ?? 0),
      );
    for (const bid of sorted) {
      if (!loads.has(bid.agentId)) {
        // Its row is another's for a moment, or it takes no tasks any more. Only the first is worth a second look.
        if (patient) throw new Busy();
        continue;
      }
      if (await this.#assign(trx, task, bid.agentId)) return bid;
    }
    return undefined;
  }

  /** Who bid long ago may do less by now, or take no tasks. Where there are very many agents, nobody is asked. */
  async #able(trx: Tx, task: Task): Promise<(bid: Bid) => boolean> {
    const { needs, cost } = wantedOf(task);
    const limit = MOST_ABLE;
    const found = await this.#parts.matching.candidates(trx, needs, { limit, cost });
    const ids = new Set(found.map(({ agentId }) => agentId));
    return ({ agentId }) => found.length === limit || ids.has(agentId);
  }

  /** False where it has no room; also where its mailbox takes nothing now: the next best may get it. */
  async #assign(trx: Tx, task: Task, agentId: string): Promise<boolean> {
    try {
      // Of its own, so that only what it wrote is taken back.
      return await trx.transaction(
        async (tx) => (await this.#assigner.assignTo(tx, task, agentId)) !== undefined,
      );
    } catch (error) {
      if (!(error instanceof AgentCommunicationError) || isFault(error)) throw error;
      return false;
    }
  }
}
