/** A queue as simple as can be: a list, and a clock that moves only when it is told. */

export interface ModelMessage {
  readonly id: string;
  readonly to: string;
  readonly priority: number;
  readonly maxAttempts: number;
  readonly orderingKey: string | undefined;
  readonly concurrencyKey: string | undefined;
  /** The place in the order of arrival; a redriven message arrives anew. */
  order: number;
  place: "live" | "processed" | "cancelled" | "dead";
  reason: string | null;
  availableAt: number;
  expiresAt: number | null;
  attempt: number;
  redriven: number;
  /** The claim that is valid, also after its lease has passed, until somebody else claims. */
  claim: ModelClaim | null;
}

export interface ModelClaim {
  readonly message: ModelMessage;
  /** How often the message had been redriven then. */
  readonly life: number;
  leaseEndsAt: number;
}

export interface ModelInput {
  readonly id: string;
  readonly ownId: boolean;
  readonly to: string;
  readonly priority: number;
  readonly delayMs: number;
  readonly ttlMs: number | null;
  readonly maxAttempts: number;
  readonly dedupeKey: string | undefined;
  readonly orderingKey: string | undefined;
  readonly concurrencyKey: string | undefined;
}

export class Model {
  now = 0;
  readonly messages: ModelMessage[] = [];
  readonly claims: ModelClaim[] = [];
  readonly paused = new Set<string>();
  readonly #dedupe = new Map<string, string>();
  readonly #limits: Readonly<Record<string, number>>;
  #orders = 0;

  /** `limits`: the most in flight at once, by mailbox. */
  constructor(limits: Readonly<Record<string, number>>) {
    this.#limits = limits;
  }

  /** Returns the id under which it is stored, and whether it was before. */
  send(input: ModelInput): { messageId: string; duplicate: boolean } {
    const idKey = input.ownId ? `id:${input.id}` : undefined;
    const before = idKey === undefined ? undefined : this.#dedupe.get(idKey);
    if (before !== undefined) return { messageId: before, duplicate: true };
    const key = input.dedupeKey === undefined ? undefined : `key:${input.to}:${input.dedupeKey}`;
    const first = key === undefined ? undefined : this.#dedupe.get(key);
    if (first !== undefined) return { messageId: first, duplicate: true };
    if (idKey !== undefined) this.#dedupe.set(idKey, input.id);
    if (key !== undefined) this.#dedupe.set(key, input.id);
    const { id, to, priority, maxAttempts, orderingKey, concurrencyKey, delayMs, ttlMs } = input;
    const availableAt = this.now + delayMs;
    this.messages.push({
      ...{ id, to, priority, maxAttempts, orderingKey, concurrencyKey, availableAt },
      ...{ order: ++this.#orders, place: "live", reason: null, attempt: 0, redriven: 0 },
      expiresAt: ttlMs === null ? null : availableAt + ttlMs,
      claim: null,
    });
    return { messageId: id, duplicate: false };
  }

  live(to: string): ModelMessage[] {
    return this.messages.filter((one) => one.place === "live" && one.to === to).sort(inOrder);
  }

  leased({ claim }: ModelMessage): boolean {
    return claim !== null && claim.leaseEndsAt > this.now;
  }

  /** Why it ends instead of being handed out. */
  doom({ expiresAt, attempt, maxAttempts }: ModelMessage): "expired" | "max_attempts" | null {
    if (expiresAt !== null && expiresAt <= this.now) return "expired";
    return attempt >= maxAttempts ? "max_attempts" : null;
  }

  /** Due, not leased, and no earlier message of its ordering key is there. Doomed ones among them. */
  candidates(to: string): ModelMessage[] {
    if (this.paused.has(to)) return [];
    const live = this.live(to);
    return live.filter(
      (one) =>
        !this.leased(one) &&
        one.availableAt <= this.now &&
        (one.orderingKey === undefined ||
          !live.some((other) => other.orderingKey === one.orderingKey && other.order < one.order)),
    );
  }

  /** How many more of a mailbox may be in flight. */
  room(to: string): number {
    const limit = this.#limits[to];
    if (limit === undefined) return Number.POSITIVE_INFINITY;
    return limit - this.live(to).filter((one) => this.leased(one)).length;
  }

  /** Whoever asks for messages under a limit ends the leases that have passed for good: their places are taken. */
  voidLapsed(to: string): void {
    if (this.#limits[to] === undefined || this.paused.has(to)) return;
    for (const message of this.live(to)) if (!this.leased(message)) message.claim = null;
  }

  claim(message: ModelMessage, leaseMs: number): ModelClaim {
    message.attempt++;
    message.claim = { message, life: message.redriven, leaseEndsAt: this.now + leaseMs };
    this.claims.push(message.claim);
    return message.claim;
  }

  /** Undefined: still valid. */
  lost(claim: ModelClaim): "stale" | "gone" | undefined {
    if (claim.message.claim === claim) return undefined;
    // A redriven message has a new place: to the claims of its former life it is gone.
    return claim.message.place === "live" && claim.message.redriven === claim.life
      ? "stale"
      : "gone";
  }

  end(message: ModelMessage, place: "processed" | "cancelled"): void {
    message.place = place;
    message.claim = null;
  }

  bury(message: ModelMessage, reason: string): void {
    Object.assign(message, { place: "dead", reason, claim: null });
  }

  giveBack(message: ModelMessage, delayMs: number, keepAttempt: boolean): void {
    message.claim = null;
    message.availableAt = this.now + delayMs;
    if (keepAttempt) message.attempt--;
  }

  dead(to: string): ModelMessage[] {
    return this.messages
      .filter((one) => one.place === "dead" && one.to === to)
      .sort((a, b) => a.order - b.order);
  }

  redrive(message: ModelMessage, delayMs: number): void {
    Object.assign(message, {
      ...{ place: "live", reason: null, attempt: 0, expiresAt: null, claim: null },
      ...{ order: ++this.#orders, redriven: message.redriven + 1 },
      availableAt: this.now + delayMs,
    });
  }
}

export function inOrder(a: ModelMessage, b: ModelMessage): number {
  return b.priority - a.priority || a.order - b.order;
}
