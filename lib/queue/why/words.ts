import type { InTheWay } from "../../store/why.ts";
import { isErrorOf } from "../retries/failure.ts";
import type { MessageState, StoredMessage } from "../stored.ts";

/**
 * Where a message stands: as it is stored, or what keeps it there. `halted`: a dead letter halts its ordering key;
 * `circuit_open`: its mailbox's breaker is open or half open; `limited`: it is over a limit.
 */
export type WhyState =
  | MessageState
  | "paused"
  | "halted"
  | "circuit_open"
  | "limited"
  | "maintenance"
  | "expired"
  | "unknown";

/** One thing that keeps a message back. */
export interface Obstacle {
  readonly state: WhyState;
  readonly reason: string;
  readonly remedy: string;
  /** When it will change by itself; null when it will not, or nobody knows. */
  readonly until: number | null;
}

export const iso = (at: number | null): string =>
  at === null ? "never" : new Date(at).toISOString();

export function ago(ms: number): string {
  const seconds = Math.round(ms / 1_000);
  if (seconds < 120) return `${seconds} s ago`;
  return seconds < 7_200
    ? `${Math.round(seconds / 60)} min ago`
    : `${Math.round(seconds / 3_600)} h ago`;
}

/** A message in the way, and who has it. */
export function heldBy({ messageId, state, workerId, visibleAt }: InTheWay, now: number): string {
  if (state === 2) return `${messageId}, blocked itself`;
  if (visibleAt > now && workerId !== null && state === 0) {
    return `${messageId}, leased by ${workerId} until ${iso(visibleAt)}`;
  }
  if (state === 1 && visibleAt > now) return `${messageId}, scheduled for ${iso(visibleAt)}`;
  return workerId === null
    ? `${messageId}, ready since ${iso(visibleAt)}`
    : `${messageId}, whose lease by ${workerId} passed at ${iso(visibleAt)}`;
}

/** The last run that failed, for people; nothing where none did. */
export function lastFailure({ failures, lastError, maxAttempts }: StoredMessage): string {
  const run = failures.at(-1);
  // Put off without counting the run: the error is newer than the failure.
  if (lastError !== null && (run === undefined || !isErrorOf(run, lastError))) {
    return `; the last error was ${lastError.code}: ${lastError.message}`;
  }
  if (run === undefined) return "";
  const where = run.worker === null ? "" : ` on ${run.worker}`;
  const took = run.durationMs === null ? "" : ` after ${run.durationMs} ms`;
  const { code, message } = run.error;
  return `; run ${run.attempt} of ${maxAttempts} failed at ${iso(run.at)}${where}${took}: ${code}: ${message}`;
}
