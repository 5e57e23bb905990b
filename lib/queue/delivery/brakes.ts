import { type EncodedMessage, type Head, headsOf } from "../../protocol/envelope.ts";
import { type Brake, brakeOn, conversationBrake, type LoopLimits } from "../../protocol/loops.ts";
import type { Db, Dialect } from "../../store/dialect.ts";
import type { Brakes, Stop } from "../../store/stopped.ts";
import { fingerprint, storedError } from "../retries/failure.ts";

interface BrakeOptions extends LoopLimits {
  readonly maxConversationMessages: number;
}

/** What of these messages may have to be stopped; undefined, at no cost, where nothing can stop any of them. */
export function brakesFor(
  dialect: Dialect,
  options: BrakeOptions,
  messages: readonly EncodedMessage[],
): Brakes | undefined {
  const heads = headsOf(messages);
  const stopped = new Map<Head, Brake>();
  for (const head of heads) {
    if ((head.hops ?? 0) === 0) continue;
    const brake = brakeOn(head, options);
    if (brake !== undefined) stopped.set(head, brake);
  }
  const { maxConversationMessages: most } = options;
  const counted = most > 0 && heads.some(({ contextId }) => contextId !== undefined);
  if (stopped.size === 0 && !counted) return undefined;
  return {
    async stop(trx, fresh) {
      const late = counted ? await overConversations(dialect, trx, fresh, most) : new Map();
      return new Map(
        fresh.flatMap((message) => {
          const brake: Brake | undefined = stopped.get(message.head) ?? late.get(message);
          return brake === undefined ? [] : [[message, stopOf(message, brake)] as const];
        }),
      );
    },
  };
}

/** Counts what is sent; a message to several agents is one. */
async function overConversations(
  dialect: Dialect,
  trx: Db,
  messages: readonly EncodedMessage[],
  most: number,
): Promise<Map<EncodedMessage, Brake>> {
  const more = new Map<string, number>();
  for (const { head } of messages) {
    const { contextId } = head;
    if (contextId !== undefined) more.set(contextId, (more.get(contextId) ?? 0) + 1);
  }
  const stopped = new Map<EncodedMessage, Brake>();
  if (more.size === 0) return stopped;
  const items = [...more].map(([context_id, n]) => ({ context_id, n }));
  const counts = await dialect.conversations.count(trx, items);
  const at = new Map(
    items.map(({ context_id, n }) => [context_id, (counts.get(context_id) ?? n) - n]),
  );
  for (const message of messages) {
    const { contextId } = message.head;
    if (contextId === undefined) continue;
    const count = (at.get(contextId) ?? 0) + 1;
    at.set(contextId, count);
    const brake = conversationBrake(contextId, count, most);
    if (brake !== undefined) stopped.set(message, brake);
  }
  return stopped;
}

function stopOf({ head }: EncodedMessage, { reason, message: text }: Brake): Stop {
  // Dead letters of one loop have one fingerprint, whichever of its agents sent them.
  const agents = [...new Set([...(head.trail ?? []), head.fromAgent])].sort().join(" ");
  return {
    reason,
    error: storedError({ code: reason, message: text }),
    fingerprint: fingerprint("", reason, agents),
  };
}
