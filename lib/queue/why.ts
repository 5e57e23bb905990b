import type { FailedRun } from "../protocol/dead-letters.ts";
import type { QueueCore } from "./core.ts";
import { isErrorOf } from "./failure.ts";
import {
  archivedMessage,
  deadLetter,
  liveMessage,
  type MessageState,
  type StoredMessage,
} from "./stored.ts";

/** What exactly keeps a message from being delivered to one recipient, and what to do about it. */
export interface Explanation {
  readonly messageId: string;
  readonly toAgent: string | null;
  readonly state: MessageState | "paused" | "expired" | "unknown";
  /** One sentence with the facts. */
  readonly reason: string;
  /** What to do, or that nothing needs to be done. */
  readonly remedy: string;
  /** When this will change by itself, in milliseconds since the epoch; null when it will not. */
  readonly until: number | null;
  /** Its last failed runs, at most ten, oldest first. */
  readonly failures: readonly FailedRun[];
}

const iso = (at: number | null): string => (at === null ? "never" : new Date(at).toISOString());

/** The last run that failed, for people; nothing where none did. */
function lastFailure({ failures, lastError, maxAttempts }: StoredMessage): string {
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

function ofLive(
  message: StoredMessage,
  now: number,
  paused: { pausedAt: number; reason: string | null } | null,
): Explanation {
  const { messageId, toAgent } = message;
  const base = { messageId, toAgent, failures: message.failures };
  if (message.state === "leased") {
    return {
      ...base,
      state: "leased",
      reason: `leased by ${message.workerId} until ${iso(message.visibleAt)}, run ${message.attempt} of ${message.maxAttempts}${lastFailure(message)}`,
      remedy:
        "Wait for the worker to finish. If it died, the message is handed out again when the lease ends.",
      until: message.visibleAt,
    };
  }
  if (message.expiresAt !== null && message.expiresAt <= now) {
    return {
      ...base,
      state: "expired",
      reason: `expired at ${iso(message.expiresAt)}; it moves to the dead letters with the next claim or upkeep`,
      remedy: "Send it again with a longer ttlMs, or redrive it from the dead letters.",
      until: null,
    };
  }
  if (paused !== null) {
    const why = paused.reason === null ? "" : ` (${paused.reason})`;
    return {
      ...base,
      state: "paused",
      reason: `the mailbox ${toAgent} is paused since ${iso(paused.pausedAt)}${why}`,
      remedy: `Run \`agent-outbox resume ${toAgent}\`.`,
      until: null,
    };
  }
  if (message.state === "scheduled") {
    const failed = message.lastError !== null || message.failures.length > 0;
    return {
      ...base,
      state: "scheduled",
      reason: failed
        ? `waits until ${iso(message.visibleAt)} for run ${message.attempt + 1} of ${message.maxAttempts}${lastFailure(message)}`
        : `not due before ${iso(message.visibleAt)}`,
      remedy: "Nothing: it becomes ready by itself.",
      until: message.visibleAt,
    };
  }
  const lapsed = message.workerId !== null;
  return {
    ...base,
    state: message.state,
    reason: lapsed
      ? `ready again: the lease of ${message.workerId} passed at ${iso(message.visibleAt)} (run ${message.attempt} of ${message.maxAttempts})${lastFailure(message)}`
      : `ready since ${iso(message.visibleAt)}; no consumer of ${toAgent} has claimed it${lastFailure(message)}`,
    remedy: `Check that a worker polls the mailbox ${toAgent} and has room (\`agent-outbox stats ${toAgent}\`).`,
    until: null,
  };
}

/** One explanation per recipient; a single "unknown" for a message that was never seen or is purged. */
export async function explain(core: QueueCore, messageId: string): Promise<Explanation[]> {
  const db = await core.db();
  const now = await core.store.now();
  const json = core.store.parseJson;
  const answers: Explanation[] = [];
  for (const row of await core.store.live(db, messageId)) {
    const message = liveMessage(row, json, now);
    answers.push(ofLive(message, now, await core.upkeep.paused(db, message.toAgent)));
  }
  for (const row of await core.dead.get(db, messageId)) {
    const letter = deadLetter(row, json);
    answers.push({
      messageId,
      toAgent: letter.toAgent,
      state: "dead",
      reason: `dead-lettered at ${iso(letter.failedAt)} with reason ${letter.reason} after ${letter.attempt} of ${letter.maxAttempts} runs${lastFailure(letter)}`,
      remedy: `Mend the cause, then run \`agent-outbox dlq redrive ${messageId}\`.`,
      until: null,
      failures: letter.failures,
    });
  }
  for (const row of await core.store.archived(db, messageId)) {
    const message = archivedMessage(row, json);
    answers.push({
      messageId,
      toAgent: message.toAgent,
      state: message.state,
      reason: `${message.state} at ${iso(message.finishedAt)}${message.workerId === null ? "" : ` by ${message.workerId}`} in run ${message.attempt}`,
      remedy: "Nothing: it is finished.",
      until: null,
      failures: message.failures,
    });
  }
  if (answers.length > 0) return answers;
  return [
    {
      messageId,
      toAgent: null,
      state: "unknown",
      reason: `no message ${messageId} is stored: it was never committed, or was finished and purged`,
      remedy:
        "Check the id, and whether the sender's transaction committed; the audit log tells of finished ones.",
      until: null,
      failures: [],
    },
  ];
}
