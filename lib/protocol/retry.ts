import { z } from "zod";
import { ValidationFailed } from "../errors.ts";
import { durationMs, plainText, positiveInt, shown } from "./validate.ts";

const runs = positiveInt(1_000);
const growth = z.number().min(1).max(100);

/** What a policy may say; the defaults follow, because some depend on others. */
const givenSchema = z
  .strictObject({
    /** All runs together, the first included. Default 3; in a policy of a message, handler or mailbox: as before. */
    maxAttempts: runs.optional(),
    /** Other names of maxAttempts: their "retries" count the first run too. */
    maxRetries: runs.optional(),
    max_retries: runs.optional(),
    /**
     * `exponential`: initialDelayMs × factor^(run−1); `fixed`: always initialDelayMs; `schedule`: delaysMs in turn.
     * Default: `schedule` where delaysMs is given, else `exponential`.
     */
    strategy: z.enum(["exponential", "fixed", "schedule"]).optional(),
    /** Milliseconds before the second run. Default 1,000. */
    initialDelayMs: durationMs().default(1_000),
    /** Default 2. */
    factor: growth.optional(),
    /** Other names of factor. */
    backoffBase: growth.optional(),
    backoff_base: growth.optional(),
    /** No pause of the policy is longer, in milliseconds. Default 30,000, or what initialDelayMs or delaysMs say. */
    maxDelayMs: durationMs().optional(),
    /** For `schedule`: the pause before the second, third, … run; the last one repeats. */
    delaysMs: z.array(durationMs()).min(1).max(1_000).readonly().optional(),
    /** Shortens each pause by a random part of up to this share, so that failures spread. 0 turns it off. Default 0.2. */
    jitter: z.number().min(0).max(1).default(0.2),
    /** Whether an error that says when to come back is believed (see retryAfterMsOf). Default false. */
    respectRetryAfter: z.boolean().default(false),
    /** Whether such a failure counts for the circuit breaker of its mailbox, if that has one. Default true. */
    circuitBreaker: z.boolean().default(true),
    /** Codes or names of errors after which no run can succeed: dead-lettered at once. Default none. */
    nonRetryable: z
      .array(plainText(128).min(1, "expected the code or name of an error"))
      .max(100)
      .readonly()
      .default([]),
  })
  .refine(({ strategy, delaysMs }) => strategy !== "schedule" || delaysMs !== undefined, {
    message: "the strategy schedule needs delaysMs",
    path: ["delaysMs"],
  });

/** When a failed message is tried again. */
export type RetryPolicyInput = z.input<typeof givenSchema>;

/** A policy that may leave open how often. */
export interface RetryRule {
  readonly maxAttempts: number | undefined;
  readonly strategy: "exponential" | "fixed" | "schedule";
  readonly initialDelayMs: number;
  readonly factor: number;
  readonly maxDelayMs: number;
  readonly delaysMs: readonly number[] | undefined;
  readonly jitter: number;
  readonly respectRetryAfter: boolean;
  readonly circuitBreaker: boolean;
  readonly nonRetryable: readonly string[];
}

export interface RetryPolicy extends RetryRule {
  readonly maxAttempts: number;
}

function completed(given: z.output<typeof givenSchema>): RetryRule {
  const { maxRetries, max_retries, backoffBase, backoff_base, ...policy } = given;
  const { delaysMs, initialDelayMs } = policy;
  const strategy = policy.strategy ?? (delaysMs === undefined ? "exponential" : "schedule");
  // A pause that someone asks for in so many words is not cut without a word.
  const longest = Math.max(
    ...(strategy === "schedule" ? (delaysMs ?? []) : [30_000, initialDelayMs]),
  );
  return Object.freeze({
    ...policy,
    maxAttempts: policy.maxAttempts ?? maxRetries ?? max_retries,
    factor: policy.factor ?? backoffBase ?? backoff_base ?? 2,
    strategy,
    maxDelayMs: policy.maxDelayMs ?? longest,
    delaysMs,
  });
}

const ruleSchema = givenSchema.transform(completed);

const DEFAULT_ATTEMPTS = 3;

/** A whole policy: what a queue has. */
export const retryPolicySchema = ruleSchema.transform(
  (rule): RetryPolicy => ({ ...rule, maxAttempts: rule.maxAttempts ?? DEFAULT_ATTEMPTS }),
);

export const DEFAULT_RETRY_POLICY: RetryPolicy = Object.freeze(retryPolicySchema.parse({}));

const named = (policy: RetryPolicyInput): RetryPolicy =>
  Object.freeze(retryPolicySchema.parse(policy));

/** The policies that have a name. Errors that tell of their class get the policy of that name. */
export const RETRY_POLICIES = Object.freeze({
  /** A connection that was lost, an answer that was late. */
  transient_error: named({ maxAttempts: 3, delaysMs: [1_000, 2_000, 4_000] }),
  /** Asked too often: whoever says so is there. With a retry-after, the run does not even count. */
  rate_limit: named({
    maxAttempts: 5,
    delaysMs: [5_000, 10_000, 30_000, 60_000, 120_000],
    jitter: 0,
    respectRetryAfter: true,
    circuitBreaker: false,
  }),
  /** The other side is down. */
  service_unavailable: named({
    maxAttempts: 3,
    delaysMs: [10_000, 30_000, 60_000],
    jitter: 0,
    circuitBreaker: true,
  }),
});

export type RetryPolicyName = keyof typeof RETRY_POLICIES;

