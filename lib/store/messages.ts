import type { Knex } from "knex";
import { ClaimWalks } from "./claim-walk.ts";
import type { Burial, ClaimKey, ClaimRequest, Db, Dialect, Extension, Release } from "./dialect.ts";
import { DOCUMENTS, DOOM_PREFIX, ENVELOPE } from "./envelope-columns.ts";
import { condemnExpired, EXPIRED_FINGERPRINT } from "./expired.ts";
import { distinct, KeyStore, keyOfRow } from "./keys.ts";
import { type ParseJson, parseText } from "./rows.ts";
import { Sending, type Sent } from "./sending.ts";
import { type Settled, Settling, type Turn } from "./settling.ts";
import { SharedEnding } from "./shared-ending.ts";
import { int, type Row, readClock, retried, transaction, translated } from "./sql.ts";

export interface MessageStoreOptions {
  readonly prefix: string;
  /** Whether finished messages are kept. */
  readonly archive: boolean;
  /** How long the id of a sender's own choosing is remembered. */
  readonly ownIdWindowMs: number;
  /** Told, before `db` may have committed, of mailboxes where a message became ready because another ended. */
  readonly opened: (db: Db, agentIds: ReadonlySet<string>) => void;
}

/** What else belongs into the transaction that completes claims, given the sequences of those that were valid. */
export type AlsoCompleted = (trx: Db, done: readonly number[]) => Promise<void>;

/** The live messages: sending, claiming, settling. All SQL of the hot path goes through the dialect. */
export class MessageStore {
  readonly knex: Knex;
  readonly dialect: Dialect;
  readonly table: string;
  readonly archiveTable: string;
  readonly mailboxTable: string;
  readonly #options: MessageStoreOptions;
  readonly #sending: Sending;
  readonly #settling: Settling;
  readonly #completing: SharedEnding<ClaimKey>;
  readonly #releasing: SharedEnding<Release>;
  readonly #extending: SharedEnding<Extension>;
  readonly #burying: SharedEnding<Burial>;
  readonly #walks = new ClaimWalks();
  readonly keys: KeyStore;

