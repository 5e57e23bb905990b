import { CircuitOpen } from "../../errors.ts";
import type { Db } from "../../store/dialect.ts";
import type { Breaker } from "../../store/gate-rows.ts";
import type { GateStore } from "../../store/gates.ts";
import { transaction, translated } from "../../store/sql.ts";

/** The slot of the message that is let through to try whether a destination is back. */
export const probeOf = (agentId: string) => `breaker:${agentId}`;

/** Circuit breakers, one per mailbox that has one, shared by all processes. */
export class Breakers {
  readonly #store: GateStore;
  /** Whether the mailbox has a breaker, as of three seconds ago at most. */
  readonly #has: (agentId: string) => Promise<boolean>;

  constructor(store: GateStore, has: (agentId: string) => Promise<boolean>) {
    this.#store = store;
    this.#has = has;
  }

  /** Notes how runs ended. */
  async outcome(
    agentId: string,
    ends: readonly { sequence: number; receipt: number }[],
    failed: boolean,
  ): Promise<void> {
    if (!(await this.#has(agentId))) return;
    const store = this.#store;
    // A success says something only to a breaker that tries whether the destination is back.
    if (!failed) {
      const mailbox = await translated(store.dialect, () => store.mailbox(store.knex, agentId));
      if (mailbox?.breaker?.state === "closed") return;
    }
    await translated(store.dialect, () =>
      transaction(store.dialect, store.knex, (trx) => this.#note(trx, agentId, ends, failed)),
    );
  }

  async #note(
    trx: Db,
    agentId: string,
    ends: readonly { sequence: number; receipt: number }[],
    failed: boolean,
  ): Promise<void> {
    const store = this.#store;
    const breaker = (await store.lockMailbox(trx, agentId))?.breaker;
    if (breaker === null || breaker === undefined) return;
    const now = await store.now(trx);
    if (breaker.state === "closed") {
      if (failed) await store.setBreaker(trx, agentId, counted(breaker, ends.length, now));
      return;
    }
    // Only the one that was let through to try decides; earlier ones tell of the time before.
    const probes = await store.slots(trx, [probeOf(agentId)], now);
    const probe = probes.some((slot) =>
      ends.some(({ sequence, receipt }) => slot.seq === sequence && slot.receipt === receipt),
    );
    if (!probe) return;
    await store.freeSlots(trx, probes);
    await store.setBreaker(trx, agentId, failed ? opened(breaker, now) : CLOSED);
  }

  /** @throws CircuitOpen for a mailbox whose breaker is open and set to refuse sends. */
  async refuse(db: Db, agentId: string): Promise<void> {
    const store = this.#store;
    await translated(store.dialect, async () => {
      const breaker = (await store.mailbox(db, agentId))?.breaker;
      if (breaker?.whenOpen !== "fail" || breaker.state !== "open") return;
      const retryAfterMs = (breaker.until ?? 0) - (await store.now(db));
      if (retryAfterMs <= 0) return;
      throw new CircuitOpen(`the circuit breaker of mailbox ${agentId} is open`, {
        details: { agentId, retryAfterMs },
      });
    });
  }
}

const CLOSED: Partial<Breaker> = { state: "closed", failures: 0, since: null, until: null };

function opened(breaker: Breaker, now: number): Partial<Breaker> {
  return { state: "open", failures: 0, since: null, until: now + breaker.recoveryTimeoutMs };
}

/** Counts failures in the period that is under way, or begins with this one. */
function counted(breaker: Breaker, more: number, now: number): Partial<Breaker> {
  const running = breaker.since !== null && now - breaker.since <= breaker.monitoringPeriodMs;
  const count = (running ? breaker.failures : 0) + more;
  if (count >= breaker.failureThreshold) return opened(breaker, now);
  return { failures: count, since: running ? breaker.since : now };
}