/** A policy, or the name of one. */
export type RetryChoice = string | RetryRule;

const policyName = plainText(128).min(1, "expected the name of a policy");

/** The name of a policy, or one; which names there are, the caller knows. */
export const retryChoiceSchema = z
  .custom<RetryPolicyName | (string & {}) | RetryPolicyInput>(
    (value) => typeof value === "string" || (typeof value === "object" && value !== null),
    { message: "expected a retry policy, or the name of one" },
  )
  .transform((value, context): RetryChoice => {
    const checked = (typeof value === "string" ? policyName : ruleSchema).safeParse(value);
    if (checked.success) return checked.data;
    for (const { path, message } of checked.error.issues) {
      context.addIssue({ code: "custom", path, message });
    }
    return z.NEVER;
  });
export type RetryChoiceInput = z.input<typeof retryChoiceSchema>;

/** Policies by the class, the code or the name of an error; an own class is whatever errors call themselves. */
export const retryPoliciesSchema = z
  .record(policyName, retryChoiceSchema)
  .refine((map) => Object.keys(map).length <= 1_000, {
    message: "expected at most 1,000 policies",
  });
export type RetryPoliciesInput = z.input<typeof retryPoliciesSchema>;
export type RetryPolicies = Readonly<Record<string, RetryChoice>>;

/** Names that lead to names end somewhere, or nowhere. */
const MOST_STEPS = 5;

/** The policy that a choice means: its own, else that of the first map that knows the name. */
export function ruleOf(
  choice: RetryChoice | undefined,
  ...maps: readonly (RetryPolicies | undefined)[]
): RetryRule | undefined {
  let found: RetryChoice | undefined = choice;
  for (let step = 0; typeof found === "string" && step < MOST_STEPS; step++) {
    const name: string = found;
    const map: RetryPolicies | undefined = [...maps, RETRY_POLICIES].find(
      (one) => one !== undefined && Object.hasOwn(one, name),
    );
    const next = map?.[name];
    // A map may give a standard name another standard's policy; its own name means the standard.
    found = next === name ? RETRY_POLICIES[name as RetryPolicyName] : next;
  }
  return typeof found === "string" ? undefined : found;
}

/** @throws ValidationFailed for a name that no policy has */
export function knownChoice<C extends RetryChoice | undefined>(
  choice: C,
  what: string,
  ...maps: readonly (RetryPolicies | undefined)[]
): C {
  if (choice === undefined || ruleOf(choice, ...maps) !== undefined) return choice;
  const names = [...Object.keys(RETRY_POLICIES), ...maps.flatMap((map) => Object.keys(map ?? {}))];
  throw new ValidationFailed(
    `${what}: no retry policy is called so (got ${shown(choice)}); there are ${names.slice(0, 20).join(", ")}`,
  );
}

/**
 * A choice that means the same wherever it is read: the name of a standard policy, or a policy.
 *
 * @throws ValidationFailed for a name that no policy has
 */
export function portableChoice(
  choice: RetryChoice | undefined,
  what: string,
  own: RetryPolicies | undefined,
): RetryChoice | undefined {
  knownChoice(choice, what, own);
  const rule = ruleOf(choice, own);
  return typeof choice === "string" && rule === ruleOf(choice) ? choice : rule;
}

/** @throws ValidationFailed for a name in a map that no policy has */
export function knownPolicies(
  map: RetryPolicies | undefined,
  what: string,
  ...others: readonly (RetryPolicies | undefined)[]
): void {
  for (const [key, choice] of Object.entries(map ?? {})) {
    knownChoice(choice, `${what}.${key}`, map, ...others);
  }
}

/** What a message or a mailbox keeps of its own policy. */
export interface OwnRetry {
  readonly policy: RetryChoice | undefined;
  /** Its number of runs is the sender's word: no policy changes it. */
  readonly fixed: boolean;
}

/** As JSON for the column; null where there is nothing to keep. */
export function retryDocument({ policy, fixed }: OwnRetry): string | null {
  if (policy === undefined && !fixed) return null;
  return JSON.stringify({ policy, ...(fixed ? { fixed } : {}) });
}

const NO_OWN_RETRY: OwnRetry = { policy: undefined, fixed: false };

/** Reads what `retryDocument` wrote. A policy of a version that knows more is no reason to fail a second time. */
export function ownRetry(document: unknown): OwnRetry {
  if (document === null || document === undefined) return NO_OWN_RETRY;
  const { policy, fixed, strategy } = document as Record<string, unknown>;
  // A mailbox may have the policy itself.
  const read = retryChoiceSchema.safeParse(strategy === undefined ? policy : document);
  return { policy: read.success ? read.data : undefined, fixed: fixed === true };
}

/**
 * A queue's policy with other names made ours, so that it can be laid over another one.
 */
export function plainNames<T extends RetryPolicyInput | undefined>(given: T): T {
  if (typeof given !== "object" || given === null) return given;
  const { maxRetries, max_retries, ...rest } = given;
  const maxAttempts = given.maxAttempts ?? maxRetries ?? max_retries;
  return (maxAttempts === undefined ? rest : { ...rest, maxAttempts }) as T;
}

/** The pause after run number `attempt` failed, in whole milliseconds. */
export function retryDelayMs(
  policy: RetryRule,
  attempt: number,
  random: () => number = Math.random,
): number {
  const base = Math.min(pause(policy, attempt), policy.maxDelayMs);
  return Math.round(base * (1 - policy.jitter * random()));
}

function pause(policy: RetryRule, attempt: number): number {
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
