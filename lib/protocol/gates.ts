import { z } from "zod";
import { retryChoiceSchema } from "./retry.ts";
import { durationMs, id, positiveInt } from "./validate.ts";

/** What can be set for a mailbox, and for what goes through several of them. */

const DAY_MS = 86_400_000;

const breakerSchema = z.strictObject({
  /** So many failed runs within the monitoring period open it. Default 5. */
  failureThreshold: positiveInt(10_000).default(5),
  /** How long it stays open before one message is let through to try, in milliseconds. Default 30,000. */
  recoveryTimeoutMs: durationMs(1).max(DAY_MS, "expected at most a day").default(30_000),
  /** In milliseconds. Default 10,000. */
  monitoringPeriodMs: durationMs(1).max(DAY_MS, "expected at most a day").default(10_000),
  /** While open: `hold` keeps messages waiting; `fail` refuses sends with CIRCUIT_OPEN as well. Default hold. */
  whenOpen: z.enum(["hold", "fail"]).default("hold"),
});
export type BreakerSettings = z.output<typeof breakerSchema>;

export const mailboxSettingsSchema = z.strictObject({
  /** How many messages of one concurrency key may be in flight, 1 to 10,000. Default 1. */
  keyLimit: positiveInt(10_000).nullable().optional(),
  /** What a dead-lettered head does to its ordering key: `skip` goes on, `halt` waits for a person. Default skip. */
  onDeadLetter: z.enum(["skip", "halt"]).nullable().optional(),
  /**
   * Milliseconds of waiting that make up for one level of priority (10 points), so that what is of low priority
   * never starves. Default: no aging.
   */
  agingMs: durationMs(1)
    .max(365 * DAY_MS, "expected at most a year")
    .nullable()
    .optional(),
  /** Contexts (`contextId`) take turns, so that one with many messages does not hold up the others. Default false. */
  fair: z.boolean().nullable().optional(),
  /** Default: none. */
  breaker: breakerSchema.nullable().optional(),
  /** The most messages that may wait here; see `flow` for what a sender meets then. Default: no limit. */
  maxDepth: positiveInt(100_000_000).nullable().optional(),
  /** A policy or the name of one, for failures where error, message and handler say nothing. Default: the queue's. */
  retryPolicy: retryChoiceSchema.nullable().optional(),
});
export type MailboxChanges = z.output<typeof mailboxSettingsSchema>;
export type MailboxSettingsInput = z.input<typeof mailboxSettingsSchema>;

const rateSchema = z.strictObject({
  /** How much may pass within `perMs`: messages, or the sum of their costs. */
  amount: z.number().positive().max(1e12),
  /** In milliseconds; a minute is 60,000. */
  perMs: durationMs(1).max(365 * DAY_MS, "expected at most a year"),
  /** The most that may pass at once after a pause. Default: `amount`. */
  burst: z.number().positive().max(1e12).optional(),
});

export const limitSchema = z
  .strictObject({
    /** Only this mailbox. Default: all, together. */
    agentId: id.optional(),
    /** Only this type. Default: all, together. */
    messageType: id.optional(),
    /** At most so many in flight, never more. */
    maxInFlight: positiveInt(10_000).optional(),
    /** At most so much in a time, never more. */
    rate: rateSchema.optional(),
  })
  .refine(({ maxInFlight, rate }) => maxInFlight !== undefined || rate !== undefined, {
    message: "expected maxInFlight, rate or both",
    path: ["maxInFlight"],
  });
export type LimitInput = z.input<typeof limitSchema>;
export type LimitDefinition = z.output<typeof limitSchema>;

export const chargeSchema = z.number().min(-1e12).max(1e12);
export const parkSchema = durationMs().max(365 * DAY_MS, "expected at most a year");
