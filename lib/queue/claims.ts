import type { MessageEventName } from "../protocol/events.ts";
import type { Burial, ClaimedRow, ClaimRequest } from "../store/dialect.ts";
import { EXPIRED_FINGERPRINT } from "../store/expired.ts";
import { keyOfRow } from "../store/keys.ts";
import { inOrder } from "../store/rows.ts";
import type { Turn } from "../store/settling.ts";
import type { QueueCore } from "./core.ts";
import { fieldsOf, messageEvent } from "./events.ts";
import { fingerprint } from "./retries/failure.ts";

/** A doomed message is buried and the claim repeated at most this often, so that a call always ends. */
const MOST_BURIALS = 20;
/** Rounds that also swept a backlog of expired messages out of the way count to this bound instead. */
const MOST_ROUNDS = 100;

/** A claim, and whom to tell when a limit holds something back that time alone will let through. */
export interface ClaimOptions extends ClaimRequest {
  readonly onHeldBack?: ((forMs: number) => void) | undefined;
}

/** Claims messages that may be handed out, and buries those that must not be. */
export class Claims {
  readonly #core: QueueCore;

  constructor(core: QueueCore) {
    this.#core = core;
  }

  async claim(options: ClaimOptions): Promise<ClaimedRow[]> {
    const core = this.#core;
    const { onHeldBack, ...request } = options;
    const claimed: ClaimedRow[] = [];
    let burials = 0;
    for (let round = 0; round < MOST_ROUNDS && burials < MOST_BURIALS; round++) {
      const limit = request.limit - claimed.length;
      const rows = limit > 0 ? await this.#ready({ ...request, limit }, onHeldBack) : [];
      const doomed = rows.filter((row) => row.doom !== null);
      const live = rows.filter((row) => row.doom === null);
      const fresh = await core.delivery.fresh(live);
      claimed.push(...fresh);
      // Where all that was left out is what was processed before, others may wait behind it.
      if (doomed.length === 0 && fresh.length === live.length) break;
      if (doomed.length > 0) await this.#bury(doomed);
      // More of them may lie before the first live one than a claim of a few would ever get through.
      const backlog = rows.length === limit && doomed.some(({ doom }) => doom === "expired");
      const swept = backlog ? await core.buryExpired(500).catch(() => 0) : 0;
      if (swept === 0) burials++;
    }
    // A later round may have met what became due, or was given back, meanwhile.
    claimed.sort(inOrder);
    if (!core.observers.active) return claimed;
    const at = Date.now();
    core.observers.emit(
      claimed.map((row) => messageEvent("received", fieldsOf(row), { at, attempt: row.attempt })),
    );
    return claimed;
  }

  async #ready(
    request: ClaimRequest,
    onHeldBack: ClaimOptions["onHeldBack"],
  ): Promise<ClaimedRow[]> {
    const { gates, store } = this.#core;
    const way = await gates.known.wayOf(request.agentId);
    if (way === "gated") {
      const { rows, retryInMs } = await gates.claim(request);
      if (retryInMs !== null) onHeldBack?.(retryInMs);
      return rows;
    }
    if (way === "promote") await gates.promoteShares(request.agentId);
    return store.claim(request);
  }

  async #bury(rows: readonly ClaimedRow[]): Promise<void> {
    const burials = rows.map(
      (row): Turn<Burial> => ({
        ...{ seq: row.seq, receipt: row.receipt, key: keyOfRow({ ...row }) },
        reason: String(row.doom),
        fingerprint:
          row.doom === "expired"
            ? EXPIRED_FINGERPRINT
            : fingerprint(row.message_type, String(row.doom), ""),
        // No error where the last run noted one: that says more than "the lease passed".
        error: null,
      }),
    );
    const outcomes = await this.#core.store.tryBury(this.#core.knex, burials);
    const at = Date.now();
    this.#core.observers.emit(
      rows
        .filter((_, n) => outcomes[n] === "done")
        .flatMap((row) => {
          const extra = { at, attempt: row.attempt, reason: String(row.doom) };
          const told: MessageEventName[] = row.doom === "expired" ? ["expired"] : [];
          return [...told, "dead_lettered" as const].map((event) =>
            messageEvent(event, fieldsOf(row), extra),
          );
        }),
    );
  }
}
