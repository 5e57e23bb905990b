import type {
  Bucket,
  Change,
  Claim,
  Effect,
  Entry,
  FinalMessage,
  History,
  Hold,
  Limit,
  SentMessage,
  SettleKind,
} from "./types.ts";

const MAILBOX = "box";

/** The database's clock in a story: as far from the machine's as in life. */
const EPOCH = 1_800_000_000_000;

type Details = Partial<SentMessage> & { stored?: boolean[] };

/** Tells a history call by call, a millisecond each, so that a test can tell one that holds beside one that does not. */
export class Story {
  now = 0;
  readonly #entries: Entry[] = [];
  readonly #final: FinalMessage[] = [];
  readonly #journal: Change[] = [];
  readonly #effects: Effect[] = [];
  readonly #holds = new Map<number, Hold>();
  readonly #details = new Map<string, Details>();
  readonly #limits: Limit[] = [];
  readonly #buckets: Bucket[] = [];
  #ops = 0;

  history(): History {
    return {
      entries: this.#entries,
      final: this.#final,
      journal: this.#journal,
      effects: this.#effects,
      limits: this.#limits,
      buckets: this.#buckets,
    };
  }

  passes(ms: number): this {
    this.now += ms;
    return this;
  }

  limit(limit: Limit): this {
    this.#limits.push(limit);
    return this;
  }

  bucket(bucket: Bucket): this {
    this.#buckets.push(bucket);
    return this;
  }

  sends(
    ids: readonly string[],
    fate: "sent" | "not_sent" | "unknown" = "sent",
    more: Details = {},
  ) {
    const op = this.#op();
    const messages = ids.map((messageId) => {
      this.#details.set(messageId, more);
      const { stored: _, ...fields } = more;
      return { messageId, toAgent: [MAILBOX], messageType: "NOTE", ...fields };
    });
    this.#entries.push({ e: "send", at: this.#tick(), op, messages });
    const at = this.#tick();
    if (fate === "sent")
      this.#entries.push({ e: "sent", at, op, stored: more.stored ?? ids.map(() => true) });
    else if (fate === "not_sent") this.#entries.push({ e: "not_sent", at, op });
    else this.#entries.push({ e: "unknown", at, op, error: "the connection broke" });
    return this;
  }

  claims(seq: number, receipt: number, more: Partial<Claim> & { leaseMs?: number } = {}): this {
    const { leaseMs = 10_000, ...claim } = more;
    const op = this.#op();
    this.#entries.push({ e: "look", at: this.#tick(), op, mailbox: MAILBOX, leaseMs });
    const full = { ...this.#claim(seq, receipt, leaseMs), ...claim };
    this.#entries.push({ e: "claimed", at: this.#tick(), op, claims: [full] });
    return this;
  }

  begins(seq: number, receipt: number): this {
    const claim = this.#claim(seq, receipt, 10_000);
    this.#entries.push({ e: "begin", at: this.#tick(), op: this.#op(), claim });
    return this;
  }

  /** Without an outcome: its answer was lost. */
  settles(
    kind: SettleKind,
    seq: number,
    receipt: number,
    outcome?: string,
    leaseMs?: number,
  ): this {
    const op = this.#op();
    const claims = [{ seq, receipt }];
    this.#entries.push({ e: "settle", at: this.#tick(), op, kind, claims, leaseMs });
    const at = this.#tick();
    if (outcome !== undefined) this.#entries.push({ e: "settled", at, op, outcomes: [outcome] });
    return this;
  }

  acks(seq: number, receipt: number): this {
    return this.settles("ack", seq, receipt, "acked");
  }

  cancels(messageId: string): this {
    this.#entries.push({ e: "cancel", at: this.#tick(), op: this.#op(), messageId });
    return this;
  }

  effect(seq: number, receipt: number): this {
    this.#effects.push({ seq, receipt, messageId: `m${seq}`, mailbox: MAILBOX });
    return this;
  }

  ends(
    seq: number,
    place: "processed" | "cancelled" | "live" | "dead",
    more: Partial<FinalMessage> = {},
  ) {
    const archived = place === "processed" || place === "cancelled";
    this.#final.push({
      place: archived ? "archive" : place,
      seq,
      messageId: `m${seq}`,
      mailbox: MAILBOX,
      messageType: "NOTE",
      attempt: 1,
      maxAttempts: archived ? null : 3,
      receipt: archived ? null : 1,
      outcome: archived ? place : null,
      reason: place === "dead" ? "max_attempts" : null,
      redriven: archived ? null : 0,
      ...more,
    });
    return this;
  }

  /** Sent, claimed, acknowledged, archived. */
  lives(...seqs: number[]): this {
    for (const seq of seqs)
      this.sends([`m${seq}`])
        .claims(seq, 1)
        .acks(seq, 1)
        .ends(seq, "processed");
    return this;
  }

  /** A change that the database's journal has; null: the row went. */
  changes(seq: number, after: Partial<Hold> | null, more: Partial<Change> = {}): this {
    const before = this.#holds.get(seq) ?? null;
    const now = EPOCH + this.#tick();
    const base = before ?? { receipt: 0, worker: null, visibleAt: now, attempt: 0 };
    const hold = after === null ? null : { ...base, ...after };
    if (hold === null) this.#holds.delete(seq);
    else this.#holds.set(seq, hold);
    const {
      orderingKey = null,
      concurrencyKey = null,
      cost = 1,
    } = this.#details.get(`m${seq}`) ?? {};
    this.#journal.push({
      ...{ id: this.#journal.length + 1, now, seq, messageId: `m${seq}`, mailbox: MAILBOX },
      ...{
        messageType: "NOTE",
        orderingKey,
        concurrencyKey,
        cost,
        maxAttempts: 3,
        expiresAt: null,
      },
      ...{ before, after: hold },
      ...more,
    });
    return this;
  }

  /** In the journal: leased for so long. */
  leases(seq: number, receipt: number, ms: number, more: Partial<Change> = {}): this {
    const visibleAt = EPOCH + this.now + 1 + ms;
    return this.changes(seq, { receipt, worker: "w", visibleAt, attempt: receipt }, more);
  }

  #claim(seq: number, receipt: number, leaseMs: number): Claim {
    return {
      ...{ seq, receipt, messageId: `m${seq}`, mailbox: MAILBOX, attempt: 1, maxAttempts: 3 },
      ...{ leaseExpiresAt: EPOCH + this.now + leaseMs, expiresAt: null },
    };
  }

  #op(): string {
    return `client:${this.#ops++}`;
  }

  #tick(): number {
    return ++this.now;
  }
}

/** An instant of a story by its database's clock. */
export const instant = (at: number): number => EPOCH + at;
