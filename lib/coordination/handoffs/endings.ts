import type { FinishedTask } from "../../protocol/tasks.ts";
import { apart, type Parts, type SweepStep, type TaskFollower, type Tx } from "../parts.ts";
import { announce, dropOffer, GONE_ON, giveBack, type Moving } from "./moves.ts";

/** Bounds of one sweep: what is left over waits for the next one. */
const OVERDUE = 100;
const AGENTS = 20;
const OF_AGENT = 200;
const PAGE = 200;
const PURGED = 200;
const PURGE_EVERY_MS = 60_000;

/** Ends handoffs whose task has ended, in the transaction that ends it. */
export class HandoffFollower implements TaskFollower {
  readonly #moving: Moving;

  constructor(moving: Moving) {
    this.#moving = moving;
  }

  async ended(trx: Tx, task: FinishedTask): Promise<void> {
    const { parts, store } = this.#moving;
    for (const handoff of await store.liveOf(task.taskId, trx)) {
      if (handoff.state === "offered") {
        await dropOffer(
          this.#moving,
          trx,
          handoff,
          "withdrawn",
          `its task has ended: ${task.state}`,
        );
        continue;
      }
      const done = await store.move(trx, handoff.handoffId, "completed", { outcome: task.state });
      if (done !== undefined) await announce(parts, trx, done);
    }
  }
}

/**
 * What no message tells: offers that nobody accepted in time, and targets that were lost. Bounded, decided by
 * compare-and-set, in any number of processes at once.
 */
export class HandoffSweep implements SweepStep {
  readonly #moving: Moving;
  /** Where the next look at what is not over goes on: a hint, nothing depends on it. */
  #after = 0;
  #purgeAt = 0;

  constructor(moving: Moving) {
    this.#moving = moving;
  }

  get #parts(): Parts {
    return this.#moving.parts;
  }

  /** To be called before tasks are taken from lost agents: those of handoffs go back to who gave them. */
  async sweep(retentionMs: number | null): Promise<number> {
    const { store } = this.#moving;
    await this.#purge(retentionMs);
    const page = await store.liveAfter(this.#after, PAGE);
    const all = this.#after === 0 && page.length < PAGE;
    this.#after = page.length < PAGE ? 0 : (page.at(-1)?.seq ?? 0);
    if (all && page.length === 0) return 0;
    let returned = (await this.#overdue()) + (await this.#lostTargets());
    // Those that fell between: their target was marked as lost before, or their task has gone elsewhere.
    for (const handoffId of await store.strays(page.map(({ seq }) => seq))) {
      if (await this.#return(handoffId)) returned++;
    }
    return returned;
  }

  async #overdue(): Promise<number> {
    const { store } = this.#moving;
    let returned = 0;
    for (const offer of await store.overdue(OVERDUE)) {
      const dropped = await apart(this.#parts, () =>
        store.transaction((trx) =>
          dropOffer(this.#moving, trx, offer, "returned", "not accepted in time"),
        ),
      );
      if (dropped !== undefined) returned++;
    }
    return returned;
  }

  async #lostTargets(): Promise<number> {
    const { store } = this.#moving;
    let returned = 0;
    for (const agentId of await this.#parts.slots.gone(AGENTS)) {
      for (const { handoffId } of await store.takenBy(agentId, OF_AGENT)) {
        if (await this.#return(handoffId)) returned++;
      }
    }
    return returned;
  }

  async #return(handoffId: string): Promise<boolean> {
    const { store } = this.#moving;
    const returned = await apart(this.#parts, () =>
      store.transaction(async (trx) => {
        const handoff = await store.get(handoffId, trx);
        // It may have beaten meanwhile.
        if (handoff === undefined || (await store.strays([handoff.seq], trx)).length === 0) {
          return undefined;
        }
        const { to } = handoff;
        return handoff.state === "offered"
          ? dropOffer(this.#moving, trx, handoff, "withdrawn", GONE_ON)
          : giveBack(this.#moving, trx, handoff, `the agent "${to}" was lost`);
      }),
    );
    return returned !== undefined;
  }

  async #purge(retentionMs: number | null): Promise<void> {
    if (retentionMs === null || performance.now() < this.#purgeAt) return;
    // There may be more: the next sweep goes on.
    if ((await this.#moving.store.purge(retentionMs, PURGED)) === PURGED) return;
    this.#purgeAt = performance.now() + PURGE_EVERY_MS;
  }
}
