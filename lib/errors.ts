/**
 * Every error that the library throws: one class with a stable code, what was wrong, and what to do about it.
 * The README lists each code with its remedy (a test compares the two lists).
 */

export type ErrorSeverity = "critical" | "error" | "warning" | "info";

interface CodeFacts {
  readonly retryable: boolean;
  readonly severity: ErrorSeverity;
  /** What a person should do; used where the thrower has nothing more precise to say. */
  readonly remedy: string;
}

/** All codes. Append only: a code is part of the public contract. */
export const ERROR_CODES = {
  VALIDATION_FAILED: {
    retryable: false,
    severity: "error",
    remedy: "Correct the value named in the message and send it again; nothing was stored.",
  },
  PAYLOAD_TOO_LARGE: {
    retryable: false,
    severity: "error",
    remedy:
      "Store the data elsewhere (file, object store, table) and send a reference to it (claim-check pattern), or raise maxMessageBytes.",
  },
  UNKNOWN_RECIPIENT: {
    retryable: false,
    severity: "error",
    remedy:
      "Register the agent first, or check the spelling of its id with `agent-outbox agents ls`.",
  },
  UNKNOWN_MESSAGE: {
    retryable: false,
    severity: "error",
    remedy: "Check the id; archived messages are purged after the retention period.",
  },
  UNKNOWN_TASK: {
    retryable: false,
    severity: "error",
    remedy: "Check the task id with `agent-outbox tasks ls`.",
  },
  UNKNOWN_INPUT: {
    retryable: false,
    severity: "error",
    remedy: "Check the id of the question with `agent-outbox tasks inputs`.",
  },
  TASK_STATE: {
    retryable: false,
    severity: "warning",
    remedy:
      "The task is not in a state for that, most often because it has ended: look at it (`agent-outbox tasks show`) and go on from there.",
  },
  TASK_TOO_DEEP: {
    retryable: false,
    severity: "error",
    remedy: "Subtasks go 16 levels deep: check whether a task makes itself a part of itself.",
  },
  TASK_PAUSED: {
    retryable: true,
    severity: "info",
    remedy:
      "Store how far the task is (context.progress), and return: it goes on after `tasks resume`.",
  },
  TASK_PARKED: {
    retryable: true,
    severity: "info",
    remedy: "Let it pass: the task starts anew when what it waits for is there.",
  },
  TASK_TIMEOUT: {
    retryable: true,
    severity: "error",
    remedy:
      "The run took longer than it may: do less in one run, or raise runTimeoutMs of the task, timeoutMs of the handler or sla.maxMs of the agent.",
  },
  ALREADY_EXISTS: {
    retryable: false,
    severity: "error",
    remedy: "Use another id, or update what exists.",
  },
  LEASE_LOST: {
    retryable: false,
    severity: "warning",
    remedy:
      "The lease passed and someone else may hold the message: stop working on it. Raise leaseMs or call extend() in time.",
  },
  MESSAGE_TIMEOUT: {
    retryable: true,
    severity: "error",
    remedy: "Wait longer (timeoutMs), or find out with why() what keeps the answer.",
  },
  SERVICE_UNAVAILABLE: {
    retryable: true,
    severity: "critical",
    remedy:
      "Check that the database is running and reachable (`agent-outbox health`), then try again; a send with a messageId can be repeated safely.",
  },
  PERMISSION_DENIED: {
    retryable: false,
    severity: "critical",
    remedy:
      "Give the database user the rights that DEPLOYMENT.md lists, or correct the credentials.",
  },
  RATE_LIMITED: {
    retryable: true,
    severity: "warning",
    remedy: "Wait for the time in details.retryAfterMs, then try again.",
  },
  CIRCUIT_OPEN: {
    retryable: true,
    severity: "warning",
    remedy: "The destination failed repeatedly; wait for the time in details.retryAfterMs.",
  },
  UNKNOWN_COMMAND: {
    retryable: false,
    severity: "error",
    remedy: "Register a handler for the message type, or send one that the agent knows.",
  },
  SIGNATURE_INVALID: {
    retryable: false,
    severity: "critical",
    remedy: "Do not process the message; check the keys of sender and receiver.",
  },
  FOREIGN_TRANSACTION: {
    retryable: false,
    severity: "error",
    remedy:
      "Pass a transaction of the database that holds the outbox tables, and one that is still open.",
  },
  NOT_MIGRATED: {
    retryable: false,
    severity: "critical",
    remedy:
      "Run `npx agent-outbox migrate` against this database, or open it with { migrate: true }.",
  },
  NEWER_DATABASE: {
    retryable: false,
    severity: "critical",
    remedy:
      "A newer agent-outbox migrated this database: upgrade this one (`npm install agent-outbox@latest`).",
  },
  DRIVER_MISSING: {
    retryable: false,
    severity: "critical",
    remedy: "Install the driver that the message names with npm.",
  },
  DATABASE_ERROR: {
    retryable: false,
    severity: "error",
    remedy: "See the cause; `agent-outbox doctor` checks the installation.",
  },
  STORAGE_FULL: {
    retryable: true,
    severity: "critical",
    remedy:
      "Free disk space for the database; what was committed is safe, what failed was not stored.",
  },
  CLOSED: {
    retryable: false,
    severity: "error",
    remedy: "The outbox was closed; open it again before using it.",
  },
  INVALID_CONFIGURATION: {
    retryable: false,
    severity: "error",
    remedy: "Correct the option or environment variable that the message names.",
  },
  TOPOLOGY_FORBIDDEN: {
    retryable: false,
    severity: "error",
    remedy:
      "The topology does not let this sender reach this recipient: send to the hub, or change the rules (`agent-outbox topology show`).",
  },
  CONTENT_UNREADABLE: {
    retryable: false,
    severity: "error",
    remedy:
      "The stored content is damaged: ask the sender for the message again, or give the dead letter a new content with deadLetters.edit.",
  },
  CONTENT_MISSING: {
    retryable: true,
    severity: "error",
    remedy:
      "Put the content back into the claim-check store, or check that all processes use the same store, then redrive the message; else ask the sender for it again.",
  },
  CONTENT_UNAVAILABLE: {
    retryable: true,
    severity: "critical",
    remedy:
      "Check that the claim-check store answers and is the one that the senders use; messages wait until it does.",
  },
  QUEUE_FULL: {
    retryable: true,
    severity: "warning",
    remedy:
      'The destination does not keep up: send again later, let the send wait (`flow: { whenFull: "wait" }`), add workers, or raise the window or the mailbox\'s maxDepth; nothing was stored.',
  },
  UNKNOWN_HANDOFF: {
    retryable: false,
    severity: "error",
    remedy: "Check the handoff's id with `agent-outbox handoffs ls`.",
  },
  UNKNOWN_WORKFLOW: {
    retryable: false,
    severity: "error",
    remedy: "Check the workflow's id with `agent-outbox workflows ls`.",
  },
  WORKFLOW_STATE: {
    retryable: false,
    severity: "error",
    remedy: "See with `agent-outbox workflows show` how it stands; only some states allow this.",
  },
  HANDOFF_STATE: {
    retryable: false,
    severity: "warning",
    remedy:
      "Somebody else decided before, or the time for it has passed: look at the handoff (`agent-outbox handoffs show`) and go on from there.",
  },
  HANDOFF_NOT_OWNER: {
    retryable: false,
    severity: "error",
    remedy:
      "Only the agent that has a task offers it, and only the one that it was offered to accepts or rejects it: check the agent's id.",
  },
  HANDOFF_NO_ROOM: {
    retryable: true,
    severity: "warning",
    remedy:
      "The agent is full, draining or silent: accept again when it has room (`waitMs` waits for it), or reject the handoff.",
  },
  HANDOFF_NO_TARGET: {
    retryable: true,
    severity: "warning",
    remedy:
      "No other agent with these capabilities has room: name one with `to`, try again later, or register one that can.",
  },
  LOCK_TAKEN: {
    retryable: true,
    severity: "info",
    remedy:
      "Somebody else holds the lock: try again after details.expiresAt, wait for it (`waitMs`), or see who it is with `agent-outbox locks show`.",
  },
  LOCK_LOST: {
    retryable: false,
    severity: "warning",
    remedy:
      "The lock passed and somebody else may hold it: stop, write nothing more under it, and acquire it anew. Raise ttlMs where the process was only slow.",
  },
  VERSION_CONFLICT: {
    retryable: true,
    severity: "warning",
    remedy:
      "Somebody else was faster: load what is new (details.currentVersion tells how far it is), decide again, and repeat with that version.",
  },
  UNKNOWN_CHANGE: {
    retryable: false,
    severity: "error",
    remedy: "Check the change request's id (`outbox.changes.list()`).",
  },
  CHANGE_STATE: {
    retryable: false,
    severity: "warning",
    remedy:
      "Somebody else decided before, or it is not its turn: look at the change request (`outbox.changes.get(id)`) and go on from there.",
  },
  CHANGE_NOT_OWNER: {
    retryable: false,
    severity: "error",
    remedy:
      "Only an agent that speaks for the module decides for it: one whose card has it as its domain, or whose metadata name it as module.",
  },
  CHANGE_UNTESTED: {
    retryable: false,
    severity: "error",
    remedy:
      "Report passing tests of each module in details.missing (`outbox.changes.report`), or complete it with `force`, which is noted.",
  },
  GATE_FAILED: {
    retryable: false,
    severity: "error",
    remedy: "Mend what each entry of details.failures names, then try again; nothing was stored.",
  },
} as const satisfies Record<string, CodeFacts>;

