import { readCall } from "../../protocol/auctions.ts";
import type { ClaimedMessage } from "../../queue/claimed.ts";
import type { Auctions, BidHook } from "./auctions.ts";

/** Answers a call for bids as an agent's hook says; without one, or where it throws, the agent declines. */
export async function answerCall(
  auctions: Auctions,
  message: ClaimedMessage,
  hook: BidHook | undefined,
  tell: (error: unknown) => void,
): Promise<void> {
  const call = readCall(message.content);
  let amount: number | null = null;
  try {
    amount = (await hook?.(call)) ?? null;
  } catch (error) {
    tell(error);
  }
  await auctions.bid(call.taskId, message.toAgent, { amount }, { round: call.round });
}
