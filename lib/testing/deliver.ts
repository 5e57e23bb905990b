import { type ErrorRecord, ValidationFailed } from "../errors.ts";
import type { MessageEventName } from "../protocol/events.ts";
import type { MessageInput } from "../protocol/message-input.ts";
import type { WorkHandler } from "../queue/worker/worker.ts";
import type { Journal, SentMessage } from "./journal.ts";
import { MAIN, type World } from "./world.ts";

/** What came of a message that was handed to a handler. */
export interface Delivery {
  readonly messageId: string;
  /**
   * `acked`: the handler returned. `nacked`: it threw, and the message comes again. `dead_lettered`: it does not.
   * `released`: it was put off or given back. `waiting`: nobody has taken it yet.
   */
  readonly outcome: "acked" | "nacked" | "dead_lettered" | "released" | "cancelled" | "waiting";
  /** What the handler returned, where one was given. */
  readonly returned: unknown;
  /** What it threw, or why the message is dead; null where it did not fail. */
  readonly error: ErrorRecord | null;
  /** What was sent because of the message to whoever awaits an answer to it. */
  readonly replies: readonly SentMessage[];
  /** Everything that was sent because of it, replies included. */
  readonly sent: readonly SentMessage[];
}

const OUTCOMES: Partial<Record<MessageEventName, Delivery["outcome"]>> = {
  processed: "acked",
  retried: "nacked",
  dead_lettered: "dead_lettered",
  released: "released",
  cancelled: "cancelled",
};

/** Hands a handler to a mailbox for as long as one delivery takes; the returned call takes it away again. */
export type Consume = (agentId: string, handler: WorkHandler) => Promise<() => Promise<void>>;

export async function deliver(
  world: World,
  journal: Journal,
  message: MessageInput,
  handler: WorkHandler | undefined,
  consume: Consume,
): Promise<Delivery> {
  const main = world.processes.get(MAIN);
  const { toAgent } = message;
  if (typeof toAgent !== "string") throw new ValidationFailed("deliver: expected one recipient");
  let returned: unknown;
  const stop =
    handler === undefined
      ? undefined
      : await consume(toAgent, async (claimed, context) => {
          const value = await handler(claimed, context);
          if (claimed.messageId === messageId) returned = value;
          return value;
        });
  let messageId = "";
  const from = journal.events.length;
  try {
    const sent = await main?.outbox.queue.sendMessage(message);
    messageId = sent?.messageId ?? "";
    await world.settle();
  } finally {
    await stop?.();
  }
  const stored = await world.queue.getMessage(messageId);
  const end = journal.of(messageId, toAgent).find((event) => OUTCOMES[event] !== undefined);
  const answer = message.replyTo ?? stored?.replyTo ?? stored?.fromAgent;
  const caused = (await journal.sent(world.queue, {}, from)).filter(
    (one) => one.causationId === messageId,
  );
  return {
    messageId,
    outcome: (end === undefined ? undefined : OUTCOMES[end]) ?? "waiting",
    returned,
    error: stored?.lastError ?? null,
    replies: caused.filter((one) => one.toAgent === answer),
    sent: caused,
  };
}