  constructor(knex: Knex, dialect: Dialect, options: MessageStoreOptions) {
    this.knex = knex;
    this.dialect = dialect;
    this.#options = options;
    this.#sending = new Sending(dialect, options.prefix, options.ownIdWindowMs);
    this.keys = new KeyStore(knex, dialect, options.prefix);
    this.table = `${options.prefix}messages`;
    const settling = new Settling(dialect, options.prefix, options.opened);
    this.#settling = settling;
    this.#completing = new SharedEnding(knex, settling, this.#completion());
    this.#releasing = new SharedEnding<Release>(
      knex,
      settling,
      { run: (db, valid) => dialect.release(db, valid) },
      textsOf,
    );
    this.#extending = new SharedEnding<Extension>(
      knex,
      settling,
      { run: (db, valid) => dialect.extend(db, valid) },
      ({ progress }) => progress?.length ?? 0,
    );
    this.#burying = new SharedEnding(knex, settling, this.#burial(), textsOf);
    this.archiveTable = `${options.prefix}archive`;
    this.mailboxTable = `${options.prefix}mailboxes`;
  }

  /** Resolves when every call that shares a statement with others is answered. */
  async idle(): Promise<void> {
    const endings = [this.#completing, this.#releasing, this.#extending, this.#burying];
    await Promise.all(endings.map((ending) => ending.idle()));
  }

  get archives(): boolean {
    return this.#options.archive;
  }

  /** jsonb arrives parsed (unless the caller's driver is told otherwise), the text of the other two does not. */
  get parseJson(): ParseJson {
    return parseText;
  }

  /** Whether messages can be sent `apart`. */
  get sendsApart(): boolean {
    return this.dialect.impatient !== undefined;
  }

  /** As `Sending.send`. */
  send(...sent: Parameters<Sending["send"]>): Promise<Sent[]> {
    return this.#sending.send(...sent);
  }

  async claim(request: ClaimRequest) {
    const walk = this.#walks.of(request.agentId, request.messageTypes);
    return translated(this.dialect, () =>
      retried(this.dialect, () => this.dialect.claim(this.knex, { ...request, walk })),
    );
  }

  /** Whether claims of a mailbox begin behind what was claimed, because it is far from the first entry to there. */
  walksFar(agentId: string, messageTypes: readonly string[] | null): boolean {
    return this.#walks.of(agentId, messageTypes).far;
  }

  /** Ends claims as processed; `also` is told in the same transaction which of them were valid. */
  async complete(
    db: Db,
    claims: readonly Turn<ClaimKey>[],
    also?: AlsoCompleted,
  ): Promise<Settled[]> {
    if (also === undefined) return this.#completing.settle(db, claims);
    return this.#settling.surely(db, claims, this.#completion(also));
  }

  /** As `complete`; claims whose key a sender holds longer than `patienceMs` are `held`. */
  async tryComplete(
    db: Db,
    claims: readonly Turn<ClaimKey>[],
    patienceMs: number,
    also?: AlsoCompleted,
  ): Promise<(Settled | "held")[]> {
    return this.#settling.settle(db, claims, this.#completion(also), patienceMs);
  }

  #completion(also?: AlsoCompleted) {
    const { archive } = this.#options;
    const complete = (db: Db, valid: readonly ClaimKey[]) =>
      this.dialect.complete(db, valid, archive);
    if (also === undefined) return { run: complete };
    const run = (db: Db, valid: readonly ClaimKey[]) =>
      transaction(this.dialect, db, async (trx) => {
        const done = await complete(trx, valid);
        await also(trx, done);
        return done;
      });
    return { run };
  }

  async release(db: Db, releases: readonly Turn<Release>[]): Promise<Settled[]> {
    // The head of an ordering key stays its head; one of a concurrency key that waits lets another through.
    const turns = releases.map((release) =>
      release.key?.kind === "share" && release.delay_ms > 0
        ? release
        : { ...release, key: undefined },
    );
    return this.#releasing.settle(db, turns);
  }

  async extend(db: Db, extensions: readonly Extension[]): Promise<Settled[]> {
    return this.#extending.settle(db, extensions);
  }

  async bury(db: Db, burials: readonly Turn<Burial>[]): Promise<Settled[]> {
    return this.#burying.settle(db, burials);
  }

  /** As `bury`; those whose key a sender holds are `held`, and their leases will pass. */
  async tryBury(db: Db, burials: readonly Turn<Burial>[]): Promise<(Settled | "held")[]> {
    return this.#settling.settle(db, burials, this.#burial(), 0);
  }

  #burial(halts: (seq: number) => boolean = () => true) {
    return {
      run: (db: Db, valid: readonly Burial[]) => this.dialect.bury(db, valid),
      also: (trx: Db, done: readonly Turn<ClaimKey>[]) =>
        this.keys.halt(
          trx,
          done.flatMap(({ key, seq }) => (key === undefined || !halts(seq) ? [] : [{ key, seq }])),
        ),
    };
  }

  /**
   * Moves up to `limit` expired messages of keys that nobody holds to the dead letters, each under its key's lock.
   * Returns what observers are told of each.
   */
  async buryExpiredKeyed(limit: number): Promise<Row[]> {
    return translated(this.dialect, async () => {
      const condemned = await condemnExpired(this.knex, this.dialect, this.table, limit);
      // One that still waited its turn was no head: its end halts nothing.
      const heads = new Set(
        condemned.filter(({ state }) => int(state) !== 2).map(({ seq }) => int(seq)),
      );
      const burials = condemned.map((row) => ({
        ...{ seq: int(row.seq), receipt: int(row.receipt), key: keyOfRow(row) },
        ...{ reason: "expired", error: null, fingerprint: EXPIRED_FINGERPRINT },
      }));
      const burial = this.#burial((seq) => heads.has(seq));
      const outcomes = await this.#settling.settle(this.knex, burials, burial, 0);
      return condemned.filter((_, n) => outcomes[n] === "done");
    });
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
        const found = (await trx(this.table)
          .select("seq", "to_agent", "ordering_key", "concurrency_key")
          .where(where)) as Row[];
        const keys = distinct(found.map(keyOfRow));
        if (keys.length > 0) await this.dialect.gates.lockKeys(trx, keys, true);
        const rows = await this.dialect.takeOut(
          trx,
          this.table,
          found.map((row) => int(row.seq)),
        );
        if (keys.length > 0) {
          const opened = await this.dialect.gates.openKeys(trx, keys);
          if (opened.length > 0) this.#options.opened(trx, new Set(opened));
        }
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
    return translated(this.dialect, () => readClock(db, this.dialect));
  }
}

/** Characters that an end leaves behind. */
function textsOf({ error, failure = "" }: Pick<Release, "error" | "failure">): number {
  return (error?.length ?? 0) + failure.length;
}

/** JSON columns as text again: knex would write an array as an SQL array. */
export function asText(value: unknown): string | null {
  if (value === null || value === undefined) return null;
  return typeof value === "string" ? value : JSON.stringify(value);
}
