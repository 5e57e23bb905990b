import type { Knex } from "knex";
import type { Maintenance } from "../protocol/system.ts";
import type { ClaimWalk } from "./claim-walk.ts";
import type { ConversationStatements } from "./conversations.ts";
import type { InboxStatements } from "./inbox.ts";
import type { PlainMessages } from "./plain-messages.ts";

export type DialectName = "postgres" | "mssql" | "sqlite";

/** A connection pool or one transaction; every statement runs in what it is given. */
export type Db = Knex;

/** A message as the send statement takes it: JSON columns as text, instants relative to the database's clock. */
export interface NewMessage {
  readonly message_id: string;
  readonly from_agent: string;
  readonly to_agent: string;
  readonly message_type: string;
  readonly original_type: string | null;
  readonly kind: string;
  readonly priority: number;
  /** JSON text of an object or array. */
  readonly content: string;
  readonly headers: string | null;
  readonly correlation_id: string | null;
  readonly causation_id: string | null;
  readonly reply_to: string | null;
  readonly context_id: string | null;
  readonly task_id: string | null;
  readonly subject: string | null;
  readonly ordering_key: string | null;
  readonly concurrency_key: string | null;
  readonly dedupe_key: string | null;
  readonly cost: number | null;
  readonly delivery: string | null;
  /** JSON text of the message's own retry policy. */
  readonly retry: string | null;
  readonly hops: number | null;
  /** JSON text. */
  readonly trail: string | null;
  readonly content_encoding: string | null;
  /** Where messages of a limited type wait; null for all others. */
  readonly lane: string | null;
  /** The place in the mailbox, where turns are fair; null: by priority, or by age. */
  readonly rank: number | null;
  /** Milliseconds that make up for ten points of priority; null: no aging. */
  readonly aging_ms: number | null;
  readonly max_attempts: number;
  /** Exactly one of delay and instant may be set; neither means at once. */
  readonly delay_ms: number | null;
  readonly available_at: number | null;
  readonly ttl_ms: number | null;
  readonly expires_at: number | null;
}

/** What messages may share. */
export type NewHead = Omit<NewMessage, "message_id" | "content" | "content_encoding">;

/** What tells other processes of a message, and may go with the statement that stores it. */
export interface WakeUp {
  readonly channel: string;
  readonly payload: string;
  /** Undefined as long as the statement has not taken it along; refused: the message was stored without it. */
  outcome?: "carried" | "refused";
}

export interface DedupeKey {
  readonly key: string;
  readonly message_id: string;
  readonly window_ms: number;
}

/** A message as a claim returns it. `doom` tells that it must not be handed out but buried. */
export interface ClaimedRow {
  readonly seq: number;
  readonly message_id: string;
  readonly from_agent: string;
  readonly to_agent: string;
  readonly message_type: string;
  readonly original_type: string | null;
  readonly kind: string;
  readonly priority: number;
  readonly content: unknown;
  readonly headers: unknown;
  readonly correlation_id: string | null;
  readonly causation_id: string | null;
  readonly reply_to: string | null;
  readonly context_id: string | null;
  readonly task_id: string | null;
  readonly subject: string | null;
  readonly ordering_key: string | null;
  readonly concurrency_key: string | null;
  readonly cost: number | null;
  readonly delivery: string | null;
  readonly retry: unknown;
  readonly hops: number | null;
  readonly trail: unknown;
  readonly content_encoding: string | null;
  readonly failures: unknown;
  readonly rank: number;
  readonly created_at: number;
  readonly expires_at: number | null;
  readonly receipt: number;
  readonly attempt: number;
  readonly max_attempts: number;
  /** The lease's end, by the database's clock. */
  readonly visible_at: number;
  readonly progress: unknown;
  readonly redriven: number;
  readonly doom: "expired" | "max_attempts" | null;
}

/**
 * What makes messages of a mailbox wait for each other: an ordering key (order), a concurrency key (share), or the
 * context in a mailbox with fair turns (turn and the priority). Its row is locked by whoever changes who waits.
 */
