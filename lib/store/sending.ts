import { type EncodedMessage, type Head, headsOf } from "../protocol/envelope.ts";
import type { BrakeReason } from "../protocol/loops.ts";
import { DedupeKeys } from "./dedupe.ts";
import type { Db, Dialect, KeyRef, NewMessage, WakeUp } from "./dialect.ts";
import { distinct, keyOfRow } from "./keys.ts";
import { inColumns, type Placing, rowsOf } from "./message-rows.ts";
import { type PlainMessages, plainOf } from "./plain-messages.ts";
import { impatient, isTransaction, retried, transaction, translated } from "./sql.ts";
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

export interface SendWith {
  readonly placing?: Placing | undefined;
  readonly admission?: Admission | undefined;
  readonly brakes?: Brakes | undefined;
  readonly wakeUp?: WakeUp | undefined;
  /** They are of callers who know nothing of each other: none is to wait for a key of another's. */
  readonly apart?: boolean;
}

/**
 * What one statement takes at most, but for a row that is more by itself; the rest follow in the same transaction.
 * SQLite takes a billion bytes, and memory is dear.
 */
export const BATCH = { rows: 1_000, characters: 16_000_000 };

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

  /**
   * Stores messages in order, all or none. One statement, where no message bears a key and all fit one batch.
   *
   * @throws Held where they are `apart` and somebody holds a key of one
   */
  async send(
    db: Db,
    messages: readonly EncodedMessage[],
    { placing, admission, brakes, wakeUp, apart = false }: SendWith = {},
  ): Promise<Sent[]> {
    const free =
      admission === undefined &&
      brakes === undefined &&
      messages.every(({ ownId }) => !ownId) &&
      headsOf(messages).every((head) => waitsForNothing(head, placing));
    if (free) {
      await translated(this.#dialect, () => this.#free(db, messages, placing, wakeUp));
      return messages.map(({ messageId }) => ({ messageId, duplicate: false }));
    }
    return translated(this.#dialect, () =>
      this.#undoable(db, admission, apart && messages.length > 1, async (trx) => {
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
        for (const some of portions(ranked, ({ content }) => [1, content.length])) {
          await this.#insert(trx, some);
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

  /** A caller's transaction may go on after a refusal, which must leave nothing behind in it. */
  #undoable<T>(
    db: Db,
    admission: Admission | undefined,
    apart: boolean,
    run: (trx: Db) => Promise<T>,
  ): Promise<T> {
    if (isTransaction(db)) return admission === undefined ? run(db) : db.transaction(run);
    return apart ? impatient(this.#dialect, db, run) : transaction(this.#dialect, db, run);
  }

  /** Messages that wait for nothing and are counted nowhere: never more rows in memory than one statement takes. */
  async #free(
    db: Db,
    messages: readonly EncodedMessage[],
    placing?: Placing,
    wakeUp?: WakeUp,
  ): Promise<void> {
    const fitting = messages.every(fits) ? messages : messages.flatMap(divided);
    const [first = [], ...others] = portions(fitting, sizeOf);
    if (others.length === 0) return this.#portion(db, first, placing, wakeUp);
    await transaction(this.#dialect, db, async (trx) => {
      for (const some of [first, ...others]) await this.#portion(trx, some, placing);
    });
  }

  async #portion(
    db: Db,
    messages: readonly EncodedMessage[],
    placing?: Placing,
    wakeUp?: WakeUp,
  ): Promise<void> {
    const plain = inColumns(messages, placing);
    if (plain === undefined) {
      const rows = rowsOf(messages, placing);
      return retriedUnlessIn(this.#dialect, db, () => this.#dialect.insertMessages(db, rows));
    }
    if (wakeUp !== undefined && (await this.#withWakeUp(db, plain, wakeUp))) return;
    return retriedUnlessIn(this.#dialect, db, () => this.#dialect.insertPlain(db, plain));
  }

  /** False where the server refused: then nothing was stored, and a wake-up must not keep a message from being so. */
  async #withWakeUp(db: Db, plain: PlainMessages, wakeUp: WakeUp): Promise<boolean> {
    try {
      await this.#dialect.insertPlain(db, plain, wakeUp);
      return true;
    } catch (error) {
      if (this.#dialect.classify(error) === "connection") throw error;
      wakeUp.outcome = "refused";
      return false;
    }
  }

  async #insert(db: Db, rows: readonly NewMessage[]): Promise<void> {
    const plain = plainOf(rows);
    await (plain === undefined
      ? this.#dialect.insertMessages(db, rows)
      : this.#dialect.insertPlain(db, plain));
  }
}

function retriedUnlessIn<T>(dialect: Dialect, db: Db, run: () => Promise<T>): Promise<T> {
  return isTransaction(db) ? run() : retried(dialect, run);
}

const NONE_STOPPED: ReadonlyMap<EncodedMessage, Stop> = new Map();

const isNotIn = (stopped: ReadonlyMap<EncodedMessage, Stop>) => (message: EncodedMessage) =>
  !stopped.has(message);

/** Whether messages under a head wait for no key that somebody may hold for long. */
export function bearsNoKey({ dedupeKey, orderingKey, concurrencyKey }: Head): boolean {
  return dedupeKey === undefined && orderingKey === undefined && concurrencyKey === undefined;
}

/** Whether messages under a head need no lock of anybody's. */
function waitsForNothing(head: Head, placing: Placing | undefined): boolean {
  return (
    bearsNoKey(head) &&
    (placing === undefined || !head.toAgent.some((agent) => placing.fair(agent)))
  );
}

/** Recipients of this message that one statement takes. */
function mostRecipients({ contentText }: EncodedMessage): number {
  return Math.max(1, Math.min(BATCH.rows, Math.floor(BATCH.characters / contentText.length)));
}

function fits(message: EncodedMessage): boolean {
  return message.head.toAgent.length <= mostRecipients(message);
}

/** A message as several to fewer recipients each. */
function divided(message: EncodedMessage): EncodedMessage[] {
  const { head } = message;
  const most = mostRecipients(message);
  const parts: EncodedMessage[] = [];
  for (let n = 0; n < head.toAgent.length; n += most) {
    parts.push(message.under({ ...head, toAgent: head.toAgent.slice(n, n + most) }));
  }
  return parts;
}

/** Rows, and the characters of their contents. */
type Size = readonly [rows: number, characters: number];

function sizeOf({ head, contentText }: EncodedMessage): Size {
  return [head.toAgent.length, head.toAgent.length * contentText.length];
}

/** In portions of which one statement takes each. */
function portions<T>(items: readonly T[], size: (item: T) => Size): (readonly T[])[] {
  const all: (readonly T[])[] = [];
  let [begin, rows, characters] = [0, 0, 0];
  for (const [n, item] of items.entries()) {
    const [more, further] = size(item);
    if (n > begin && (rows + more > BATCH.rows || characters + further > BATCH.characters)) {
      all.push(items.slice(begin, n));
      [begin, rows, characters] = [n, 0, 0];
    }
    rows += more;
    characters += further;
  }
  if (begin === 0) return items.length === 0 ? [] : [items];
  all.push(items.slice(begin));
  return all;
}
