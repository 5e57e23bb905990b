import { z } from "zod";
import { retryChoiceSchema, retryPoliciesSchema } from "./retry.ts";
import { durationMs, id, positiveInt, workerId } from "./validate.ts";

/** The options of `work` and of a worker's `stop`: strict, with defaults, checked once at the door. */

const DAY_MS = 86_400_000;

const pollSchema = z
  .strictObject({
    /** The pause after a look that found something but not all that was asked for, in milliseconds. Default 5. */
    min: durationMs(1).default(5),
    /** The longest pause while the mailbox stays empty, in milliseconds. Default 1,000. */
    max: durationMs(1).max(DAY_MS, "expected at most a day").default(1_000),
  })
  .refine(({ min, max }) => min <= max, { message: "min is more than max", path: ["min"] });

export const workOptionsSchema = z.strictObject({
  /** Handlers that run at once, 1 to 1,000. Default 1. */
  concurrency: positiveInt(1_000).default(1),
  /**
   * The most messages that one claim takes, 1 to 1,000. Beyond the free handlers only what can start within
   * about a tenth of a second is taken. Default 100.
   */
  batchSize: positiveInt(1_000).default(100),
  /**
   * The most that this worker claims of messages that have not ended, in bytes of what they take in memory (contents,
   * headers and progress; compressed and claim-checked contents as they are once they are there), 1 to 10^12. Of large
   * messages fewer than `concurrency` are handled at once then, but always one. How large a message is shows when it
   * was claimed: a claim may pass this where messages turn out larger than the last ones, and what is over by more than
   * half is given back at once, without counting a run. An eighth of it is for what is claimed before a handler is free.
   * Default 32,000,000.
   */
  maxClaimedBytes: positiveInt(1_000_000_000_000).default(32_000_000),
  /**
   * How long a message stays claimed when this process dies, in milliseconds; 100 to a week. While a handler
   * runs, its lease is made longer every third of this. Default 30,000.
   */
  leaseMs: durationMs(100)
    .max(7 * DAY_MS, "expected at most a week")
    .default(30_000),
  /** Only these types; others stay where they are. Default: all. */
  messageTypes: z.array(id).min(1).max(100).optional(),
  /**
   * The policy, or the name of one, for errors of no class and messages without a policy of their own. Its
   * `maxAttempts`, where it has one, holds for messages that were sent without. Default: the mailbox's, else the
   * queue's.
   */
  retryPolicy: retryChoiceSchema.optional(),
  /** As the queue's option of that name, and before it. Default: none. */
  retryPolicies: retryPoliciesSchema.optional(),
  /** Pauses between looks into the mailbox; shortened by every wake-up. */
  pollMs: pollSchema.prefault({}),
  /** Who claims, for `why` and the dead letters. Default: host, process and a number. */
  workerId: workerId.optional(),
  /**
   * Told of every error: what handlers throw (with their message), and what the worker meets itself and
   * survives, such as a database that went away. What it throws is dropped. Default: the worker's own errors
   * become a process warning, once per cause.
   */
  onError: z
    .custom<unknown>((value) => typeof value === "function", "expected a function")
    .optional(),
});

export type WorkSettings = z.output<typeof workOptionsSchema>;
export type WorkOptionsInput = Omit<z.input<typeof workOptionsSchema>, "onError">;

export const stopOptionsSchema = z.strictObject({
  /**
   * `stop` returns within this many milliseconds: handlers may run until shortly before, then their signal
   * aborts and their messages are given back. Default 10,000.
   */
  deadlineMs: durationMs().max(DAY_MS, "expected at most a day").default(10_000),
});
export type StopOptions = z.input<typeof stopOptionsSchema>;
