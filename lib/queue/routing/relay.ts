import type { MessageInput } from "../../protocol/message-input.ts";
import type { ClaimedMessage } from "../claimed.ts";
import type { MessageQueueManager } from "../manager.ts";
import type { WorkContext } from "../worker/worker.ts";
import { RELAY_TO, RELAYED_FROM } from "./route.ts";

/** Who a message is for that was sent past the hub; undefined: it is for the hub itself. */
export function relayTargets({ headers }: Pick<ClaimedMessage, "headers">): string[] | undefined {
  const written = headers?.[RELAY_TO];
  if (typeof written !== "string") return undefined;
  try {
    const targets = JSON.parse(written) as unknown;
    return Array.isArray(targets) && targets.every((to) => typeof to === "string")
      ? targets
      : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Passes a message on that reached the hub instead of its target, in the transaction that acknowledges it: exactly
 * once, as it was, with the sender in the header `relayed-from`; an answer goes back the same way. False when the
 * message is for the hub itself, and nothing was done.
 */
export async function relay(
  queue: Pick<MessageQueueManager, "sendMessage">,
  message: ClaimedMessage,
  context: Pick<WorkContext, "tx">,
): Promise<boolean> {
  const toAgent = relayTargets(message);
  if (toAgent === undefined) return false;
  const { [RELAY_TO]: _, ...headers } = message.headers ?? {};
  const onward: MessageInput = {
    fromAgent: message.toAgent,
    toAgent,
    messageType: message.messageType,
    kind: message.kind,
    content: message.content,
    priority: message.priority,
    headers,
    replyTo: message.replyTo ?? String(headers[RELAYED_FROM] ?? message.fromAgent),
    correlationId: message.correlationId ?? undefined,
    causationId: message.causationId ?? undefined,
    contextId: message.contextId ?? undefined,
    taskId: message.taskId ?? undefined,
    subject: message.subject ?? undefined,
    expiresAt: message.expiresAt ?? undefined,
    // The sender asked for these, and cannot ask the hub.
    orderingKey: message.orderingKey ?? undefined,
    concurrencyKey: message.concurrencyKey ?? undefined,
    cost: message.cost ?? undefined,
    delivery: message.delivery ?? undefined,
  };
  await context.tx((tx) => queue.sendMessage(onward, { tx, causedBy: message }));
  return true;
}
