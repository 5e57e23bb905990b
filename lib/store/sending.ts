import type { EncodedMessage } from "../protocol/envelope.ts";
import type { BrakeReason } from "../protocol/loops.ts";
import { DedupeKeys } from "./dedupe.ts";
import type { Db, Dialect, KeyRef, NewMessage, WakeUp } from "./dialect.ts";
import { distinct, keyOfRow } from "./keys.ts";
import { isTransaction, retried, transaction, translated } from "./sql.ts";
import { type Brakes, type Stop, storeStopped } from "./stopped.ts";
import { Turns, turnKey } from "./turns.ts";

/** What became of one message of a batch. */
export interface Sent {
  readonly messageId: string;
  readonly duplicate: boolean;
  /** True where there was no room for it yet, in all mailboxes or some: it is scheduled there. */
  readonly spilled?: true;
  /** Why it was not delivered but stored as a dead letter: what it is part of does not end by itself. */
  readonly deadLettered?: BrakeReason;
}

/** Where messages go within their mailboxes, as far as the mailboxes' settings say. */
export interface Placing {
  laneOf(messageType: string, toAgent: string): string;
  agingMs(toAgent: string): number | null;
  /** Whether contexts take turns there. */
  fair(toAgent: string): boolean;
}

/** Whether there is room for messages, decided under the locks of what they are counted in. */
export interface Admission {
  keysOf(row: NewMessage): readonly KeyRef[];
  /** @throws QueueFull */
  admit(trx: Db, rows: readonly NewMessage[]): Promise<Admitted>;
}

export interface Admitted {
  /** As they are to be stored: what has no room yet is delayed. */
  readonly rows: readonly NewMessage[];
  /** The ids of those. */
  readonly spilled: ReadonlySet<string>;
  /** Writes down what is stored now. */
  stored(trx: Db): Promise<void>;
}

/** One statement takes at most this many messages; the rest follow in the same transaction. */
const BATCH = 1_000;

/** Stores messages, each in its place, behind whatever it waits for. */
export class Sending {
  readonly #dialect: Dialect;
  readonly #prefix: string;
  readonly #dedupe: DedupeKeys;
  readonly #turns: Turns;

  constructor(dialect: Dialect, prefix: string, ownIdWindowMs: number) {
    this.#dialect = dialect;
    this.#prefix = prefix;
    this.#dedupe = new DedupeKeys(dialect, prefix, ownIdWindowMs);
    this.#turns = new Turns(dialect, prefix);
  }

  /** Stores messages in order, all or none. One statement, where no message bears a key and all fit one batch. */
  async send(
    db: Db,
    messages: readonly EncodedMessage[],
    placing?: Placing,
    admission?: Admission,
    brakes?: Brakes,
    wakeUp?: WakeUp,
  ): Promise<Sent[]> {
    const plain = messages.every(
      (message) =>
        admission === undefined &&
        brakes === undefined &&
        !message.ownId &&
        message.dedupeKey === undefined &&
        message.orderingKey === undefined &&
        message.concurrencyKey === undefined &&
        (placing === undefined || !message.toAgent.some((agent) => placing.fair(agent))),
    );
    if (plain) {
      await translated(this.#dialect, () => this.#plain(db, messages, placing, wakeUp));
      return messages.map(({ messageId }) => ({ messageId, duplicate: false }));
    }
    return translated(this.#dialect, () =>
      undoable(this.#dialect, db, admission, async (trx) => {
        const duplicates = await this.#dedupe.duplicates(trx, messages);
        const fresh = messages.filter((message) => !duplicates.has(message));
        const stopped = (await brakes?.stop(trx, fresh)) ?? NONE_STOPPED;
        await storeStopped(
          this.#dialect,
          this.#prefix,
          trx,
          [...stopped].flatMap(([message, stop]) =>
            rowsOf([message], placing).map((row) => ({ row, stop })),
          ),
        );
        // Held until the transaction ends: the order of the sequence is the order in which senders commit.
        const rows = rowsOf(stopped.size === 0 ? fresh : fresh.filter(isNotIn(stopped)), placing);
        const fair = (row: NewMessage) => placing?.fair(row.to_agent) === true;
        const keys = distinct(
          rows.flatMap((row) => [
            ...[keyOfRow({ ...row }), fair(row) ? turnKey(row) : undefined],
            ...(admission?.keysOf(row) ?? []),
          ]),
        );
        const locked = keys.length > 0 ? await this.#dialect.gates.lockKeys(trx, keys, true) : [];
        const admitted = await admission?.admit(trx, rows);
        const placed = admitted?.rows ?? rows;
        const turns = await this.#turns.give(trx, placed, locked, fair);
        const ranked = placed.map((row, n) => ({ ...row, rank: turns[n] ?? row.rank }));
        for (let n = 0; n < ranked.length; n += BATCH) {
          await this.#insert(trx, ranked.slice(n, n + BATCH));
        }
        await admitted?.stored(trx);
        const waiting = keys.filter(({ kind }) => kind === "order" || kind === "share");
        if (waiting.length > 0) await this.#dialect.gates.openKeys(trx, waiting);
        return messages.map((message) => {
          const first = duplicates.get(message);
          if (first !== undefined) return { messageId: first, duplicate: true };
          const { messageId } = message;
          const spilled = admitted?.spilled.has(messageId) ?? false;
          const deadLettered = stopped.get(message)?.reason;
          return {
            ...{ messageId, duplicate: false },
            ...(spilled ? { spilled } : {}),
            ...(deadLettered === undefined ? {} : { deadLettered }),
          };
        });
      }),
    );
  }

