import type { MessageEventName, OutboxEvent } from "../protocol/events.ts";
import type { Content } from "../protocol/message-input.ts";
import type { MessageQueueManager } from "../queue/manager.ts";

/** A message that was sent, by whomever. */
export interface SentMessage {
  readonly messageId: string;
  readonly fromAgent: string;
  readonly toAgent: string;
  readonly messageType: string;
  /** By the virtual clock. */
  readonly at: number;
  readonly taskId: string | null;
  readonly correlationId: string | null;
  /** The message whose handler sent it, or null. */
  readonly causationId: string | null;
  /** Null where it is kept no longer. */
  readonly content: Content | null;
}

export interface SentFilter {
  readonly fromAgent?: string | undefined;
  readonly toAgent?: string | undefined;
  readonly messageType?: string | undefined;
  readonly taskId?: string | undefined;
}

/** Everything that observers were told, with instants of the virtual clock. */
export class Journal {
  readonly events: OutboxEvent[] = [];
  readonly #now: () => number;

  constructor(now: () => number) {
    this.#now = now;
  }

  readonly observe = (events: readonly OutboxEvent[]): void => {
    for (const event of events) this.events.push({ ...event, at: this.#now() });
  };

  /** What happened to one message, in order; of one of its mailboxes, where one is given. */
  of(messageId: string, toAgent?: string): MessageEventName[] {
    return this.events.flatMap((event) =>
      event.type === "message" &&
      event.messageId === messageId &&
      (toAgent === undefined || event.toAgent === toAgent)
        ? event.event
        : [],
    );
  }

  async sent(queue: MessageQueueManager, filter: SentFilter, from = 0): Promise<SentMessage[]> {
    const wanted = Object.entries(filter).filter(([, value]) => value !== undefined);
    const sent: SentMessage[] = [];
    for (const event of this.events.slice(from)) {
      if (event.type !== "message" || event.event !== "sent") continue;
      if (wanted.some(([name, value]) => event[name as keyof SentFilter] !== value)) continue;
      const stored = await queue.getMessage(event.messageId);
      sent.push({
        messageId: event.messageId,
        fromAgent: event.fromAgent,
        toAgent: event.toAgent,
        messageType: event.messageType,
        at: event.at,
        taskId: stored?.taskId ?? event.taskId ?? null,
        correlationId: stored?.correlationId ?? event.correlationId ?? null,
        causationId: stored?.causationId ?? null,
        content: stored?.content ?? null,
      });
    }
    return sent;
  }
}
