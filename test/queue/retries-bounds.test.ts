import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { RateLimited, RETRY_POLICIES } from "../../lib/index.ts";
import { retryPolicySchema } from "../../lib/protocol/retry.ts";
import { type Verdict, verdictOn } from "../../lib/queue/retries/retries.ts";
import { eachDatabase } from "../support/databases.ts";
import { elapse, mailbox, note, watched } from "../support/queue.ts";

const MOST_RUNS = 8;
const LONGEST_MS = 120_000;

const policies = fc.record(
  {
    maxAttempts: fc.integer({ min: 1, max: MOST_RUNS }),
    strategy: fc.constantFrom("exponential" as const, "fixed" as const),
    initialDelayMs: fc.integer({ min: 0, max: 5_000 }),
    factor: fc.integer({ min: 1, max: 100 }),
    maxDelayMs: fc.integer({ min: 0, max: LONGEST_MS }),
    jitter: fc.constantFrom(0, 0.2, 1),
    respectRetryAfter: fc.boolean(),
    nonRetryable: fc.constantFrom([], ["E_FATAL"]),
  },
  { requiredKeys: [] },
);
const choices = fc.option(fc.oneof(policies, fc.constantFrom(...Object.keys(RETRY_POLICIES))), {
  nil: undefined,
});
const errors = fc.oneof(
  fc.record({ retryPolicy: fc.constantFrom(...Object.keys(RETRY_POLICIES)) }),
  fc.record({ code: fc.constantFrom("ECONNRESET", "E_FATAL", "E_OTHER") }),
  fc.record({ status: fc.constantFrom(429, 500, 503), retryAfterMs: fc.nat(LONGEST_MS) }),
  fc.constantFrom(undefined, null, "text", 7),
);

describe("whatever the policies are", () => {
  it("runs never pass the number that holds, pauses never the longest, and every run has an end", () => {
    const rule = (choice: unknown) =>
      typeof choice === "object" && choice !== null
        ? {
            ...retryPolicySchema.parse(choice),
            ...("maxAttempts" in choice ? {} : { maxAttempts: undefined }),
          }
        : (choice as string | undefined);
    fc.assert(
      fc.property(
        choices,
        choices,
        choices,
        policies,
        fc.option(fc.integer({ min: 1, max: MOST_RUNS })),
        fc.array(errors, { minLength: 30, maxLength: 30 }),
        (message, handler, mailboxes, queue, fixed, thrown) => {
          const levels = {
            message: rule(message),
            handler: { policy: rule(handler) },
            mailbox: rule(mailboxes),
            queue: { policy: retryPolicySchema.parse(queue) },
          };
          const run = {
            attempt: 0,
            maxAttempts: fixed ?? levels.queue.policy.maxAttempts,
            maxAttemptsFixed: fixed !== null,
          };
          const cap = fixed ?? MOST_RUNS;
          for (const fields of thrown) {
            run.attempt++;
            expect(run.attempt).toBeLessThanOrEqual(cap);
            const error =
              typeof fields === "object" ? Object.assign(new Error("x"), fields) : fields;
            const verdict: Verdict = verdictOn(run, error, levels);
            if (verdict.end === "bury") {
              if (verdict.reason === "max_attempts") return;
              expect(JSON.stringify(levels)).toContain("E_FATAL");
              return;
            }
            expect(Number.isInteger(verdict.delayMs)).toBe(true);
            expect(verdict.delayMs).toBeGreaterThanOrEqual(0);
            expect(verdict.delayMs).toBeLessThanOrEqual(LONGEST_MS);
            if (verdict.end === "park") {
              expect(verdict.delayMs).toBeGreaterThanOrEqual(100);
              run.attempt--;
            } else if (verdict.maxAttempts !== undefined) {
              expect(fixed).toBeNull();
              expect(verdict.maxAttempts).toBeGreaterThan(run.maxAttempts);
              run.maxAttempts = verdict.maxAttempts;
            }
          }
          // Thirty runs without an end: none of them counted.
          expect(run.attempt).toBeLessThan(cap + 1);
        },
      ),
      { numRuns: 500 },
    );
  });
});

eachDatabase("runs under random policies", (database) => {
  it("attempts never pass maxAttempts, and as many failures are on record as runs counted", async () => {
    const { knex } = await database.fresh();
    const { queue } = watched(knex);
    const to = mailbox();
    const given = fc.sample(
      fc.record({ retry: choices, maxAttempts: fc.option(fc.integer({ min: 1, max: 6 })) }),
      { numRuns: 25, seed: 7 },
    );
    const sent = await queue.sendMessages(
      given.map(({ retry, maxAttempts }) => ({
        ...note(to),
        retry,
        maxAttempts: maxAttempts ?? undefined,
      })),
    );
    const thrown = fc.sample(errors, { numRuns: 400, seed: 11 });
    const runs = new Map<string, number>();
    for (let round = 0; round < 40; round++) {
      const claims = await queue.getMessages(to, { limit: 100, workerId: `w${round}` });
      for (const claim of claims) {
        runs.set(claim.messageId, (runs.get(claim.messageId) ?? 0) + 1);
        const fields = thrown.pop();
        // Some runs end with their worker.
        if (fields === 7) continue;
        const error = typeof fields === "object" ? Object.assign(new Error("x"), fields) : fields;
        // A park at the end would go on for ever.
        await claim.nack(round > 20 && error instanceof Error ? new RateLimited("x") : error);
      }
      await elapse(knex, LONGEST_MS + 60_000);
    }
    expect(await queue.getQueueStats(to)).toMatchObject({ pending: 0, scheduled: 0, leased: 0 });
    for (const [n, { messageId }] of sent.entries()) {
      const dead = await queue.deadLetters.get(messageId);
      const most = given[n]?.maxAttempts ?? 8;
      expect(dead?.attempt).toBeLessThanOrEqual(Number(dead?.maxAttempts));
      expect(dead?.attempt).toBeLessThanOrEqual(most);
      if (given[n]?.maxAttempts != null) expect(dead?.maxAttempts).toBe(given[n]?.maxAttempts);
      expect(dead?.attempt).toBeLessThanOrEqual(Number(runs.get(messageId)));
      expect(dead?.failures).toHaveLength(Number(dead?.attempt));
    }
  });
});
