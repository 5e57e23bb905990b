import type { Handoff } from "../../protocol/handoffs.ts";
import { MessageType } from "../../protocol/types.ts";
import type { ClaimedMessage } from "../../queue/claimed.ts";
import type { MessageQueueManager } from "../../queue/manager.ts";
import type { WorkContext, Worker, WorkOptions } from "../../queue/worker/worker.ts";
import type { Handoffs } from "./handoffs.ts";

/** How a handler decides over what is offered to it. The decision and the end of the message are one commit. */
export interface HandoffDecision {
  readonly message: ClaimedMessage;
  readonly signal: AbortSignal;
  /** @throws AgentCommunicationError HANDOFF_NO_ROOM, HANDOFF_STATE */
  accept(note?: string): Promise<Handoff>;
  reject(reason: string): Promise<Handoff>;
}

/** Told of what is offered. What it throws lets the offer be told again, by the retry policy. */
export type HandoffHandler = (handoff: Handoff, decision: HandoffDecision) => unknown;

export type HandoffListenOptions = Omit<WorkOptions, "messageTypes">;

/** How soon an agent without room is asked again, in milliseconds. */
const ASK_AGAIN_MS = 500;

/** What went over in the meantime: there is nothing left to be decided. */
const OVER = new Set(["HANDOFF_STATE", "UNKNOWN_HANDOFF"]);

export function listen(
  handoffs: Handoffs,
  queue: MessageQueueManager,
  agentId: string,
  handler: HandoffHandler,
  options: HandoffListenOptions,
): Worker {
  return queue.work(agentId, (message, context) => decide(handoffs, message, context, handler), {
    ...options,
    messageTypes: [MessageType.AGENT_HANDOFF],
  });
}

/** Hands one AGENT_HANDOFF to a handler. Returning acknowledges it. */
export async function decide(
  handoffs: Handoffs,
  message: ClaimedMessage,
  context: WorkContext,
  handler: HandoffHandler,
): Promise<void> {
  const { handoff_id: handoffId } = message.content as { handoff_id?: unknown };
  const handoff = typeof handoffId === "string" ? await handoffs.get(handoffId) : null;
  // Decided, taken back or given back before it was read.
  if (handoff === null || handoff.state !== "offered") return;
  const to = message.toAgent;
  try {
    await handler(handoff, {
      message,
      signal: context.signal,
      accept: (note) => context.tx((tx) => handoffs.accept(handoff.handoffId, to, { note, tx })),
      reject: (reason) =>
        context.tx((tx) => handoffs.reject(handoff.handoffId, to, reason, { tx })),
    });
  } catch (error) {
    const { code } = error as { code?: unknown };
    if (typeof code === "string" && OVER.has(code)) return;
    if (code !== "HANDOFF_NO_ROOM") throw error;
    await message.defer(ASK_AGAIN_MS);
  }
}
