import type { Knex } from "knex";
import type { EncodedMessage } from "../protocol/envelope.ts";
import { DedupeKeys } from "./dedupe.ts";
import type { Burial, ClaimKey, ClaimRequest, Db, Dialect, Extension, Release } from "./dialect.ts";
import { DOCUMENTS, DOOM_PREFIX, ENVELOPE } from "./envelope-columns.ts";
import { type ParseJson, parseText } from "./rows.ts";
import { int, isTransaction, query, type Row, retried, transaction, translated } from "./sql.ts";

/** What became of one message of a batch. */
export interface Sent {
  readonly messageId: string;
  readonly duplicate: boolean;
}

export type Settled = "done" | "stale" | "gone";

export interface MessageStoreOptions {
  readonly prefix: string;
  /** Whether finished messages are kept. */
  readonly archive: boolean;
  /** How long the id of a sender's own choosing is remembered. */
  readonly ownIdWindowMs: number;
}

/** One statement takes at most this many messages; the rest follow in the same transaction. */
const BATCH = 1_000;

/** The live messages: sending, claiming, settling. All SQL of the hot path goes through the dialect. */
export class MessageStore {
  readonly knex: Knex;
  readonly dialect: Dialect;
  readonly table: string;
  readonly archiveTable: string;
  readonly mailboxTable: string;
  readonly #options: MessageStoreOptions;
  readonly #keys: DedupeKeys;

  constructor(knex: Knex, dialect: Dialect, options: MessageStoreOptions) {
    this.knex = knex;
    this.dialect = dialect;
    this.#options = options;
    this.#keys = new DedupeKeys(dialect, options.prefix, options.ownIdWindowMs);
    this.table = `${options.prefix}messages`;
    this.archiveTable = `${options.prefix}archive`;
    this.mailboxTable = `${options.prefix}mailboxes`;
  }

  get archives(): boolean {
    return this.#options.archive;
  }

  /** jsonb arrives parsed (unless the caller's driver is told otherwise), the text of the other two does not. */
  get parseJson(): ParseJson {
    return parseText;
  }

