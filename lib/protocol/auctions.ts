import { z } from "zod";
import { durationMs, id, parse, plainText, positiveInt } from "./validate.ts";

/** The terms of an auction. */
export const auctionSchema = z.strictObject({
  /** How long agents may bid, in milliseconds; 10 to a day. Default 5,000. */
  timeLimitMs: durationMs(10).max(86_400_000, "expected at most a day").default(5_000),
  /** With fewer bids the task goes to the least loaded agent. Default 1. */
  minBids: positiveInt(100).default(1),
  /** How many agents are asked, the least loaded first; 1 to 100. Default 20. */
  maxBidders: positiveInt(100).default(20),
  /** True: the lowest amount wins, such as a cost or a time. Default true. */
  lowest: z.boolean().default(true),
});
export type AuctionTerms = z.output<typeof auctionSchema>;

/** What an agent is asked to bid for. */
export interface CallForBids {
  readonly taskId: string;
  /** A task that comes back is not called again under the same number. */
  readonly round: number;
  readonly taskType: string;
  readonly description: string;
  readonly requiredCapabilities: readonly string[];
  readonly cost: number;
  readonly priority: number;
  readonly parameters: Readonly<Record<string, unknown>>;
  /** ISO 8601, by the database's clock. */
  readonly bidUntil: string;
}

export type BidState = "called" | "bid" | "declined" | "won" | "lost";

export interface Bid {
  readonly taskId: string;
  readonly round: number;
  readonly agentId: string;
  readonly state: BidState;
  readonly amount: number | null;
  readonly note: string | null;
  readonly calledAt: number;
  readonly answeredAt: number | null;
}

/** JSON carries no infinite numbers, and neither do all databases. */
const amount = z
  .number("expected a number")
  .refine((value) => Number.isFinite(value), { message: "expected a finite number" });

export const bidSchema = z.strictObject({
  /** What the agent asks; null: it declines. Which one is better is said by the task's terms. */
  amount: amount.nullable(),
  /** For people; up to 1,024 characters. */
  note: plainText(1_024).optional(),
});
export type BidInput = z.input<typeof bidSchema>;

const bidContent = z.looseObject({
  task_id: id,
  round: z.number().int().optional(),
  amount: amount.nullable(),
  note: plainText(1_024).optional(),
});

/** The content of a BID message. @throws ValidationFailed */
export const readBid = (content: unknown) => parse(bidContent, content, "content");

const callContent = z.looseObject({
  task_id: z.string(),
  round: z.number(),
  task_type: z.string(),
  description: z.string().default(""),
  required_capabilities: z.array(z.string()).default([]),
  cost: z.number().default(1),
  priority: z.number().default(20),
  parameters: z.record(z.string(), z.unknown()).default({}),
  bid_until: z.string(),
});

/** The content of a CALL_FOR_BIDS message. @throws ValidationFailed */
export function readCall(content: unknown): CallForBids {
  const call = parse(callContent, content, "content");
  return {
    taskId: call.task_id,
    round: call.round,
    taskType: call.task_type,
    description: call.description,
    requiredCapabilities: call.required_capabilities,
    cost: call.cost,
    priority: call.priority,
    parameters: call.parameters,
    bidUntil: call.bid_until,
  };
}
