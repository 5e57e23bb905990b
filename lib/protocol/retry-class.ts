import {
  type RetryChoice,
  type RetryPolicies,
  type RetryPolicy,
  type RetryPolicyName,
  type RetryRule,
  ruleOf,
} from "./retry.ts";

/** An error whose cause is an error whose cause …: further down nobody looks. */
const MOST_CAUSES = 5;

const WEEK_MS = 7 * 86_400_000;

const CLASS_OF_CODE: Readonly<Record<string, RetryPolicyName>> = {
  RATE_LIMITED: "rate_limit",
  SERVICE_UNAVAILABLE: "service_unavailable",
  CIRCUIT_OPEN: "service_unavailable",
  MESSAGE_TIMEOUT: "transient_error",
  ECONNABORTED: "transient_error",
  ECONNREFUSED: "transient_error",
  ECONNRESET: "transient_error",
  EAI_AGAIN: "transient_error",
  EHOSTDOWN: "transient_error",
  EHOSTUNREACH: "transient_error",
  ENETDOWN: "transient_error",
  ENETRESET: "transient_error",
  ENETUNREACH: "transient_error",
  ENOTFOUND: "transient_error",
  EPIPE: "transient_error",
  ESOCKETTIMEDOUT: "transient_error",
  ETIMEDOUT: "transient_error",
  UND_ERR_BODY_TIMEOUT: "transient_error",
  UND_ERR_CONNECT_TIMEOUT: "transient_error",
  UND_ERR_HEADERS_TIMEOUT: "transient_error",
  UND_ERR_SOCKET: "transient_error",
  // What AbortSignal.timeout() aborts with.
  TimeoutError: "transient_error",
};

const CLASS_OF_STATUS: Readonly<Record<number, RetryPolicyName>> = {
  408: "transient_error",
  429: "rate_limit",
  502: "service_unavailable",
  503: "service_unavailable",
  504: "service_unavailable",
};

/** What a handler or a queue says of errors. */
export interface RetryLevel<P> {
  readonly policy: P;
  readonly policies?: RetryPolicies | undefined;
}

export interface RetryLevels {
  readonly message?: RetryChoice | undefined;
  readonly handler?: RetryLevel<RetryChoice | undefined> | undefined;
  readonly mailbox?: RetryChoice | undefined;
  readonly queue: RetryLevel<RetryPolicy>;
}

export interface ChosenPolicy {
  readonly policy: RetryRule;
  /** Who had the say. */
  readonly by: "class" | "message" | "handler" | "mailbox" | "queue";
  /** What kind of failure it is, where anything tells. */
  readonly errorClass: string | undefined;
  /** Someone's policy says that no run can succeed. */
  readonly hopeless: boolean;
}

/**
 * The policy for a failed run: that of the error's class, else the message's, else the handler's, else the
 * mailbox's, else the queue's. Whichever of them calls the error hopeless is believed.
 */
export function policyFor(error: unknown, levels: RetryLevels): ChosenPolicy {
  const { handler, queue } = levels;
  const maps = [handler?.policies, queue.policies];
  const signs = signsOf(error);
  const errorClass = classOf(signs, maps);
  const chosen = [
    ["class", ruleOf(errorClass, ...maps)],
    ["message", ruleOf(levels.message, ...maps)],
    ["handler", ruleOf(handler?.policy, ...maps)],
    ["mailbox", ruleOf(levels.mailbox, ...maps)],
    ["queue", queue.policy],
  ] as const;
  const words = new Set(signs.flatMap(({ words }) => words));
  const hopeless = chosen.some(([, rule]) => rule?.nonRetryable.some((word) => words.has(word)));
  const [by, policy] = chosen.find(([, rule]) => rule !== undefined) ?? ["queue", queue.policy];
  return { policy: policy ?? queue.policy, by, errorClass, hopeless };
}

/** What an error, or one of its causes, says of itself. */
interface Signs {
  /** The class that it names itself. */
  readonly named: string | undefined;
  /** Its code and its name. */
  readonly words: readonly string[];
  readonly status: number | undefined;
}

function signsOf(error: unknown): Signs[] {
  return chain(error).map((one) => {
    const response = read(one, "response");
    const status = [
      read(one, "status"),
      read(one, "statusCode"),
      read(response, "status"),
      read(response, "statusCode"),
      read(read(one, "$metadata"), "httpStatusCode"),
    ].find((value) => typeof value === "number");
    return {
      named: textOf(read(one, "retryPolicy")),
      words: [read(one, "code"), read(one, "name")].flatMap((word) => textOf(word) ?? []),
      status: status as number | undefined,
    };
  });
}