export type ErrorCode = keyof typeof ERROR_CODES;

export interface ErrorOptions {
  readonly cause?: unknown;
  readonly details?: Readonly<Record<string, unknown>>;
  /** Overrides the remedy of the code where the thrower knows better. */
  readonly recoverySuggestion?: string;
  readonly retryable?: boolean;
}

/** The base of all errors of this library; catch it, then switch on `code`. */
export class AgentCommunicationError extends Error {
  override readonly name: string = "AgentCommunicationError";
  readonly code: ErrorCode;
  readonly severity: ErrorSeverity;
  /** True when the same call may succeed later without any change. */
  readonly retryable: boolean;
  readonly recoverySuggestion: string;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, options: ErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    const facts: CodeFacts = ERROR_CODES[code];
    this.code = code;
    this.severity = facts.severity;
    this.retryable = options.retryable ?? facts.retryable;
    this.recoverySuggestion = options.recoverySuggestion ?? facts.remedy;
    this.details = options.details ?? {};
  }

  toJSON(): Record<string, unknown> {
    return {
      name: this.name,
      code: this.code,
      message: this.message,
      severity: this.severity,
      retryable: this.retryable,
      recovery_suggestion: this.recoverySuggestion,
      details: this.details,
    };
  }
}

/** A subclass whose instances always carry one code. */
function errorOf(name: string, code: ErrorCode) {
  return class extends AgentCommunicationError {
    override readonly name = name;
    constructor(message: string, options: ErrorOptions = {}) {
      super(code, message, options);
    }
  };
}

