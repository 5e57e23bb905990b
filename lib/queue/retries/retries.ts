import { ownRetry, type RetryChoice, retryDelayMs } from "../../protocol/retry.ts";
import {
  policyFor,
  type RetryLevel,
  type RetryLevels,
  retryAfterMsOf,
} from "../../protocol/retry-class.ts";
import type { Db } from "../../store/dialect.ts";
import { mailboxRetry } from "../../store/mailbox-retry.ts";
import { isTransaction } from "../../store/sql.ts";
import type { ClaimedMessage } from "../claimed.ts";
import type { QueueCore } from "../core.ts";

/** What a handler says of its failures. */
export type HandlerRetry = RetryLevel<RetryChoice | undefined>;

/** What is to become of a message whose run failed. */
export type Verdict =
  | {
      readonly end: "bury";
      readonly reason: "rejected" | "max_attempts";
      /** For the circuit breaker of the mailbox. */
      readonly counts: boolean;
    }
  /** With `maxAttempts`, where it gets more runs than it had. */
  | {
      readonly end: "retry";
      readonly delayMs: number;
      readonly maxAttempts: number | undefined;
      readonly counts: boolean;
    }
  /** Put off without counting the run. */
  | { readonly end: "park"; readonly delayMs: number };

/** A run that does not count could be repeated for ever: not more often than this. */
const LEAST_PARK_MS = 100;

export const REJECTED: Verdict = { end: "bury", reason: "rejected", counts: true };

/**
 * The policies put to use. The number of runs is the sender's where he gave one, else that of the policy chosen;
 * the queue's own says nothing new: the message was sent with it.
 */
export function verdictOn(
  run: Pick<ClaimedMessage, "attempt" | "maxAttempts" | "maxAttemptsFixed">,
  error: unknown,
  levels: RetryLevels,
  delayMs?: number,
): Verdict {
  const { policy, by, errorClass, hopeless } = policyFor(error, levels);
  if (hopeless && delayMs === undefined) return REJECTED;
  const counts = policy.circuitBreaker;
  const asked = policy.respectRetryAfter ? retryAfterMsOf(error) : undefined;
  if (asked !== undefined && delayMs === undefined && errorClass === "rate_limit") {
    return { end: "park", delayMs: Math.max(LEAST_PARK_MS, asked) };
  }
  const own = run.maxAttemptsFixed || by === "queue" ? undefined : policy.maxAttempts;
  if (run.attempt >= (own ?? run.maxAttempts))
    return { end: "bury", reason: "max_attempts", counts };
  return {
    end: "retry",
    counts,
    delayMs: delayMs ?? asked ?? retryDelayMs(policy, run.attempt),
    maxAttempts: own !== undefined && own > run.maxAttempts ? own : undefined,
  };
}

/** The policy of a mailbox, and when it was asked for. */
interface Looked {
  readonly at: number;
  readonly policy: Promise<RetryChoice | undefined>;
}

const NOTHING = () => undefined;

const CACHE_MS = 1_000;
const MOST_CACHED = 1_000;

/** Which policies a claim of this queue is under. */
export class Retries {
  readonly #core: QueueCore;
  readonly #mailboxes = new Map<string, Looked>();

  constructor(core: QueueCore) {
    this.#core = core;
  }

  /** A mailbox was given another policy here: the next failure looks. */
  forget(): void {
    this.#mailboxes.clear();
  }

  /** What becomes of it. Who gives a delay wants a further run after it, if there is one left. */
  async verdict(
    db: Db,
    claim: ClaimedMessage,
    error: unknown,
    delayMs: number | undefined,
  ): Promise<Verdict> {
    const { retryPolicy: policy, retryPolicies: policies } = this.#core.options;
    const levels = {
      message: claim.retry ?? undefined,
      handler: claim.handlerRetry,
      mailbox: await this.#mailbox(db, claim.toAgent),
      queue: { policy, policies },
    };
    return verdictOn(claim, error, levels, delayMs);
  }

  /** Looked up when something failed, and at most once a second: many that fail together ask together. */
  #mailbox(db: Db, agentId: string): Promise<RetryChoice | undefined> {
    const known = this.#mailboxes.get(agentId);
    if (known !== undefined && performance.now() - known.at < CACHE_MS) return known.policy;
    const policy = this.#look(db, agentId);
    // Who waits for an answer through another's transaction may be what that waits for.
    if (isTransaction(db)) void policy.then(() => this.#note(agentId, policy), NOTHING);
    else this.#note(agentId, policy);
    return policy;
  }

  #note(agentId: string, policy: Looked["policy"]): void {
    if (this.#mailboxes.size >= MOST_CACHED) this.#mailboxes.clear();
    const looked = { at: performance.now(), policy };
    this.#mailboxes.set(agentId, looked);
    policy.catch(() => {
      if (this.#mailboxes.get(agentId) === looked) this.#mailboxes.delete(agentId);
    });
  }

  async #look(db: Db, agentId: string): Promise<RetryChoice | undefined> {
    const { dialect, mailboxTable } = this.#core.store;
    return ownRetry(await mailboxRetry(dialect, db, mailboxTable, agentId)).policy;
  }
}