export interface KeyRef {
  readonly to_agent: string;
  readonly kind: "order" | "share" | "window" | "depth" | `turn${number}`;
  readonly name: string;
}

export interface LockedKey extends KeyRef {
  readonly last_rank: number | null;
  readonly halted_by: number | null;
}

/** A ready message as a gate looks at it before it is claimed. */
export interface Candidate {
  readonly seq: number;
  readonly rank: number;
  readonly lane: string;
  readonly message_type: string;
  readonly cost: number;
  /** It will not be handed out but buried. */
  readonly doomed: boolean;
}

export interface ClaimRequest {
  readonly agentId: string;
  readonly limit: number;
  readonly leaseMs: number;
  readonly workerId: string;
  /** Null: every type. */
  readonly messageTypes: readonly string[] | null;
  /** What earlier claims of the mailbox have seen; databases whose claims do not get longer leave it alone. */
  readonly walk?: ClaimWalk | undefined;
}

/** Names one claim: the row and the receipt that the claim gave. */
export interface ClaimKey {
  readonly seq: number;
  readonly receipt: number;
}

export interface Release extends ClaimKey {
  readonly delay_ms: number;
  /** A deferred message gets its attempt back; a failed one does not. */
  readonly keep_attempt: boolean;
  /** JSON text, or null to leave the last error as it is. */
  readonly error: string | null;
  /** The failed run as JSON text, see `failedRun`; left out where none failed. */
  readonly failure?: string | undefined;
  /** Its number of runs from now on, where that is more than it has. */
  readonly max_attempts?: number | undefined;
}

export interface Extension extends ClaimKey {
  readonly lease_ms: number;
  /** JSON text, or null to leave the progress as it is. */
  readonly progress: string | null;
}

export interface Burial extends ClaimKey {
  readonly reason: string;
  /** JSON text, or null to keep the last error that was noted. */
  readonly error: string | null;
  readonly fingerprint: string;
  /** The failed run that was the last, as JSON text. */
  readonly failure?: string | undefined;
}

export type DriverFault =
  | "unique"
  | "deadlock"
  | "serialization"
  | "busy"
  | "lock_timeout"
  | "connection"
  | "missing_table"
  | "missing_database"
  | "permission"
  | "disk_full"
  | "other";

/** The statements of mailboxes where messages wait for each other, or for more than a consumer. */
export interface GateStatements {
  /**
   * Locks keys until the transaction ends, in one order, and makes the rows of those that have none. Without
   * `wait`: only those that exist and nobody else has locked. Returns the locked ones.
   */
  lockKeys(trx: Db, keys: readonly KeyRef[], wait: boolean): Promise<LockedKey[]>;
  /**
   * Makes ready what locked keys have room for: the head of an ordering key that is not halted, as many of a
   * concurrency key as may be in flight. Forgets keys without messages. Returns the mailboxes that got something.
   */
  openKeys(trx: Db, keys: readonly KeyRef[]): Promise<string[]>;
  /** Blocks ready messages of concurrency keys that are more than may be in flight, latest first. */
  closeKeys(trx: Db, keys: readonly KeyRef[]): Promise<void>;
  /**
   * Rows of a settings table, locked until the transaction ends, in the order of `by`. `idle` is a column that is
   * no key: on SQL Server the lock is a write that changes nothing.
   */
  lockRows(
    trx: Db,
    table: string,
    rows: { where: Knex.QueryCallback; by: string; idle: string },
  ): Promise<Record<string, unknown>[]>;
  /** Notes that due messages of a mailbox's concurrency keys are to be promoted, unless more is noted already. */
  noteShares(db: Db, mailboxes: string, agentId: string): Promise<void>;
  /** Inserts a message in the place that it had before. */
  insertInPlace(trx: Db, table: string, row: Record<string, unknown>): Promise<void>;
  /** Whether the mailbox has anything ready or due. */
  anyReady(db: Db, agentId: string): Promise<boolean>;
  /** Makes up to 500 due messages ready, those without a concurrency key. */
  promote(trx: Db, agentId: string): Promise<void>;
  /** The first ready messages of a lane, locked; what others have locked is left out. */
  candidates(
    trx: Db,
    request: Pick<ClaimRequest, "agentId" | "limit" | "messageTypes"> & {
      readonly lane: string;
      /** What is held back: not looked at. */
      readonly held: Pick<Maintenance, "kinds" | "types"> | null;
    },
  ): Promise<Candidate[]>;
  /** Leases locked messages as a claim does. */
  take(
    trx: Db,
    request: Pick<ClaimRequest, "leaseMs" | "workerId"> & { readonly seqs: readonly number[] },
  ): Promise<ClaimedRow[]>;
}