/** The outermost error that says anything decides; its own word comes before what others make of it. */
function classOf(
  signs: readonly Signs[],
  maps: readonly (RetryPolicies | undefined)[],
): string | undefined {
  for (const { named, words, status } of signs) {
    if (named !== undefined && ruleOf(named, ...maps) !== undefined) return named;
    for (const map of maps) {
      const word = words.find((one) => map !== undefined && Object.hasOwn(map, one));
      // A code that is given a name is of that class; one that is given a policy is a class of its own.
      if (word !== undefined) return typeof map?.[word] === "string" ? map[word] : word;
    }
    const known = words.find((word) => Object.hasOwn(CLASS_OF_CODE, word));
    if (known !== undefined) return CLASS_OF_CODE[known];
    if (status !== undefined && CLASS_OF_STATUS[status] !== undefined) {
      return CLASS_OF_STATUS[status];
    }
  }
  return undefined;
}

/**
 * How long an error asks to be left alone, in milliseconds, at most a week: `retryAfterMs` on it or in its
 * `details`, else the header `retry-after-ms` or `retry-after` (seconds, or a date) of its `headers` or of those of
 * its `response`. Undefined where it asks for nothing.
 */
export function retryAfterMsOf(error: unknown, now: number = Date.now()): number | undefined {
  for (const one of chain(error)) {
    const given = [read(one, "retryAfterMs"), read(read(one, "details"), "retryAfterMs")];
    const headers = [read(one, "headers"), read(read(one, "response"), "headers")];
    const waits = [
      ...given,
      ...headers.map((from) => seconds(header(from, "retry-after-ms"), 1)),
      ...headers.map((from) => retryAfter(from, now)),
    ];
    const ms = waits.find((value) => typeof value === "number" && value > 0) as number | undefined;
    if (ms !== undefined) return Math.min(Math.ceil(ms), WEEK_MS);
  }
  return undefined;
}

/** The limit that was met, where the error names it: `limit` on it or in its `details`. */
export function limitOf(error: unknown): string | undefined {
  const names = chain(error).flatMap((one) => [
    read(one, "limit"),
    read(read(one, "details"), "limit"),
  ]);
  return names.find((name) => textOf(name) !== undefined) as string | undefined;
}

function retryAfter(headers: unknown, now: number): number | undefined {
  const value = header(headers, "retry-after");
  const ms = seconds(value, 1_000);
  if (ms !== undefined || value === undefined) return ms;
  // Counted from the clock of the server that wrote the date, where it told its time: ours may be wrong.
  const sent = Date.parse(header(headers, "date") ?? "");
  const wait = Date.parse(value) - (Number.isNaN(sent) ? now : sent);
  return Number.isNaN(wait) ? undefined : wait;
}

function seconds(text: string | undefined, unitMs: number): number | undefined {
  return text !== undefined && /^\d+(\.\d+)?$/.test(text) ? Number(text) * unitMs : undefined;
}

/** Of Headers and the like, of a plain object in any case, or of a list of values. */
function header(headers: unknown, name: string): string | undefined {
  const get = read(headers, "get");
  let value: unknown;
  try {
    if (typeof get === "function") value = get.call(headers, name);
    else if (typeof headers === "object" && headers !== null) {
      const key = Object.keys(headers).find((one) => one.toLowerCase() === name);
      value = key === undefined ? undefined : read(headers, key);
    }
  } catch {
    return undefined;
  }
  const first: unknown = Array.isArray(value) ? value[0] : value;
  return typeof first === "string" || typeof first === "number" ? String(first).trim() : undefined;
}

/** The error and its causes, outermost first. */
function chain(error: unknown): unknown[] {
  const all: unknown[] = [];
  let next = error;
  while (typeof next === "object" && next !== null && all.length < MOST_CAUSES) {
    all.push(next);
    next = read(next, "cause");
  }
  return all;
}

/** Anything may be thrown, also what throws when it is read. */
function read(from: unknown, name: string): unknown {
  try {
    return (from as Record<string, unknown> | null | undefined)?.[name];
  } catch {
    return undefined;
  }
}

function textOf(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}