  /** Messages that wait for nothing and are counted nowhere: never more rows in memory than one statement takes. */
  async #plain(
    db: Db,
    messages: readonly EncodedMessage[],
    placing?: Placing,
    wakeUp?: WakeUp,
  ): Promise<void> {
    const count = messages.reduce((rows, { toAgent }) => rows + toAgent.length, 0);
    if (count <= BATCH) {
      const rows = rowsOf(messages, placing);
      if (wakeUp !== undefined && (await this.#withWakeUp(db, rows, wakeUp))) return;
      return retriedUnlessIn(this.#dialect, db, () => this.#insert(db, rows));
    }
    await transaction(this.#dialect, db, async (trx) => {
      let rows: NewMessage[] = [];
      for (const message of messages) {
        rows.push(...rowsOf([message], placing));
        while (rows.length >= BATCH) {
          await this.#insert(trx, rows.slice(0, BATCH));
          rows = rows.slice(BATCH);
        }
      }
      await this.#insert(trx, rows);
    });
  }

  /** False where the server refused: then nothing was stored, and a wake-up must not keep a message from being so. */
  async #withWakeUp(db: Db, rows: readonly NewMessage[], wakeUp: WakeUp): Promise<boolean> {
    try {
      await this.#dialect.insertMessages(db, rows, wakeUp);
      return true;
    } catch (error) {
      if (this.#dialect.classify(error) === "connection") throw error;
      wakeUp.outcome = "refused";
      return false;
    }
  }

  async #insert(db: Db, rows: readonly NewMessage[]): Promise<void> {
    if (rows.length > 0) await this.#dialect.insertMessages(db, rows);
  }
}

/** A caller's transaction may go on after a refusal, which must leave nothing behind in it. */
function undoable<T>(
  dialect: Dialect,
  db: Db,
  admission: Admission | undefined,
  run: (trx: Db) => Promise<T>,
): Promise<T> {
  if (admission !== undefined && isTransaction(db)) return db.transaction(run);
  return transaction(dialect, db, run);
}

function retriedUnlessIn<T>(dialect: Dialect, db: Db, run: () => Promise<T>): Promise<T> {
  return isTransaction(db) ? run() : retried(dialect, run);
}

const NONE_STOPPED: ReadonlyMap<EncodedMessage, Stop> = new Map();

const isNotIn = (stopped: ReadonlyMap<EncodedMessage, Stop>) => (message: EncodedMessage) =>
  !stopped.has(message);

/** One row per message and recipient. */
function rowsOf(messages: readonly EncodedMessage[], placing: Placing | undefined): NewMessage[] {
  return messages.flatMap((message) =>
    message.toAgent.map((to_agent) => ({
      message_id: message.messageId,
      from_agent: message.fromAgent,
      to_agent,
      message_type: message.messageType,
      original_type: message.originalType,
      kind: message.kind,
      priority: message.priority,
      content: message.contentText,
      headers: message.headersText,
      correlation_id: message.correlationId ?? null,
      causation_id: message.causationId ?? null,
      reply_to: message.replyTo ?? null,
      context_id: message.contextId ?? null,
      task_id: message.taskId ?? null,
      subject: message.subject ?? null,
      ordering_key: message.orderingKey ?? null,
      concurrency_key: message.concurrencyKey ?? null,
      dedupe_key: message.dedupeKey ?? null,
      cost: message.cost ?? null,
      delivery: message.delivery ?? null,
      retry: message.retryText,
      hops: message.hops ?? null,
      trail: message.trail === undefined ? null : JSON.stringify(message.trail),
      content_encoding: message.contentEncoding ?? null,
      lane: placing?.laneOf(message.messageType, to_agent) || null,
      rank: null,
      aging_ms: placing?.agingMs(to_agent) ?? null,
      max_attempts: message.maxAttempts,
      delay_ms: message.delayMs ?? null,
      available_at: message.availableAt ?? null,
      ttl_ms: message.ttlMs ?? null,
      expires_at: message.expiresAt ?? null,
    })),
  );
}
