import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  CircuitOpen,
  MessageTimeout,
  RateLimited,
  ServiceUnavailable,
  ValidationFailed,
} from "../../lib/errors.ts";
import {
  DEFAULT_RETRY_POLICY,
  knownChoice,
  knownPolicies,
  ownRetry,
  plainNames,
  RETRY_POLICIES,
  type RetryPolicyInput,
  retryChoiceSchema,
  retryDelayMs,
  retryDocument,
  retryPoliciesSchema,
  retryPolicySchema,
  ruleOf,
} from "../../lib/protocol/retry.ts";
import { policyFor, retryAfterMsOf } from "../../lib/protocol/retry-class.ts";

const policy = (input: RetryPolicyInput) => retryPolicySchema.parse(input);
const choice = (input: unknown) => retryChoiceSchema.parse(input);
const pauses = (of: RetryPolicyInput, runs: readonly number[]) =>
  runs.map((run) => retryDelayMs(policy({ jitter: 0, ...of }), run));

describe("retry policy", () => {
  it("is three runs, 1 s × 2, at most 30 s, where nothing is said", () => {
    expect(DEFAULT_RETRY_POLICY).toMatchObject({
      maxAttempts: 3,
      strategy: "exponential",
      initialDelayMs: 1_000,
      factor: 2,
      maxDelayMs: 30_000,
      respectRetryAfter: false,
      circuitBreaker: true,
      nonRetryable: [],
    });
    expect(pauses({}, [1, 2, 3, 4, 5, 6, 7, 500])).toEqual([
      1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000,
    ]);
  });

  it("follows a fixed pause and a schedule", () => {
    expect(pauses({ strategy: "fixed", initialDelayMs: 50 }, [1, 9])).toEqual([50, 50]);
    const delaysMs = [1, 20, 300];
    expect(pauses({ strategy: "schedule", delaysMs }, [1, 2, 3, 4])).toEqual([1, 20, 300, 300]);
    expect(pauses({ delaysMs }, [1, 2, 3, 4])).toEqual([1, 20, 300, 300]);
  });

  it("does not cut what was asked for at a bound that was not, unless told to", () => {
    expect(pauses({ strategy: "fixed", initialDelayMs: 90_000 }, [1, 2])).toEqual([90_000, 90_000]);
    expect(pauses({ initialDelayMs: 90_000 }, [1, 2])).toEqual([90_000, 90_000]);
    expect(pauses({ initialDelayMs: 20_000 }, [1, 2])).toEqual([20_000, 30_000]);
    expect(pauses({ delaysMs: [90_000] }, [1])).toEqual([90_000]);
    expect(pauses({ delaysMs: [90_000], maxDelayMs: 60_000 }, [1])).toEqual([60_000]);
  });

  it("has the three named policies with the figures of the table", () => {
    const runs = [1, 2, 3, 4, 5, 6];
    const of = (name: keyof typeof RETRY_POLICIES) =>
      runs.map((run) => retryDelayMs(RETRY_POLICIES[name], run, () => 0));
    expect(Object.keys(RETRY_POLICIES)).toEqual([
      "transient_error",
      "rate_limit",
      "service_unavailable",
    ]);
    expect(of("transient_error")).toEqual([1_000, 2_000, 4_000, 4_000, 4_000, 4_000]);
    expect(of("rate_limit")).toEqual([5_000, 10_000, 30_000, 60_000, 120_000, 120_000]);
    expect(of("service_unavailable")).toEqual([10_000, 30_000, 60_000, 60_000, 60_000, 60_000]);
    expect(RETRY_POLICIES.transient_error).toMatchObject({ maxAttempts: 3, jitter: 0.2 });
    expect(RETRY_POLICIES.rate_limit).toMatchObject({
      maxAttempts: 5,
      respectRetryAfter: true,
      circuitBreaker: false,
    });
    expect(RETRY_POLICIES.service_unavailable).toMatchObject({
      maxAttempts: 3,
      circuitBreaker: true,
    });
    expect(Object.isFrozen(RETRY_POLICIES) && Object.isFrozen(RETRY_POLICIES.rate_limit)).toBe(
      true,
    );
  });

  it("takes other names: their retries count the first run too", () => {
    for (const alias of ["maxRetries", "max_retries"]) {
      expect(policy({ [alias]: 7 }).maxAttempts).toBe(7);
      expect(plainNames({ [alias]: 7, jitter: 0 })).toEqual({ maxAttempts: 7, jitter: 0 });
    }
    for (const alias of ["backoffBase", "backoff_base"]) {
      expect(pauses({ [alias]: 3 }, [1, 2, 3])).toEqual([1_000, 3_000, 9_000]);
    }
    expect(policy({ maxAttempts: 2, maxRetries: 7 }).maxAttempts).toBe(2);
  });

  it.each([
    ["an unknown field", { foo: 1 }],
    ["no runs", { maxAttempts: 0 }],
    ["a schedule without pauses", { strategy: "schedule" }],
    ["an empty schedule", { delaysMs: [] }],
    ["a fraction of a millisecond", { initialDelayMs: 0.5 }],
    ["an empty error code", { nonRetryable: [""] }],
    ["null", null],
    ["a number", 3],
    ["an empty name", ""],
  ])("refuses %s", (_, wrong) => {
    expect(retryChoiceSchema.safeParse(wrong).success).toBe(false);
    expect(retryPoliciesSchema.safeParse({ rate_limit: wrong }).success).toBe(false);
  });

  it("says where in a policy the mistake is", () => {
    const answer = retryChoiceSchema.safeParse({ delaysMs: [1, -1] });
    expect(answer.error?.issues[0]?.path).toEqual(["delaysMs", 1]);
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

  it("resolves names by the maps in turn, then the standard ones, and gives up on circles", () => {
    const own = policy({ maxAttempts: 9 });
    expect(ruleOf("rate_limit")).toBe(RETRY_POLICIES.rate_limit);
    expect(ruleOf("mine")).toBeUndefined();
    expect(ruleOf("mine", undefined, { mine: own })).toBe(own);
    expect(ruleOf("mine", { mine: "rate_limit" }, { mine: own })).toBe(RETRY_POLICIES.rate_limit);
    expect(ruleOf("rate_limit", { rate_limit: own })).toBe(own);
    expect(ruleOf("rate_limit", { rate_limit: "rate_limit" })).toBe(RETRY_POLICIES.rate_limit);
    expect(ruleOf("a", { a: "b", b: "a" })).toBeUndefined();
    expect(ruleOf("constructor")).toBeUndefined();
    expect(knownChoice("mine", "x", { mine: own })).toBe("mine");
    expect(() => knownChoice("mine", "message.retry")).toThrow(
      /message\.retry: no retry policy is called so \(got "mine"\); there are transient_error, rate_limit/,
    );
    expect(() => knownPolicies({ E: "typo" }, "options.retryPolicies")).toThrow(ValidationFailed);
  });

  it("a message's policy survives its way through the database", () => {
    expect(retryDocument({ policy: undefined, fixed: false })).toBeNull();
    for (const own of [
      { policy: "rate_limit", fixed: false },
      { policy: undefined, fixed: true },
      { policy: choice({ delaysMs: [60_000], maxDelayMs: 30_000 }), fixed: true },
    ]) {
      expect(ownRetry(JSON.parse(String(retryDocument(own))))).toEqual(own);
    }
    const whole = policy({ maxAttempts: 7 });
    expect(ownRetry(JSON.parse(JSON.stringify(whole)))).toEqual({ policy: whole, fixed: false });
    for (const odd of [null, undefined, "text", 1, {}, { policy: { from: "the future" } }]) {
      expect(ownRetry(odd)).toEqual({ policy: undefined, fixed: false });
    }
  });
});

const failed = (fields: object, cause?: unknown) =>
  Object.assign(new Error("failed", { cause }), fields);

describe("the policy for a failed run", () => {
  const queue = { policy: DEFAULT_RETRY_POLICY };
  const everyone = {
    message: choice({ maxAttempts: 11 }),
    handler: { policy: choice({ maxAttempts: 12 }) },
    mailbox: choice({ maxAttempts: 13 }),
    queue,
  };

  it("error class, then message, handler, mailbox, queue", () => {
    const { message, handler, mailbox } = everyone;
    const table = [
      [new RateLimited("slow down"), everyone, "class", 5],
      [failed({}), everyone, "message", 11],
      [failed({}), { handler, mailbox, queue }, "handler", 12],
      [failed({}), { handler: { policy: undefined }, mailbox, queue }, "mailbox", 13],
      [failed({}), { mailbox, queue }, "mailbox", 13],
      [failed({}), { queue }, "queue", 3],
      [failed({ code: "ECONNRESET" }), { queue }, "class", 3],
      [failed({}), { message, queue }, "message", 11],
      [failed({}), { message: "rate_limit", queue }, "message", 5],
      // A name that nobody here knows says nothing.
      [failed({}), { message: "elsewhere", handler, queue }, "handler", 12],
    ] as const;
    for (const [error, levels, by, maxAttempts] of table) {
      expect(policyFor(error, levels)).toMatchObject({ by, policy: { maxAttempts } });
    }
  });

  it.each<[string, unknown, string | undefined]>([
    ["names it itself", failed({ retryPolicy: "rate_limit", code: "ECONNRESET" }), "rate_limit"],
    ["names none that exists", failed({ retryPolicy: "typo", status: 503 }), "service_unavailable"],
    ["RateLimited", new RateLimited("x"), "rate_limit"],
    ["ServiceUnavailable", new ServiceUnavailable("x"), "service_unavailable"],
    ["CircuitOpen", new CircuitOpen("x"), "service_unavailable"],
    ["MessageTimeout", new MessageTimeout("x"), "transient_error"],
    ["status 429", failed({ status: 429 }), "rate_limit"],
    ["statusCode 502", failed({ statusCode: 502 }), "service_unavailable"],
    ["response.status 503", failed({ response: { status: 503 } }), "service_unavailable"],
    ["response.statusCode 504", failed({ response: { statusCode: 504 } }), "service_unavailable"],
    ["an AWS status", failed({ $metadata: { httpStatusCode: 429 } }), "rate_limit"],
    ["an unknown code with a status", failed({ code: "ERR_BAD", status: 429 }), "rate_limit"],
    ["ECONNRESET", failed({ code: "ECONNRESET" }), "transient_error"],
    ["ETIMEDOUT", failed({ code: "ETIMEDOUT" }), "transient_error"],
    [
      "what fetch throws",
      failed({ name: "TypeError" }, failed({ code: "UND_ERR_SOCKET" })),
      "transient_error",
    ],
    ["AbortSignal.timeout", new DOMException("late", "TimeoutError"), "transient_error"],
    ["no object, but a status", { status: 429 }, "rate_limit"],
    ["status 500", failed({ status: 500 }), undefined],
    ["a plain error", new Error("x"), undefined],
    ["a string", "rate_limit", undefined],
    ["nothing", undefined, undefined],
    [
      "what cannot be read",
      new Proxy(
        {},
        {
          get: () => {
            throw new Error("no");
          },
        },
      ),
      undefined,
    ],
  ])("knows the class of an error: %s", (_, error, errorClass) => {
    expect(policyFor(error, { queue }).errorClass).toBe(errorClass);
  });

  it("does not follow causes for ever", () => {
    const error = failed({});
    Object.assign(error, { cause: error });
    expect(policyFor(error, { queue })).toMatchObject({ errorClass: undefined });
  });

  it("maps classes, codes and names to policies, the handler's map first", () => {
    const hurried = choice({ maxAttempts: 2, delaysMs: [10] });
    const calm = choice({ maxAttempts: 8, delaysMs: [99] });
    const levels = {
      ...everyone,
      handler: { policy: "calm", policies: { rate_limit: hurried, E_BUSY: "rate_limit" } },
      queue: {
        policy: DEFAULT_RETRY_POLICY,
        policies: { rate_limit: calm, calm, WeirdError: calm, ETIMEDOUT: "service_unavailable" },
      },
    };
    const of = (error: unknown) => policyFor(error, levels);
    expect(of(failed({ status: 429 }))).toMatchObject({ by: "class", policy: hurried });
    expect(of(failed({ code: "E_BUSY" }))).toMatchObject({
      errorClass: "rate_limit",
      policy: hurried,
    });
    expect(of(failed({ name: "WeirdError" }))).toMatchObject({ by: "class", policy: calm });
    expect(of(failed({ code: "ETIMEDOUT" }))).toMatchObject({
      policy: RETRY_POLICIES.service_unavailable,
    });
    expect(of(failed({ retryPolicy: "calm" }))).toMatchObject({ by: "class", policy: calm });
    const { message: _, ...without } = levels;
    expect(policyFor(failed({}), without)).toMatchObject({ by: "handler", policy: calm });
  });

  it("believes whoever calls an error hopeless, also for an error that has a class", () => {
    const nonRetryable = ["E_FATAL", "TypeError", "ENOTFOUND"];
    for (const levels of [
      { ...everyone, message: choice({ nonRetryable }) },
      { ...everyone, handler: { policy: choice({ nonRetryable }) } },
      { ...everyone, mailbox: choice({ nonRetryable }) },
      { ...everyone, queue: { policy: policy({ nonRetryable }) } },
    ]) {
      expect(policyFor(failed({ code: "E_FATAL" }), levels).hopeless).toBe(true);
      expect(policyFor(new TypeError("x"), levels).hopeless).toBe(true);
      expect(policyFor(failed({}, failed({ code: "ENOTFOUND" })), levels).hopeless).toBe(true);
      expect(policyFor(new Error("E_FATAL"), levels).hopeless).toBe(false);
    }
  });
});

describe("retry-after", () => {
  const now = Date.parse("2026-01-01T00:00:00Z");
  const http = (headers: unknown) => failed({ response: { headers } });
  it.each<[string, unknown, number | undefined]>([
    ["on the error", failed({ retryAfterMs: 1_500 }), 1_500],
    ["in its details", new RateLimited("x", { details: { retryAfterMs: 700 } }), 700],
    ["on its cause", failed({}, failed({ retryAfterMs: 20 })), 20],
    ["seconds in Headers", http(new Headers({ "Retry-After": "120" })), 120_000],
    ["seconds in an object", http({ "Retry-After": "3" }), 3_000],
    ["a number of seconds", http({ "retry-after": 3 }), 3_000],
    ["the first of several", http({ "retry-after": ["7", "8"] }), 7_000],
    ["on the error's own headers", failed({ headers: { "retry-after": "2" } }), 2_000],
    ["milliseconds before seconds", http({ "retry-after-ms": "250", "retry-after": "1" }), 250],
    ["a date", http({ "retry-after": "Thu, 01 Jan 2026 00:01:00 GMT" }), 60_000],
    [
      "a date by the clock that wrote it",
      http({
        date: "Thu, 01 Jan 2026 08:00:00 GMT",
        "retry-after": "Thu, 01 Jan 2026 08:00:30 GMT",
      }),
      30_000,
    ],
    ["a date that has passed", http({ "retry-after": "Wed, 31 Dec 2025 23:00:00 GMT" }), undefined],
    ["zero", http({ "retry-after": "0" }), undefined],
    ["nonsense", http({ "retry-after": "soon" }), undefined],
    ["not a number", failed({ retryAfterMs: Number.NaN }), undefined],
    ["negative", failed({ retryAfterMs: -1 }), undefined],
    ["endless", failed({ retryAfterMs: Number.POSITIVE_INFINITY }), 604_800_000],
    ["nothing", new Error("x"), undefined],
    [
      "headers that throw",
      http({
        get: () => {
          throw new Error("no");
        },
      }),
      undefined,
    ],
  ])("%s", (_, error, ms) => {
    expect(retryAfterMsOf(error, now)).toBe(ms);
  });
});
