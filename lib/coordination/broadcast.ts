import type { Content } from "../protocol/message-input.ts";
import type { Priority } from "../protocol/types.ts";
import { type Parts, TELLING, type Tx } from "./parts.ts";

/** Recipients of one statement. */
const PAGE = 500;

export interface Broadcast {
  /** Does not get it itself. */
  readonly fromAgent: string;
  readonly messageType: string;
  readonly content: Content | object;
  readonly priority: Priority | undefined;
  /** Whether a full mailbox gets it a little later. Default: it refuses it, and with it the broadcast. */
  readonly telling?: boolean;
}

/** Sends one message to all agents that are there, page by page. Returns how many. */
export async function broadcast(
  parts: Parts,
  trx: Tx,
  { telling = false, ...message }: Broadcast,
): Promise<number> {
  const options = telling ? { tx: trx, flow: TELLING } : { tx: trx };
  let sent = 0;
  let after = "";
  for (;;) {
    const page = await parts.slots.present(trx, after, PAGE);
    const last = page.at(-1);
    if (last === undefined) return sent;
    after = last;
    const toAgent = page.filter((agentId) => agentId !== message.fromAgent);
    if (toAgent.length > 0) {
      await parts.queue.sendMessage({ ...message, toAgent }, options);
      sent += toAgent.length;
    }
    if (page.length < PAGE) return sent;
  }
}
