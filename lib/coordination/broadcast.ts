import type { Content } from "../protocol/message-input.ts";
import type { Priority } from "../protocol/types.ts";
import type { Parts, Tx } from "./parts.ts";

/** Recipients of one statement. */
const PAGE = 500;

export interface Broadcast {
  /** Does not get it itself. */
  readonly fromAgent: string;
  readonly messageType: string;
  readonly content: Content | object;
  readonly priority: Priority | undefined;
}

/** Sends one message to all agents that are there, page by page. Returns how many. */
export async function broadcast(parts: Parts, trx: Tx, message: Broadcast): Promise<number> {
  let sent = 0;
  let after = "";
  for (;;) {
    const page = await parts.slots.present(trx, after, PAGE);
    const last = page.at(-1);
    if (last === undefined) return sent;
    after = last;
    const toAgent = page.filter((agentId) => agentId !== message.fromAgent);
    if (toAgent.length > 0) {
      await parts.queue.sendMessage({ ...message, toAgent }, { tx: trx });
      sent += toAgent.length;
    }
    if (page.length < PAGE) return sent;
  }
}