export class ValidationFailed extends errorOf("ValidationFailed", "VALIDATION_FAILED") {}
export class PayloadTooLarge extends errorOf("PayloadTooLarge", "PAYLOAD_TOO_LARGE") {}
export class UnknownRecipient extends errorOf("UnknownRecipient", "UNKNOWN_RECIPIENT") {}
export class AlreadyExists extends errorOf("AlreadyExists", "ALREADY_EXISTS") {}
export class LeaseLost extends errorOf("LeaseLost", "LEASE_LOST") {}
export class MessageTimeout extends errorOf("MessageTimeout", "MESSAGE_TIMEOUT") {}
export class ServiceUnavailable extends errorOf("ServiceUnavailable", "SERVICE_UNAVAILABLE") {}
export class PermissionDenied extends errorOf("PermissionDenied", "PERMISSION_DENIED") {}
export class RateLimited extends errorOf("RateLimited", "RATE_LIMITED") {}
export class CircuitOpen extends errorOf("CircuitOpen", "CIRCUIT_OPEN") {}
export class UnknownCommandError extends errorOf("UnknownCommandError", "UNKNOWN_COMMAND") {}
export class SignatureInvalid extends errorOf("SignatureInvalid", "SIGNATURE_INVALID") {}
export class GateFailed extends errorOf("GateFailed", "GATE_FAILED") {}
export class LockTaken extends errorOf("LockTaken", "LOCK_TAKEN") {}
export class LockLost extends errorOf("LockLost", "LOCK_LOST") {}
export class VersionConflict extends errorOf("VersionConflict", "VERSION_CONFLICT") {}
export class QueueFull extends errorOf("QueueFull", "QUEUE_FULL") {}

/** Both names are in use for one thing. */
export { MessageTimeout as TimeoutError };

/** The plain form of anything thrown, for storage beside a message and for logs. */
export interface ErrorRecord {
  readonly code: string;
  readonly message: string;
  readonly stack?: string;
}

const MAX_MESSAGE = 4_000;
const MAX_STACK = 8_000;

/** Whatever is thrown: a handler may throw anything, and what it throws must not end the process. */
export function errorRecord(thrown: unknown): ErrorRecord {
  if (!isError(thrown)) return { code: "Error", message: described(thrown).slice(0, MAX_MESSAGE) };
  const code = [textOf(thrown, "code"), textOf(thrown, "name")].find(Boolean) ?? "Error";
  const stack = textOf(thrown, "stack")?.slice(0, MAX_STACK);
  const message = (textOf(thrown, "message") ?? tagOf(thrown)).slice(0, MAX_MESSAGE);
  return { code, message, ...(stack === undefined ? {} : { stack }) };
}

/** A property of anything thrown; undefined also where reading it throws. */
function fieldOf(thrown: unknown, name: string): unknown {
  try {
    return (thrown as Record<string, unknown> | null | undefined)?.[name];
  } catch {
    return undefined;
  }
}

function textOf(thrown: unknown, name: string): string | undefined {
  const value = fieldOf(thrown, name);
  return typeof value === "string" ? value : undefined;
}

function isError(thrown: unknown): boolean {
  try {
    return thrown instanceof Error;
  } catch {
    return false;
  }
}

function described(thrown: unknown): string {
  if (typeof thrown === "string") return thrown;
  try {
    return JSON.stringify(thrown) ?? String(thrown);
  } catch {
    try {
      return String(thrown);
    } catch {
      return tagOf(thrown);
    }
  }
}

function tagOf(thrown: unknown): string {
  try {
    return Object.prototype.toString.call(thrown);
  } catch {
    return "something that cannot be read";
  }
}
