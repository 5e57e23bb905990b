import type { Head } from "../../protocol/envelope.ts";
import type { Maintenance } from "../../protocol/system.ts";
import type { Candidate, ClaimedRow, ClaimRequest, Db, KeyRef } from "../../store/dialect.ts";
import type { Breaker, Limit } from "../../store/gate-rows.ts";
import type { GateSettings } from "../../store/gate-settings.ts";
import { EVERY_MAILBOX, type GateStore, type Slot } from "../../store/gates.ts";
import { distinct, nameOf } from "../../store/keys.ts";
import { transaction, translated } from "../../store/sql.ts";
import { admit, breakerGate, type Gate, gateOf, laneShutUntil } from "./admission.ts";
import { probeOf } from "./breakers.ts";
import { KnownSettings } from "./known-settings.ts";

/** A claim that meets only messages which belong into another lane moves them there and looks again so often. */
const MOST_LOOKS = 5;
const MISPLACED_STEP = 500;

/** A gated claim, and when time alone will let more through: milliseconds from now. */
export interface GatedClaim {
  readonly rows: ClaimedRow[];
  readonly retryInMs: number | null;
}

/** What stands between ready messages and consumers: limits, rates, breakers, and the keys' promotions. */
export class Gates {
  readonly known: KnownSettings;
  readonly #store: GateStore;

  constructor(store: GateStore, settings: GateSettings) {
    this.#store = store;
    this.known = new KnownSettings(store, settings);
  }

