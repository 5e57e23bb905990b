import { setTimeout as sleep } from "node:timers/promises";
import { given, noMore } from "../../protocol/given.ts";
import {
  acceptWaitMs,
  type Handoff,
  type HandoffInput,
  handoffIdOf,
  handoffListSchema,
  handoffNote,
  handoffReason,
  handoffSchema,
  type ListHandoffsOptions,
} from "../../protocol/handoffs.ts";
import { id, parse } from "../../protocol/validate.ts";
import type { TxOption } from "../../queue/claimed.ts";
import type { Worker } from "../../queue/worker/worker.ts";
import type { Db } from "../../store/dialect.ts";
import type { StoredHandoff } from "../../store/handoff-row.ts";
import type { HandoffStore } from "../../store/handoffs.ts";
import { joined } from "../../store/identity.ts";
import type { SchemaCheck } from "../../store/migrate.ts";
import type { Parts, Tx } from "../parts.ts";
import { HandoffFollower, HandoffSweep } from "./endings.ts";
import type { Gate } from "./gates.ts";
import { type HandoffHandler, type HandoffListenOptions, listen } from "./listen.ts";
import { find, lateError } from "./look-up.ts";
import { tellHandoff } from "./messages.ts";
import { announce, dropOffer, giveBack, type Moving, take } from "./moves.ts";
import { type InitiatedHandoff, Offering, type OfferOptions, shown } from "./offering.ts";

export interface AcceptOptions extends TxOption {
  /** For the giver; up to 1,024 characters. */
  note?: string | undefined;
  /** Waits this many milliseconds for room at the target, not with `tx`. Default 0: HANDOFF_NO_ROOM at once. */
  waitMs?: number | undefined;
}

export interface GiveBackOptions extends TxOption {
  /** Only where this agent is the one that may: for callers who act for an agent. Default: not compared. */
  agentId?: string | undefined;
}

/** Pauses between two looks for room, in milliseconds. */
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 500;

/**
 * Passes work from agent to agent: `offered → accepted → active → completed`, or back. Each step is one commit;
 * until somebody accepts, the work is the giver's, and nobody ever has it twice.
 */
export class Handoffs {
  readonly #knex: Db;
  readonly #parts: Parts;
  readonly #schema: SchemaCheck;
  readonly #store: HandoffStore;
  /** @internal */
  readonly moving: Moving;
  readonly #offering: Offering;

  /** @internal Made by Coordination. */
  constructor(
    knex: Db,
    parts: Parts,
    schema: SchemaCheck,
    store: HandoffStore,
    gates: readonly Gate[],
  ) {
    this.#knex = knex;
    this.#parts = parts;
    this.#schema = schema;
    this.#store = store;
    this.moving = { parts, store };
    this.#offering = new Offering(this.moving, gates);
    parts.followers.push(new HandoffFollower(this.moving));
    parts.sweepSteps.push(new HandoffSweep(this.moving));
  }

