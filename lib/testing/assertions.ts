import { AssertionError } from "node:assert";
import type { MessageEventName } from "../protocol/events.ts";
import type { DeadLetter, StoredMessage } from "../queue/stored.ts";
import type { Journal } from "./journal.ts";
import type { World } from "./world.ts";

/** How many of the messages that were sent ended how. */
export interface Census {
  readonly sent: number;
  readonly processed: number;
  readonly deadLettered: number;
  readonly cancelled: number;
  /** Not ended yet: ready, scheduled, blocked or leased. */
  readonly live: number;
}

const ENDS = new Set<MessageEventName>(["processed", "dead_lettered", "cancelled"]);

/** What a test says must have happened. Each throws an AssertionError that tells what did happen. */
export class Assertions {
  readonly #world: World;
  readonly #journal: Journal;

  constructor(world: World, journal: Journal) {
    this.#world = world;
    this.#journal = journal;
  }

  /** The message was processed. */
  async assertDelivered(messageId: string): Promise<StoredMessage> {
    const message = await this.#message(messageId, this.assertDelivered);
    if (message.state === "processed") return message;
    throw await this.#failed(messageId, this.assertDelivered, {
      message: `the message ${messageId} is ${message.state}, not processed`,
      actual: message.state,
      expected: "processed",
    });
  }

  /** The message failed and was tried again, so many times. */
  async assertRetried(messageId: string, times: number): Promise<void> {
    await this.#message(messageId, this.assertRetried);
    const actual = this.#journal.of(messageId).filter((event) => event === "retried").length;
    if (actual === times) return;
    throw await this.#failed(messageId, this.assertRetried, {
      message: `the message ${messageId} was tried again ${actual} times, not ${times}`,
      actual,
      expected: times,
    });
  }

  /** The message is a dead letter; for this reason, where one is given. */
  async assertDeadLettered(messageId: string, reason?: string): Promise<DeadLetter> {
    const message = await this.#message(messageId, this.assertDeadLettered);
    const letter = await this.#world.queue.deadLetters.get(messageId);
    if (letter === null) {
      throw await this.#failed(messageId, this.assertDeadLettered, {
        message: `the message ${messageId} is ${message.state}, not dead`,
        actual: message.state,
        expected: "dead",
      });
    }
    if (reason === undefined || letter.reason === reason) return letter;
    throw await this.#failed(messageId, this.assertDeadLettered, {
      message: `the message ${messageId} is dead, but for another reason`,
      actual: letter.reason,
      expected: reason,
    });
  }

  /**
   * Every message that was sent is somewhere: processed, cancelled, dead or still live. And none was processed
   * twice. Returns how many of each there are.
   */
  async expectNoLoss(): Promise<Census> {
    const copies = new Map<string, { messageId: string; toAgent: string }>();
    for (const event of this.#journal.events) {
      if (event.type !== "message" || event.event !== "sent") continue;
      const { messageId, toAgent } = event;
      copies.set(JSON.stringify([messageId, toAgent]), { messageId, toAgent });
    }
    const counts = { processed: 0, deadLettered: 0, cancelled: 0, live: 0 };
    const wrong: string[] = [];
    for (const { messageId, toAgent } of copies.values()) {
      const ends = this.#journal.of(messageId, toAgent).filter((event) => ENDS.has(event));
      const processed = ends.filter((event) => event === "processed").length;
      if (processed > 1)
        wrong.push(`${messageId} to "${toAgent}" was processed ${processed} times`);
      if (await this.#lies("messages", messageId, toAgent)) counts.live++;
      else if (await this.#lies("dead_letters", messageId, toAgent)) counts.deadLettered++;
      else if (ends.at(-1) === "processed") counts.processed++;
      else if (ends.at(-1) === "cancelled") counts.cancelled++;
      // Deleted from the dead letters by somebody who meant it.
      else if (ends.at(-1) === "dead_lettered") counts.deadLettered++;
      else if (await this.#lies("archive", messageId, toAgent)) counts.processed++;
      else wrong.push(`${messageId} to "${toAgent}" is lost`);
    }
    if (wrong.length > 0) {
      throw new AssertionError({
        message: `${wrong.length} of ${copies.size} messages went wrong:\n${wrong.map((one) => `  - ${one}`).join("\n")}`,
        actual: wrong,
        expected: [],
        operator: "expectNoLoss",
        stackStartFn: this.expectNoLoss,
      });
    }
    return { sent: copies.size, ...counts };
  }

  async #lies(table: string, messageId: string, toAgent: string): Promise<boolean> {
    const { knex, prefix } = this.#world.database;
    const row = await knex(`${prefix}${table}`)
      .where({ message_id: messageId, to_agent: toAgent })
      .first("seq");
    return row !== undefined;
  }

  async #message(
    messageId: string,
    stackStartFn: (...given: never[]) => unknown,
  ): Promise<StoredMessage> {
    const message = await this.#world.queue.getMessage(messageId);
    if (message !== null) return message;
    throw new AssertionError({
      message: `there is no message ${messageId}`,
      actual: null,
      expected: messageId,
      operator: stackStartFn.name,
      stackStartFn,
    });
  }

  /** With what became of the message, and why it waits where it does. */
  async #failed(
    messageId: string,
    stackStartFn: (...given: never[]) => unknown,
    { message, actual, expected }: { message: string; actual: unknown; expected: unknown },
  ): Promise<AssertionError> {
    const story = this.#journal.of(messageId).join(", ");
    const why = await this.#world.queue.why(messageId).catch(() => []);
    const lines = [
      message,
      `  what happened: ${story === "" ? "nothing that was observed" : story}`,
      ...why.map((one) => `  why: ${one.reason}`),
    ];
    return new AssertionError({
      message: lines.join("\n"),
      ...{ actual, expected, operator: stackStartFn.name, stackStartFn },
    });
  }
}
