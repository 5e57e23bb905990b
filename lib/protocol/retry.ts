import { z } from "zod";
import { durationMs, positiveInt } from "./validate.ts";

/** When a failed message is tried again. */
export const retryPolicySchema = z.strictObject({
  /** All runs together, the first included. Default 3. */
  maxAttempts: positiveInt(1_000).default(3),
  /** `exponential`: initialDelayMs × factor^(run−1); `fixed`: always initialDelayMs; `schedule`: delaysMs in turn. */
  strategy: z.enum(["exponential", "fixed", "schedule"]).default("exponential"),
  /** Milliseconds before the second run. Default 1,000. */
  initialDelayMs: durationMs().default(1_000),
  /** Default 2. */
  factor: z.number().min(1).max(100).default(2),
  /** No pause is longer, in milliseconds. Default 30,000. */
  maxDelayMs: durationMs().default(30_000),
  /** For `schedule`: the pause before the second, third, … run; the last one repeats. */
  delaysMs: z.array(durationMs()).min(1).optional(),
  /** Shortens each pause by a random part of up to this share, so that failures spread. 0 turns it off. Default 0.2. */
  jitter: z.number().min(0).max(1).default(0.2),
});

export type RetryPolicyInput = z.input<typeof retryPolicySchema>;
export type RetryPolicy = z.output<typeof retryPolicySchema>;

export const DEFAULT_RETRY_POLICY: RetryPolicy = retryPolicySchema.parse({});

/** The pause after run number `attempt` failed, in whole milliseconds. */
export function retryDelayMs(
  policy: RetryPolicy,
  attempt: number,
  random: () => number = Math.random,
): number {
  const base = Math.min(pause(policy, attempt), policy.maxDelayMs);
  return Math.round(base * (1 - policy.jitter * random()));
}

function pause(policy: RetryPolicy, attempt: number): number {
  const delays = policy.delaysMs ?? [];
  switch (policy.strategy) {
    case "fixed":
      return policy.initialDelayMs;
    case "schedule":
      return delays[Math.min(attempt, delays.length) - 1] ?? policy.initialDelayMs;
    case "exponential":
      return policy.initialDelayMs * policy.factor ** Math.min(attempt - 1, 64);
  }
}