  /**
   * Offers work to another agent: checks the gates, stores the sheet, and sends AGENT_HANDOFF to the target, in one
   * commit. A task stays the giver's until the target accepts. What nobody accepts within `dueMs` goes back.
   *
   * @throws ValidationFailed, GateFailed, UnknownRecipient, AgentCommunicationError UNKNOWN_TASK,
   *   HANDOFF_NOT_OWNER when the giver does not have the task, HANDOFF_NO_TARGET when no agent can take it,
   *   HANDOFF_STATE when the task is offered already
   */
  async initiate(handoff: HandoffInput, options: TxOption = {}): Promise<InitiatedHandoff> {
    const tx = await this.#join(options);
    const draft = parse(handoffSchema, handoff, "handoff");
    return this.#store.transaction(
      (trx) => this.#offering.offer(trx, draft, { gates: [], detached: false }),
      tx ?? this.#knex,
    );
  }

  /** @internal As `initiate`, in the transaction that ends the giver's run. */
  async offer(trx: Tx, handoff: HandoffInput, options: OfferOptions): Promise<InitiatedHandoff> {
    return this.#offering.offer(trx, parse(handoffSchema, handoff, "handoff"), options);
  }

  /**
   * Takes over: the task's owner, its lease and the message move in one commit. What the giver still says of the
   * task changes nothing from then on. Accepting again what one has accepted returns it as it is.
   *
   * @throws AgentCommunicationError UNKNOWN_HANDOFF, HANDOFF_NOT_OWNER, HANDOFF_STATE when it is no longer offered,
   *   HANDOFF_NO_ROOM when the agent has no room for the task
   */
  async accept(handoffId: string, agentId: string, options: AcceptOptions = {}): Promise<Handoff> {
    const { note, waitMs, ...rest } = given(options);
    const said = parse(handoffNote, note, "options.note");
    const wait = parse(acceptWaitMs, waitMs, "options.waitMs");
    const tx = await this.#join(rest);
    const until = performance.now() + (tx === undefined ? wait : 0);
    for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(pause * 2, LONGEST_PAUSE_MS)) {
      try {
        return await this.#store.transaction(
          (trx) => this.#accept(trx, handoffId, agentId, said),
          tx ?? this.#knex,
        );
      } catch (error) {
        const left = until - performance.now();
        const { code } = error as { code?: unknown };
        if (code !== "HANDOFF_NO_ROOM" || left <= 0) throw error;
        await sleep(Math.min(pause, left));
      }
    }
  }

  async #accept(trx: Tx, handoffId: string, agentId: string, note?: string): Promise<Handoff> {
    const offer = await find(this.moving.store, trx, handoffId, agentId, "to");
    if (offer.state === "accepted" || offer.state === "active") return shown(offer);
    const taken = offer.state === "offered" ? await take(this.moving, trx, offer, note) : undefined;
    if (taken === undefined) throw await lateError(this.moving.store, trx, offer, "accepted");
    await announce(this.#parts, trx, taken);
    return shown(taken);
  }

  /**
   * Declines: the work stays the giver's, which is told why.
   *
   * @throws AgentCommunicationError UNKNOWN_HANDOFF, HANDOFF_NOT_OWNER, HANDOFF_STATE
   */
  async reject(
    handoffId: string,
    agentId: string,
    reason: string,
    options: TxOption = {},
  ): Promise<Handoff> {
    const why = parse(handoffReason, reason, "reason");
    return this.#decide(options, async (trx) => {
      const offer = await find(this.moving.store, trx, handoffId, agentId, "to");
      if (offer.state === "rejected") return offer;
      const dropped = await dropOffer(this.moving, trx, offer, "rejected", why);
      if (dropped === undefined) throw await lateError(this.moving.store, trx, offer, "rejected");
      return dropped;
    });
  }

  /**
   * Takes an offer back that nobody has accepted yet.
   *
   * @throws AgentCommunicationError UNKNOWN_HANDOFF, HANDOFF_NOT_OWNER, HANDOFF_STATE
   */
  async withdraw(
    handoffId: string,
    agentId: string,
    reason: string,
    options: TxOption = {},
  ): Promise<Handoff> {
    const why = parse(handoffReason, reason, "reason");
    return this.#decide(options, async (trx) => {
      const offer = await find(this.moving.store, trx, handoffId, agentId, "from");
      if (offer.state === "withdrawn") return offer;
      const dropped = await dropOffer(this.moving, trx, offer, "withdrawn", why);
      if (dropped === undefined) throw await lateError(this.moving.store, trx, offer, "withdrawn");
      return dropped;
    });
  }

  /**
   * The target has begun. A runner does it when the task's handler starts; others may, or complete at once.
   *
   * @throws AgentCommunicationError UNKNOWN_HANDOFF, HANDOFF_NOT_OWNER, HANDOFF_STATE
   */
  async activate(handoffId: string, agentId: string, options: TxOption = {}): Promise<Handoff> {
    return this.#decide(options, async (trx) => {
      const handoff = await find(this.moving.store, trx, handoffId, agentId, "to");
      if (handoff.state === "active") return handoff;
      const active = await this.#store.move(trx, handoff.handoffId, "active");
      if (active === undefined) throw await lateError(this.moving.store, trx, handoff, "active");
      tellHandoff(this.#parts, trx, active);
      return active;
    });
  }

  /** @internal As `activate`, where the task that it is about begins; nothing, where the handoff is over. */
  async begun(trx: Tx, handoffId: string): Promise<void> {
    const active = await this.#store.move(trx, handoffId, "active");
    if (active !== undefined) tellHandoff(this.#parts, trx, active);
  }

  /**
   * The target is done. The end of its task does it by itself; with a task that has not ended, only the handoff is
   * over, and the task stays the target's.
   *
   * @throws AgentCommunicationError UNKNOWN_HANDOFF, HANDOFF_NOT_OWNER, HANDOFF_STATE
   */
  async complete(
    handoffId: string,
    agentId: string,
    options: TxOption & { note?: string | undefined } = {},
  ): Promise<Handoff> {
    const { note, ...rest } = given(options);
    const said = parse(handoffNote, note, "options.note");
    return this.#decide(rest, async (trx) => {
      const handoff = await find(this.moving.store, trx, handoffId, agentId, "to");
      if (handoff.state === "completed") return handoff;
      const done = await this.#store.move(trx, handoff.handoffId, "completed", { note: said });
      if (done === undefined) throw await lateError(this.moving.store, trx, handoff, "completed");
      await announce(this.#parts, trx, done);
      return done;
    });
  }

  /**
   * Gives back what was accepted: the task goes to the giver in one commit, with the progress made; where the giver
   * has no room or is away, it is parked for any agent that can do it.
   *
   * @throws AgentCommunicationError UNKNOWN_HANDOFF, HANDOFF_NOT_OWNER, HANDOFF_STATE
   */
  async returnToSender(
    handoffId: string,
    reason: string,
    options: GiveBackOptions = {},
  ): Promise<Handoff> {
    const { agentId, ...rest } = given(options);
    const why = parse(handoffReason, reason, "reason");
    return this.#decide(rest, async (trx) => {
      const handoff = await find(this.moving.store, trx, handoffId, agentId, "to");
      if (handoff.state === "returned") return handoff;
      const returned =
        handoff.state === "offered"
          ? await dropOffer(this.moving, trx, handoff, "returned", why)
          : await giveBack(this.moving, trx, handoff, why);
      if (returned === undefined)
        throw await lateError(this.moving.store, trx, handoff, "returned");
      return returned;
    });
  }

  /** The handoff, or null. */
  async get(handoffId: string, options: TxOption = {}): Promise<Handoff | null> {
    const tx = await this.#join(options);
    const handoff = await this.#store.get(handoffIdOf(handoffId), tx ?? this.#knex);
    return handoff === undefined ? null : shown(handoff);
  }

  /** In the order in which they were offered, a page at a time. */
  async list(options: ListHandoffsOptions = {}): Promise<Handoff[]> {
    await this.#schema.ensure();
    return (await this.#store.list(parse(handoffListSchema, options, "options"))).map(shown);
  }

  /**
   * Calls `handler` with each handoff that is offered to the agent, until the worker is stopped. It takes only
   * AGENT_HANDOFF out of the agent's mailbox. What it neither accepts nor rejects goes back when its time is over;
   * where the agent has no room, it is asked again a little later.
   */
  on(agentId: string, handler: HandoffHandler, options: HandoffListenOptions = {}): Worker {
    return listen(this, this.#parts.queue, parse(id, agentId, "agentId"), handler, options);
  }

  async #decide(options: TxOption, run: (trx: Tx) => Promise<StoredHandoff>): Promise<Handoff> {
    const tx = await this.#join(options);
    return shown(await this.#store.transaction(run, tx ?? this.#knex));
  }

  async #join(options: TxOption): Promise<Tx | undefined> {
    const { tx, ...rest } = given(options);
    noMore(rest);
    await this.#schema.ensure(tx);
    return tx === undefined ? undefined : (joined(this.#knex, tx) as Tx);
  }
}