  /** Lets due messages of concurrency keys wait for room, those whose keys nobody holds. */
  async promoteShares(agentId: string): Promise<void> {
    const store = this.#store;
    await translated(store.dialect, async () => {
      // Most looks find nothing: no transaction for them.
      if ((await store.dueShares(store.knex, agentId)).length === 0) return;
      await transaction(store.dialect, store.knex, (trx) => this.#promoteShares(trx, agentId));
    });
  }

  async #promoteShares(trx: Db, agentId: string): Promise<void> {
    const due = await this.#store.dueShares(trx, agentId);
    if (due.length === 0) return;
    const { gates } = this.#store.dialect;
    const keyOf = (name: string): KeyRef => ({ to_agent: agentId, kind: "share", name });
    const keys = distinct(due.map(({ name }) => keyOf(name)));
    const locked = await gates.lockKeys(trx, keys, false);
    const names = new Set(locked.map(nameOf));
    const ours = due.filter(({ name }) => names.has(nameOf(keyOf(name))));
    if (ours.length === 0) return;
    await this.#store.blockShares(
      trx,
      ours.map(({ seq }) => seq),
    );
    await gates.openKeys(trx, locked);
  }

  /** Claims what every limit, bucket and the breaker let through, all decided under their locks. */
  async claim(request: ClaimRequest): Promise<GatedClaim> {
    const { dialect, knex } = this.#store;
    return translated(dialect, async () => {
      // Idle pollers take no lock.
      if (!(await dialect.gates.anyReady(knex, request.agentId))) {
        return { rows: [], retryInMs: null };
      }
      return transaction(dialect, knex, (trx) => this.#claim(trx, request));
    });
  }

  async #claim(trx: Db, request: ClaimRequest): Promise<GatedClaim> {
    const store = this.#store;
    const { agentId } = request;
    const mailbox = await store.lockMailbox(trx, agentId);
    const limits = await store.lockLimits(trx, agentId);
    const now = await store.now(trx);
    if (mailbox?.pausedAt !== undefined && mailbox.pausedAt !== null) {
      return { rows: [], retryInMs: null };
    }
    await store.dialect.gates.promote(trx, agentId);
    await this.#promoteShares(trx, agentId);
    const held = (await store.mailbox(trx, EVERY_MAILBOX))?.held ?? null;
    const active = limits.filter(({ removedAt }) => removedAt === null);
    const before = await this.#gates(trx, agentId, active, mailbox?.breaker ?? null, now);
    const { taken, gates, retryAt } = await this.#admit(
      trx,
      { ...request, held },
      limits,
      before,
      now,
    );
    const retryInMs = retryAt === null ? null : Math.max(1, retryAt - now);
    if (taken.length === 0) return { rows: [], retryInMs };
    const rows = await store.dialect.gates.take(trx, {
      seqs: taken.map(({ seq }) => seq),
      leaseMs: request.leaseMs,
      workerId: request.workerId,
    });
    await this.#writeDown(trx, rows, gates, active, now);
    if (mailbox?.breaker?.state === "open" && rows.some(({ doom }) => doom === null)) {
      await store.setBreaker(trx, agentId, { state: "half_open" });
    }
    return { rows, retryInMs };
  }

  /** What each limit has left. Slots of messages that ended meanwhile are freed, and passed leases ended for good. */
  async #gates(
    trx: Db,
    agentId: string,
    limits: readonly Limit[],
    breaker: Breaker | null,
    now: number,
  ): Promise<Gate[]> {
    const names = limits
      .filter(({ maxInFlight }) => maxInFlight !== undefined)
      .map(({ name }) => name);
    if (breaker !== null && breaker.state !== "closed") names.push(probeOf(agentId));
    const slots = await this.#store.slots(trx, names, now);
    const over: Slot[] = [];
    const live = new Map<string, number>();
    for (const slot of slots) {
      const ended =
        slot.state === "over" ||
        (slot.state === "lapsed" && (await this.#store.voidLease(trx, slot)));
      if (ended) over.push(slot);
      else live.set(slot.name, (live.get(slot.name) ?? 0) + 1);
    }
    await this.#store.freeSlots(trx, over);
    const gates = limits.map((limit) => gateOf(limit, live.get(limit.name) ?? 0, now));
    if (breaker !== null) {
      const name = probeOf(agentId);
      gates.push(breakerGate(name, breaker, live.get(name) ?? 0, now));
    }
    return gates;
  }

  /** The lanes' heads together, in the mailbox's order, as far as the gates let them pass. */
  async #admit(
    trx: Db,
    request: ClaimRequest & { readonly held: Maintenance | null },
    limits: readonly Limit[],
    before: readonly Gate[],
    now: number,
  ): Promise<{ taken: Candidate[]; gates: Gate[]; retryAt: number | null }> {
    const types = new Set(limits.flatMap(({ messageType }) => messageType ?? []));
    let retryAt = Number.POSITIVE_INFINITY;
    for (let look = 1; ; look++) {
      // Each look decides anew: the one before only moved away what lay in the way.
      const gates = before.map((gate) => ({ ...gate }));
      const limit = look === 1 ? request.limit : MISPLACED_STEP;
      const found: Candidate[] = [];
      for (const lane of ["", ...types]) {
        const shut = laneShutUntil(gates, lane, now);
        if (shut !== undefined) retryAt = Math.min(retryAt, shut);
        else
          found.push(
            ...(await this.#store.dialect.gates.candidates(trx, { ...request, lane, limit })),
          );
      }
      found.sort((a, b) => a.rank - b.rank || a.seq - b.seq);
      const { taken, refused, retryAt: later } = admit(found, gates, request.limit, now);
      retryAt = Math.min(retryAt, later ?? Number.POSITIVE_INFINITY);
      const misplaced = refused.filter(
        ({ lane, message_type: type }) => lane !== type && types.has(type),
      );
      for (const type of new Set(misplaced.map(({ message_type }) => message_type))) {
        const seqs = misplaced
          .filter(({ message_type }) => message_type === type)
          .map(({ seq }) => seq);
        await this.#store.moveToLane(trx, type, seqs);
      }
      if (taken.length >= request.limit || misplaced.length === 0 || look >= MOST_LOOKS) {
        // There may be more of them before the first that may pass.
        const again = taken.length === 0 && misplaced.length > 0 ? now + 1 : retryAt;
        return { taken, gates, retryAt: Number.isFinite(again) ? again : null };
      }
    }
  }

  async #writeDown(
    trx: Db,
    rows: readonly ClaimedRow[],
    gates: readonly Gate[],
    limits: readonly Limit[],
    now: number,
  ): Promise<void> {
    const running = rows.filter(({ doom }) => doom === null);
    for (const gate of gates) {
      const through = running.filter(
        ({ message_type: type }) => gate.messageType === undefined || gate.messageType === type,
      );
      if (through.length === 0) continue;
      if (Number.isFinite(gate.room)) await this.#store.takeSlots(trx, [gate.name], through);
      const limit = limits.find(({ name }) => name === gate.name);
      if (limit !== undefined && gate.tokens !== undefined) {
        await this.#store.setTokens(trx, gate.name, gate.tokens, now);
      }
    }
  }

  /** Nothing of these passes the buckets that they passed, for so long: the destination said so. */
  async park(
    messages: readonly { toAgent: string; messageType: string }[],
    forMs: number,
    name?: string,
  ): Promise<void> {
    const { limits } = await this.known.all(this.#store.knex);
    const names = limits
      .filter((limit) => limit.rate !== undefined && limit.removedAt === null)
      .filter((limit) =>
        name === undefined
          ? messages.some((message) => concerns(limit, message))
          : limit.name === name,
      )
      .map((limit) => limit.name);
    await this.#store.park(this.#store.knex, names, forMs);
  }
}

/** Whether a limit is about a message. */
export function concerns(
  limit: Limit,
  { toAgent, messageType }: Pick<Head, "messageType"> & { toAgent: string },
): boolean {
  return (
    (limit.agentId === undefined || limit.agentId === toAgent) &&
    (limit.messageType === undefined || limit.messageType === messageType)
  );
}
