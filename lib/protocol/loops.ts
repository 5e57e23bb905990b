/** The message that a handler was at when it sent another one. */
export interface Cause {
  readonly messageId: string;
  readonly fromAgent: string;
  readonly contextId: string | null;
  readonly hops: number;
  /** The senders of the messages that led to it, oldest first. */
  readonly trail: readonly string[];
}

/** 0 switches a limit off. */
export interface LoopLimits {
  readonly maxHops: number;
  readonly maxPingPong: number;
}

/** Why a message becomes a dead letter instead of being delivered. */
export type BrakeReason = "hop_limit" | "ping_pong" | "conversation_limit";

export interface Brake {
  readonly reason: BrakeReason;
  /** What happened, and what to do about it. */
  readonly message: string;
}

/** What a message has from the one that led to it. */
export interface Descent {
  readonly hops?: number | undefined;
  readonly trail?: readonly string[] | undefined;
  readonly causationId?: string | undefined;
  readonly contextId?: string | undefined;
}

/** The fields that a sender may give himself. */
type Given = Pick<Descent, "hops" | "causationId" | "contextId">;

/** So many senders of a chain are kept at least. */
const LEAST_TRAIL = 16;
/** An explanation names no more of them. */
const MOST_SHOWN = 12;

/**
 * Continues the chain of the cause; `hops: 0` begins a new one. Only what tells where a message comes from is
 * inherited: a correlationId is not, since requesters take what bears theirs for the answer.
 */
export function descent(
  given: Given,
  cause: Cause | undefined,
  { maxPingPong }: Pick<LoopLimits, "maxPingPong"> = { maxPingPong: 0 },
): Descent {
  const { hops, causationId, contextId } = given;
  if (cause === undefined || hops === 0) return { hops: hops || undefined, causationId, contextId };
  const kept = Math.max(LEAST_TRAIL, 2 * maxPingPong);
  return {
    // Who passes a message on as it is cannot stay below the limit by that.
    hops: Math.max(hops ?? 0, cause.hops + 1),
    trail: [...cause.trail, cause.fromAgent].slice(-kept),
    causationId: causationId ?? cause.messageId,
    contextId: contextId ?? cause.contextId ?? undefined,
  };
}

interface Chained {
  readonly fromAgent: string;
  readonly toAgent: readonly string[];
  readonly hops?: number | undefined;
  readonly trail?: readonly string[] | undefined;
}

/** What stops a message, as far as the message itself tells; undefined: nothing. */
export function brakeOn(message: Chained, { maxHops, maxPingPong }: LoopLimits): Brake | undefined {
  const { fromAgent, toAgent, hops = 0, trail = [] } = message;
  const chain = [...trail, fromAgent];
  const partner = maxPingPong === 0 ? undefined : pingPong(chain, toAgent, maxPingPong);
  if (partner !== undefined) {
    return {
      reason: "ping_pong",
      message: `${fromAgent} and ${partner} have answered each other for more than maxPingPong (${maxPingPong}) round trips: ${shownChain(message)}. Let one of them not answer an answer; or, if it is meant, raise maxPingPong (0: no limit) or begin a new chain with hops: 0, as a redrive of this one does.`,
    };
  }
  if (maxHops === 0 || hops <= maxHops) return undefined;
  return {
    reason: "hop_limit",
    message: `${hops} messages led to this one, more than maxHops (${maxHops}): ${shownChain(message)}. Find out why these agents go on causing messages of each other; or, if it is meant, raise maxHops (0: no limit) or begin a new chain with hops: 0, as a redrive of this one does.`,
  };
}

/** The same for a conversation that has `count` messages with this one. */
export function conversationBrake(
  contextId: string,
  count: number,
  maxMessages: number,
): Brake | undefined {
  if (maxMessages === 0 || count <= maxMessages) return undefined;
  return {
    reason: "conversation_limit",
    message: `conversation ${contextId} has ${count} messages with this one, more than maxConversationMessages (${maxMessages}). End it, or go on under another contextId; or, if it is meant, raise maxConversationMessages (0: no limit).`,
  };
}

/**
 * The other one of two agents who have answered each other for more than so many round trips, where this message
 * goes on with that: one that also goes to a third agent may be what ends it.
 */
function pingPong(
  chain: readonly string[],
  toAgent: readonly string[],
  rounds: number,
): string | undefined {
  const length = 2 * rounds + 1;
  if (chain.length < length) return undefined;
  const last = chain.slice(-length);
  const [one, other] = last;
  if (one === undefined || other === undefined || one === other) return undefined;
  const turns = last.every((agent, n) => agent === (n % 2 === 0 ? one : other));
  return turns && toAgent.every((agent) => agent === one || agent === other) ? other : undefined;
}

function shownChain({ fromAgent, toAgent, hops = 0, trail = [] }: Chained): string {
  const senders = [...trail, fromAgent].slice(-MOST_SHOWN);
  const before = hops + 1 > senders.length ? "… → " : "";
  const to = toAgent.length > 3 ? `${toAgent.length} agents` : toAgent.join(", ");
  return `${before}${senders.join(" → ")} → ${to}`;
}