/**
 * What no two databases write alike. Each method is one statement or one short transaction; the texts are
 * constants, one file per dialect, the same names in the same order. Not public: it changes with the library.
 */
export interface Dialect {
  readonly name: DialectName;
  /** SQL for the database's clock: milliseconds since the epoch, UTC. */
  readonly now: string;
  /** SQL for a text field of a JSON column. */
  jsonText(column: string, field: string): string;

  /** Stores messages in the order given. Keys were held before (`holdKeys`). */
  insertMessages(db: Db, messages: readonly NewMessage[]): Promise<void>;
  /**
   * The same for messages that say nothing but themselves, at least one. A lone one may take its wake-up along, where
   * the database has such a thing; it says whether it did.
   */
  insertPlain(db: Db, messages: PlainMessages, wakeUp?: WakeUp): Promise<void>;
  /** Takes dedupe keys; returns those already held, with the message that holds each. */
  holdKeys(db: Db, keys: readonly DedupeKey[]): Promise<{ key: string; message_id: string }[]>;
  /** Leases up to `limit` messages of a mailbox: highest priority first, then order of arrival. */
  claim(db: Db, request: ClaimRequest): Promise<ClaimedRow[]>;
  /** Ends messages as processed. Returns the `seq` of those whose receipt was valid; so do the next three. */
  complete(db: Db, claims: readonly ClaimKey[], archive: boolean): Promise<number[]>;
  /** Gives messages back, at once or after a delay. */
  release(db: Db, releases: readonly Release[]): Promise<number[]>;
  /** Makes leases longer, counted from now, and notes progress. */
  extend(db: Db, extensions: readonly Extension[]): Promise<number[]>;
  /** Moves messages to the dead letters. */
  bury(db: Db, burials: readonly Burial[]): Promise<number[]>;
  /** Moves up to `limit` expired messages that nobody holds to the dead letters. */
  buryExpired(db: Db, limit: number): Promise<Record<string, unknown>[]>;

  readonly gates: GateStatements;
  readonly inbox: InboxStatements;
  readonly conversations: ConversationStatements;

  /** Deletes rows of a table by `seq` and returns those that were there, in no order; all columns unless told. */
  takeOut(
    db: Db,
    table: string,
    seqs: readonly number[],
    columns?: readonly string[],
  ): Promise<Record<string, unknown>[]>;

  /** Makes the transaction wait for every other writer of the same lock until it ends. */
  lock(trx: Db, name: string): Promise<void>;
  /** How a transaction of our own begins, where the database's default would not do. */
  readonly transactionConfig?: Knex.TransactionConfig;
  /** Whether a caller's transaction is one still: a server may have rolled it back without a word. */
  stillOpen(trx: Db): Promise<boolean>;
  /** The first statement of a transaction of our own. */
  beginWrite(trx: Db): Promise<void>;
  /**
   * Makes the transaction's statements fail with "lock_timeout" that wait longer than this for somebody's lock.
   * Undefined where a server cannot do that for one transaction.
   */
  impatient?(trx: Db, ms: number): Promise<void>;
  /** What a driver's error means. */
  classify(error: unknown): DriverFault;
}
