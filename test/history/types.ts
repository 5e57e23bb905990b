/** What clients and the database wrote down of a run, and what a checker may find wrong with it. */

/** Milliseconds of the machine's monotonic clock: one for all processes, untouched by a wrong wall clock. */
export type Moment = number;

export interface SentMessage {
  readonly messageId: string;
  readonly toAgent: readonly string[];
  readonly dedupeKey?: string | undefined;
  readonly messageType: string;
  readonly orderingKey?: string | undefined;
  readonly concurrencyKey?: string | undefined;
  /** What it takes from a token bucket. Default 1. */
  readonly cost?: number | undefined;
}

export interface Claim {
  readonly seq: number;
  readonly receipt: number;
  readonly messageId: string;
  readonly mailbox: string;
  readonly attempt: number;
  readonly maxAttempts: number;
  /** By the database's clock. */
  readonly leaseExpiresAt: number;
  readonly expiresAt: number | null;
}

export type SettleKind = "ack" | "nack" | "defer" | "extend" | "deadLetter";

/** `op` joins what was asked and what was answered; an `op` without an answer may have happened or not. */
export type Entry =
  | { e: "send"; at: Moment; op: string; messages: readonly SentMessage[] }
  /** Per message: stored under its id, now or by an earlier call; false where a dedupe key stood for it. */
  | { e: "sent"; at: Moment; op: string; stored: readonly boolean[] }
  /** Certainly not stored: refused, or its transaction was rolled back by the caller. */
  | { e: "not_sent"; at: Moment; op: string }
  | { e: "look"; at: Moment; op: string; mailbox: string; leaseMs: number }
  | { e: "claimed"; at: Moment; op: string; claims: readonly Claim[] }
  /** A worker's handler began: it holds a claim that the worker made some time before. */
  | { e: "begin"; at: Moment; op: string; claim: Claim }
  | { e: "end"; at: Moment; op: string; failed: boolean }
  | {
      e: "settle";
      at: Moment;
      op: string;
      kind: SettleKind;
      claims: readonly { seq: number; receipt: number }[];
      /** Of an extension. */
      leaseMs?: number | undefined;
    }
  | { e: "settled"; at: Moment; op: string; outcomes: readonly string[] }
  | { e: "cancel"; at: Moment; op: string; messageId: string }
  /** `elsewhere`: to other mailboxes than those they died in. */
  | { e: "redrive"; at: Moment; op: string; elsewhere: boolean }
  /** The answer was an error: it may have happened all the same. */
  | { e: "unknown"; at: Moment; op: string; error: string };

export type EntryOf<E extends Entry["e"]> = Extract<Entry, { e: E }>;

/** Where a message lies after the run, in the database's own words. */
export interface FinalMessage {
  readonly place: "live" | "archive" | "dead";
  readonly seq: number;
  readonly messageId: string;
  readonly mailbox: string;
  readonly messageType: string;
  readonly attempt: number;
  /** Null in the archive. */
  readonly maxAttempts: number | null;
  /** Null in the archive. */
  readonly receipt: number | null;
  /** Of an archived one: processed or cancelled. */
  readonly outcome: string | null;
  /** Of a dead one. */
  readonly reason: string | null;
  /** How often it came back from the dead letters; null in the archive. */
  readonly redriven: number | null;
}

/** A row that a handler wrote in the transaction that acknowledged. */
export interface Effect {
  readonly seq: number;
  readonly receipt: number;
  readonly messageId: string;
  readonly mailbox: string;
}

/** A row's claim on its message at one moment. */
export interface Hold {
  readonly receipt: number;
  readonly worker: string | null;
  readonly visibleAt: number;
  readonly attempt: number;
}

/**
 * One change of one live row, written by a trigger of the database inside the changing transaction. Their order
 * is sound: of two changes that waited for each other, the earlier has the smaller id.
 */
export interface Change {
  readonly id: number;
  /** The database's clock in the changing statement. */
  readonly now: number;
  readonly seq: number;
  readonly messageId: string;
  readonly mailbox: string;
  readonly messageType: string;
  readonly orderingKey: string | null;
  readonly concurrencyKey: string | null;
  readonly cost: number;
  readonly maxAttempts: number;
  readonly expiresAt: number | null;
  /** Null: the row was inserted. */
  readonly before: Hold | null;
  /** Null: the row was deleted. */
  readonly after: Hold | null;
}

/** What may be in flight at once; fields that are left out mean every value. */
export interface Limit {
  readonly mailbox?: string | undefined;
  readonly messageType?: string | undefined;
  /** Per concurrency key: messages without one are not meant. */
  readonly perKey?: boolean | undefined;
  readonly max: number;
}

export interface Bucket {
  readonly mailbox?: string | undefined;
  readonly messageType?: string | undefined;
  readonly capacity: number;
  /** Tokens per millisecond. */
  readonly refillPerMs: number;
  /** Between taking tokens and leasing lie two statements of one transaction. Default 25. */
  readonly slackMs?: number | undefined;
  /** Somebody changed it at or after this instant of the database's clock: later claims are not judged. */
  readonly until?: number | undefined;
}

export interface History {
  readonly entries: readonly Entry[];
  readonly final: readonly FinalMessage[];
  /** Empty where the database keeps none. */
  readonly journal?: readonly Change[];
  readonly effects?: readonly Effect[];
  readonly limits?: readonly Limit[];
  readonly buckets?: readonly Bucket[];
}

export const RULES = [
  "lost",
  "never_sent",
  "torn_batch",
  "stored_twice",
  "dead_without_reason",
  "two_leases",
  "receipt_order",
  "settled_unclaimed",
  "settled_stale",
  "settled_twice",
  "effect_twice",
  "attempts",
  "key_order",
  "key_overlap",
  "limit",
  "bucket",
  "expired",
  "journal_gap",
] as const;
export type Rule = (typeof RULES)[number];

export interface Violation {
  readonly rule: Rule;
  readonly what: string;
}
