import type { FailedRun } from "../../protocol/dead-letters.ts";
import { translated } from "../../store/sql.ts";
import { WhyStore } from "../../store/why.ts";
import type { QueueCore } from "../core.ts";
import { archivedMessage, type DeadLetter, deadLetter, liveMessage } from "../stored.ts";
import { obstacles } from "./live.ts";
import { iso, lastFailure, type WhyState } from "./words.ts";

export type { WhyState } from "./words.ts";

/** What exactly keeps a message from being delivered to one recipient, and what to do about it. */
export interface Explanation {
  readonly messageId: string;
  readonly toAgent: string | null;
  readonly state: WhyState;
  /** One sentence with the facts: of what is decisive, where several things keep it back. */
  readonly reason: string;
  /** What to do, or that nothing needs to be done. */
  readonly remedy: string;
  /** When this will change by itself, in milliseconds since the epoch; null when it will not. */
  readonly until: number | null;
  /** What else keeps it back, were it not for that. */
  readonly also: readonly string[];
  /** Its last failed runs, at most ten, oldest first. */
  readonly failures: readonly FailedRun[];
}

/** One explanation per recipient; a single "unknown" for a message that was never seen or is purged. */
export async function explain(core: QueueCore, messageId: string): Promise<Explanation[]> {
  const db = await core.db();
  const now = await core.store.now();
  const json = core.store.parseJson;
  const answers: Explanation[] = [];
  for (const row of await core.store.live(db, messageId)) {
    const message = liveMessage(row, json, now);
    const [first, ...others] = await translated(core.dialect, () =>
      obstacles(core, row, message, now),
    );
    const { toAgent, failures } = message;
    const also = others.map(({ reason }) => reason);
    answers.push({ messageId, toAgent, ...first, also, failures });
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
      also: await halting(core, letter),
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
      also: [],
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
      also: [],
      failures: [],
    },
  ];
}

/** Whether others wait for what becomes of a dead letter. */
async function halting(
  core: QueueCore,
  { toAgent, orderingKey, sequence }: DeadLetter,
): Promise<string[]> {
  if (orderingKey === null) return [];
  const look = new WhyStore(core.knex, core.options.prefix);
  const halt = await translated(core.dialect, () => look.halt(toAgent, orderingKey));
  if (halt?.sequence !== sequence) return [];
  return [
    `it halts the ordering key ${orderingKey} since ${iso(halt.at)}: \`agent-outbox keys resume ${toAgent} ${orderingKey}\` goes on without it`,
  ];
}
