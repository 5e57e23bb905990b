import { MessageType } from "../../protocol/types.ts";
import type { BuriedRow, BuriedStore } from "../../store/buried.ts";
import type { Parts, SweepStep } from "../parts.ts";

const LOOK_EVERY_MS = 10_000;
/** Longer than the transaction takes that buries a message. */
const SETTLED_MS = 10_000;
/** Dead letters that one look reads: what is left over waits for the next sweep. */
const PAGE = 500;
/** Where nothing says for how long an answer is waited for. */
const LOOK_BACK_MS = 3_600_000;

/** What nobody says twice, and a task waits for. */
const ANSWERS: readonly string[] = [
  MessageType.TASK_RESPONSE,
  MessageType.ERROR_REPORT,
  MessageType.INPUT_RESPONSE,
  MessageType.BID,
];

/**
 * An answer that a supervisor did not get through with, or died of as often as its sender allows, is a dead letter,
 * and its task would wait until it is called unanswered. Such a one is sent to the supervisor once more: applied
 * twice, it changes nothing. One that is buried again stays, for people to look at.
 */
export class BuriedAnswers implements SweepStep {
  readonly #parts: Parts;
  readonly #store: BuriedStore;
  readonly #supervisorId: string;
  readonly #lookBackMs: number;
  /** Where the next look goes on: a hint, nothing depends on it. */
  #after: BuriedRow | undefined;
  #lookAt = 0;

  /** @param unansweredMs how long an answer is waited for; null: for ever */
  constructor(
    parts: Parts,
    store: BuriedStore,
    { supervisorId, unansweredMs }: { supervisorId: string; unansweredMs: number | null },
  ) {
    this.#parts = parts;
    this.#store = store;
    this.#supervisorId = supervisorId;
    this.#lookBackMs = Math.max(unansweredMs ?? LOOK_BACK_MS, 2 * SETTLED_MS);
  }

  async sweep(): Promise<void> {
    if (performance.now() < this.#lookAt) return;
    const page = await this.#store.page({
      after: this.#after,
      lookBackMs: this.#lookBackMs,
      settledMs: SETTLED_MS,
      limit: PAGE,
    });
    await this.#sendAgain(page.filter((row) => this.#isMine(row)));
    this.#after = page.at(-1) ?? this.#after;
    if (page.length < PAGE) this.#lookAt = performance.now() + LOOK_EVERY_MS;
  }

  /** What was sent again before has had its chance, whoever gave it. */
  #isMine({ toAgent, reason, redriven }: BuriedRow): boolean {
    return toAgent === this.#supervisorId && reason === "max_attempts" && redriven === 0;
  }

  async #sendAgain(letters: readonly BuriedRow[]): Promise<void> {
    // `reply` to INPUT_REQUEST has this type; others may be for a hook, which is to see nothing once more.
    const replies = letters.filter(({ messageType }) => messageType === MessageType.RESPONSE);
    const toQuestions = await this.#store.having(
      "input_id",
      replies.map(({ seq }) => seq),
    );
    const messageIds = letters
      .filter(({ messageType, seq }) => ANSWERS.includes(messageType) || toQuestions.has(seq))
      .map(({ messageId }) => messageId);
    if (messageIds.length === 0) return;
    // Who else does so at the same time finds it gone.
    await this.#parts.queue.deadLetters.redrive({
      messageIds,
      agentId: this.#supervisorId,
      reason: "max_attempts",
    });
  }
}
