import { z } from "zod";
import { durationMs, positiveInt } from "./validate.ts";

const DAY_MS = 86_400_000;

/** How a sender is kept from sending more than its destination gets done. */
export const flowSchema = z.strictObject({
  /**
   * How many messages of one sender to one destination that were sent under it may be unfinished at once, 1 to
   * 10,000; false: any number. Default 100.
   */
  window: z
    .union(
      [positiveInt(10_000), z.literal(false)],
      "expected a whole number from 1 to 10,000, or false",
    )
    .optional(),
  /**
   * What a send meets when the window, or the mailbox (`maxDepth`), is full: `wait` waits for room, `fail` throws
   * QUEUE_FULL, `spill` stores what has no room as scheduled. Default wait.
   */
  whenFull: z.enum(["wait", "fail", "spill"]).optional(),
  /** How long to wait for room before QUEUE_FULL, in milliseconds. Default 30,000. */
  waitMs: durationMs().max(DAY_MS, "expected at most a day").optional(),
  /** How much later what is spilled becomes available, in milliseconds. Default 1,000. */
  spillMs: durationMs(1).optional(),
});
export type FlowInput = z.input<typeof flowSchema>;

export const sendOptionsSchema = z.strictObject({
  /** What it names replaces the queue's `flow` for this call; false: none. Default: the queue's. */
  flow: z.union([flowSchema, z.literal(false)]).optional(),
});

export interface Flow {
  readonly window: number | false;
  readonly whenFull: "wait" | "fail" | "spill";
  readonly waitMs: number;
  readonly spillMs: number;
}

/** What senders meet that asked for no flow control: no window, and a mailbox that is full refuses. */
const NONE: Flow = { window: false, whenFull: "fail", waitMs: 0, spillMs: 1_000 };
const DEFAULTS: Flow = { window: 100, whenFull: "wait", waitMs: 30_000, spillMs: 1_000 };

/** The flow control of one send: its own settings over the queue's over the defaults. */
export function flowOf(queue: FlowInput | undefined, own: FlowInput | false | undefined): Flow {
  if (own === false || (own === undefined && queue === undefined)) return NONE;
  const { window, whenFull, waitMs, spillMs } = { ...DEFAULTS, ...said(queue), ...said(own) };
  return { window, whenFull, waitMs, spillMs };
}

function said(flow: FlowInput | undefined): Partial<Flow> {
  return Object.fromEntries(
    Object.entries(flow ?? {}).filter(([, value]) => value !== undefined),
  ) as Partial<Flow>;
}

export const batcherSchema = z.strictObject({
  /** The most messages of one statement, 1 to 1,000. Default 100. */
  maxSize: positiveInt(1_000).default(100),
  /** How long a message waits for others to go with it, in milliseconds. Default 10. */
  maxWaitMs: durationMs().max(60_000, "expected at most a minute").default(10),
  /** How many messages may wait to be sent; `send` of more waits itself. Default 10,000. */
  maxPending: positiveInt(1_000_000).default(10_000),
  /** Writes into the header `batch-size` how many messages went together. Default false. */
  headers: z.boolean().default(false),
  /** As of `sendMessage`. Default: the queue's. */
  flow: sendOptionsSchema.shape.flow,
});
export type BatcherOptions = z.input<typeof batcherSchema>;
export type BatcherSettings = z.output<typeof batcherSchema>;
