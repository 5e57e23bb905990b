import type { Knex } from "knex";
import { onTestFinished } from "vitest";
import {
  type AgentCommunicationError,
  MessageQueueManager,
  type OutboxEvent,
} from "../../lib/index.ts";
import { Observers } from "../../lib/protocol/events.ts";
import type { QueueOptionsInput } from "../../lib/protocol/options.ts";

let mailboxes = 0;

/** A mailbox that no other test of the file uses. */
export function mailbox(name = "agent"): string {
  return `${name}-${++mailboxes}`;
}

export interface Watched {
  readonly queue: MessageQueueManager;
  /** What observers were told, as `event messageId`. */
  readonly events: OutboxEvent[];
  named(messageId: string): string[];
}

/** A queue on a knex that the test owns; closed when the test ends. */
export function watched(knex: Knex, options: QueueOptionsInput = {}): Watched {
  const events: OutboxEvent[] = [];
  const observers = new Observers();
  observers.add((told) => events.push(...told));
  const queue = new MessageQueueManager(knex, { ...options, observers });
  onTestFinished(() => queue.close());
  return {
    queue,
    events,
    named: (messageId) =>
      events.flatMap((event) =>
        event.type === "message" && event.messageId === messageId ? [event.event] : [],
      ),
  };
}

/** The error that a call ends with; fails the test when it ends well. */
export async function failure(run: () => unknown): Promise<AgentCommunicationError> {
  try {
    await run();
  } catch (error) {
    return error as AgentCommunicationError;
  }
  throw new Error("expected an error, and there was none");
}

/**
 * Lets time pass for a message without waiting: its instants move into the past, as if the database's clock had
 * gone on by `ms`.
 */
export async function elapse(knex: Knex, ms: number, messageId?: string): Promise<void> {
  const query = knex("outbox_messages");
  if (messageId !== undefined) query.where({ message_id: messageId });
  await query.update({
    visible_at: knex.raw("visible_at - ?", [ms]),
    due_at: knex.raw("due_at - ?", [ms]),
    expires_at: knex.raw("expires_at - ?", [ms]),
  });
}

export const note = (toAgent: string, content: object = { n: 1 }) => ({
  toAgent,
  messageType: "NOTE",
  content,
});
