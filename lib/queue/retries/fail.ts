import { errorRecord } from "../../errors.ts";
import { limitOf } from "../../protocol/retry-class.ts";
import { afterCommit } from "../../store/after-commit.ts";
import type { Db } from "../../store/dialect.ts";
import { keyOf } from "../../store/keys.ts";
import { isTransaction } from "../../store/sql.ts";
import type { ClaimedMessage } from "../claimed.ts";
import type { QueueCore } from "../core.ts";
import { failedRun, storedError } from "./failure.ts";
import { REJECTED } from "./retries.ts";

export interface FailOptions {
  readonly delayMs?: number | undefined;
  /** False: no further run. */
  readonly retry: boolean;
  /** Default: for as long as the claim is held. */
  readonly durationMs?: number;
}

/** How a failed run ended, and when the message is handed out again. */
export interface Failed {
  readonly outcome: "retried" | "dead_lettered" | "stale" | "gone";
  readonly delayMs: number;
  /** The run does not count. */
  readonly parked: boolean;
}

/** Tries the message again later, parks it or buries it. */
export async function fail(
  core: QueueCore,
  db: Db,
  claim: ClaimedMessage,
  error: unknown,
  options: FailOptions,
): Promise<Failed> {
  const cause = error ?? new Error("no error was given");
  const durationMs = options.durationMs ?? claim.heldMs;
  const verdict = options.retry
    ? await core.retries.verdict(db, claim, cause, options.delayMs)
    : REJECTED;
  if (verdict.end === "bury") {
    const { reason, counts } = verdict;
    const outcome = await core.bury(db, claim, reason, cause, { durationMs, counts });
    const buried = outcome === "done" ? "dead_lettered" : outcome;
    return { outcome: buried, delayMs: 0, parked: false };
  }
  const { delayMs } = verdict;
  const parked = verdict.end === "park";
  const record = errorRecord(cause);
  if (parked) await park(core, db, claim, delayMs, cause);
  const [outcome = "gone"] = await core.store.release(db, [
    {
      ...{ seq: claim.sequence, receipt: claim.receipt, key: keyOf(claim) },
      delay_ms: delayMs,
      keep_attempt: parked,
      error: storedError(record),
      ...(parked ? {} : { failure: failedRun(record, durationMs) }),
      ...(parked || verdict.maxAttempts === undefined ? {} : { max_attempts: verdict.maxAttempts }),
    },
  ]);
  const reason = `${record.code}: ${record.message}`;
  const event = parked ? "released" : "retried";
  await core.ended(db, [claim], [outcome], event, reason, !parked && verdict.counts);
  if (outcome === "done" && delayMs === 0) core.wakeAfter(db, [claim]);
  return { outcome: outcome === "done" ? "retried" : outcome, delayMs, parked };
}

/** Before the message is given back: no other is to be told "too often" meanwhile. */
async function park(
  core: QueueCore,
  db: Db,
  claim: ClaimedMessage,
  forMs: number,
  error: unknown,
): Promise<void> {
  const parked = () => core.gates.park([claim], forMs, limitOf(error));
  if (isTransaction(db)) afterCommit(db, () => void parked().catch(() => undefined));
  else await parked();
}
