import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { DEFAULT_RETRY_POLICY, retryDelayMs, retryPolicySchema } from "../../lib/protocol/retry.ts";

describe("retry policy", () => {
  it("is three runs, 1 s × 2, at most 30 s, where nothing is said", () => {
    expect(DEFAULT_RETRY_POLICY).toMatchObject({
      maxAttempts: 3,
      strategy: "exponential",
      initialDelayMs: 1_000,
      factor: 2,
      maxDelayMs: 30_000,
    });
    const steady = { ...DEFAULT_RETRY_POLICY, jitter: 0 };
    expect([1, 2, 3, 4, 5, 6, 7, 500].map((attempt) => retryDelayMs(steady, attempt))).toEqual([
      1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000,
    ]);
  });

  it("follows a fixed pause and a schedule", () => {
    const fixed = retryPolicySchema.parse({ strategy: "fixed", initialDelayMs: 50, jitter: 0 });
    expect([1, 9].map((attempt) => retryDelayMs(fixed, attempt))).toEqual([50, 50]);
    const schedule = retryPolicySchema.parse({
      strategy: "schedule",
      delaysMs: [1, 20, 300],
      jitter: 0,
    });
    expect([1, 2, 3, 4].map((attempt) => retryDelayMs(schedule, attempt))).toEqual([
      1, 20, 300, 300,
    ]);
  });

  it("jitter only shortens, within its share, and never breaks the cap", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 1_000 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        (attempt, jitter, random) => {
          const full = retryDelayMs({ ...DEFAULT_RETRY_POLICY, jitter: 0 }, attempt);
          const delay = retryDelayMs({ ...DEFAULT_RETRY_POLICY, jitter }, attempt, () => random);
          expect(delay).toBeLessThanOrEqual(Math.min(full, 30_000));
          expect(delay).toBeGreaterThanOrEqual(Math.floor(full * (1 - jitter)));
          expect(Number.isInteger(delay)).toBe(true);
        },
      ),
    );
  });
});