  /** Stores messages in order, all or none. One statement, where no message bears a key and all fit one batch. */
  async send(db: Db, messages: readonly EncodedMessage[]): Promise<Sent[]> {
    const keyed = messages.some((message) => message.ownId || message.dedupeKey !== undefined);
    if (!keyed && messages.length <= BATCH) {
      await translated(this.dialect, () =>
        retriedUnlessIn(this.dialect, db, () => this.#insert(db, messages)),
      );
      return messages.map(({ messageId }) => ({ messageId, duplicate: false }));
    }
    return translated(this.dialect, () =>
      transaction(this.dialect, db, async (trx) => {
        const duplicates = await this.#keys.duplicates(trx, messages);
        const fresh = messages.filter((message) => !duplicates.has(message));
        for (let n = 0; n < fresh.length; n += BATCH) {
          await this.#insert(trx, fresh.slice(n, n + BATCH));
        }
        return messages.map((message) => {
          const first = duplicates.get(message);
          return first === undefined
            ? { messageId: message.messageId, duplicate: false }
            : { messageId: first, duplicate: true };
        });
      }),
    );
  }

  async #insert(db: Db, messages: readonly EncodedMessage[]): Promise<void> {
    const rows = messages.flatMap((message) =>
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
        retry: null,
        hops: message.hops ?? null,
        trail: null,
        content_encoding: null,
        lane: "",
        rank: null,
        aging_ms: null,
        max_attempts: message.maxAttempts,
        delay_ms: message.delayMs ?? null,
        available_at: message.availableAt ?? null,
        ttl_ms: message.ttlMs ?? null,
        expires_at: message.expiresAt ?? null,
      })),
    );
    if (rows.length > 0) await this.dialect.insertMessages(db, rows);
  }

  async claim(request: ClaimRequest) {
    return translated(this.dialect, () =>
      retried(this.dialect, () => this.dialect.claim(this.knex, request)),
    );
  }

  async complete(db: Db, claims: readonly ClaimKey[]): Promise<Settled[]> {
    return this.#settle(db, claims, (valid) =>
      this.dialect.complete(db, valid, this.#options.archive),
    );
  }

  async release(db: Db, releases: readonly Release[]): Promise<Settled[]> {
    return this.#settle(db, releases, (valid) => this.dialect.release(db, valid));
  }

  async extend(db: Db, extensions: readonly Extension[]): Promise<Settled[]> {
    return this.#settle(db, extensions, (valid) => this.dialect.extend(db, valid));
  }

  async bury(db: Db, burials: readonly Burial[]): Promise<Settled[]> {
    return this.#settle(db, burials, (valid) => this.dialect.bury(db, valid));
  }

  /** One outcome per claim: done, stale (someone else's now) or gone (finished). */
  async #settle<C extends ClaimKey>(
    db: Db,
    claims: readonly C[],
    run: (valid: readonly C[]) => Promise<number[]>,
  ): Promise<Settled[]> {
    if (claims.length === 0) return [];
    // Of several claims of one message only the one with the greatest receipt can be valid.
    const latest = new Map<number, C>();
    for (const claim of claims) {
      const known = latest.get(claim.seq);
      if (known === undefined || known.receipt < claim.receipt) latest.set(claim.seq, claim);
    }
    return translated(this.dialect, async () => {
      const done = new Set(
        await retriedUnlessIn(this.dialect, db, () => run([...latest.values()])),
      );
      const missed = [...latest.keys()].filter((seq) => !done.has(seq));
      const live = await this.#live(db, missed);
      return claims.map(({ seq, receipt }) => {
        if (done.has(seq)) return latest.get(seq)?.receipt === receipt ? "done" : "stale";
        return live.has(seq) ? "stale" : "gone";
      });
    });
  }

  async #live(db: Db, seqs: readonly number[]): Promise<Set<number>> {
    const live = new Set<number>();
    for (let n = 0; n < seqs.length; n += BATCH) {
      const rows = await db(this.table)
        .select("seq")
        .whereIn("seq", seqs.slice(n, n + BATCH));
      for (const row of rows as Row[]) live.add(int(row.seq));
    }
    return live;
  }

  /** The claim that an agent holds on a message, the earliest where two senders used one id. */
  async heldBy(db: Db, messageId: string, agentId: string): Promise<Row | undefined> {
    return translated(this.dialect, () =>
      db(this.table)
        .where({ message_id: messageId, to_agent: agentId })
        .whereNotNull("worker_id")
        // Nobody holds a doomed one: it is leased to the reason that ends it.
        .whereRaw(`worker_id NOT LIKE '${DOOM_PREFIX}%'`)
        .whereRaw(`visible_at > ${this.dialect.now}`)
        .orderBy("seq")
        .first(),
    );
  }

  /** The live rows of a message, one per recipient. */
  async live(db: Db, messageId: string): Promise<Row[]> {
    return translated(this.dialect, () =>
      db(this.table).where({ message_id: messageId }).orderBy("seq"),
    );
  }

  async archived(db: Db, messageId: string): Promise<Row[]> {
    return translated(this.dialect, () =>
      db(this.archiveTable).where({ message_id: messageId }).orderBy("seq"),
    );
  }

  /** Takes a message out of every mailbox that has it. A worker that holds it finds its receipt gone. */
  async cancel(db: Db, messageId: string, toAgent?: string): Promise<Row[]> {
    return translated(this.dialect, () =>
      transaction(this.dialect, db, async (trx) => {
        const where = {
          message_id: messageId,
          ...(toAgent === undefined ? {} : { to_agent: toAgent }),
        };
        const found = (await trx(this.table).select("seq").where(where)) as Row[];
        const rows = await this.dialect.takeOut(
          trx,
          this.table,
          found.map((row) => int(row.seq)),
        );
        if (rows.length === 0 || !this.#options.archive) return rows;
        const now = await this.now(trx);
        for (const row of rows) {
          const envelope = Object.fromEntries(ENVELOPE.map((column) => [column, row[column]]));
          await trx(this.archiveTable).insert({
            ...envelope,
            ...Object.fromEntries(DOCUMENTS.map((column) => [column, asText(row[column])])),
            seq: row.seq,
            outcome: "cancelled",
            worker_id: row.worker_id,
            attempt: row.attempt,
            finished_at: now,
          });
        }
        return rows;
      }),
    );
  }

  /** The database's clock, in milliseconds since the epoch. */
  async now(db: Db = this.knex): Promise<number> {
    return translated(this.dialect, async () => {
      const [row] = await query(db, `SELECT ${this.dialect.now} AS now`);
      return int(row?.now);
    });
  }
}

/** JSON columns as text again: knex would write an array as an SQL array. */
export function asText(value: unknown): string | null {
  if (value === null || value === undefined) return null;
  return typeof value === "string" ? value : JSON.stringify(value);
}

function retriedUnlessIn<T>(dialect: Dialect, db: Db, run: () => Promise<T>): Promise<T> {
  return isTransaction(db) ? run() : retried(dialect, run);
}
