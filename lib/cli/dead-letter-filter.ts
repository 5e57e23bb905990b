import { UsageError } from "./exit-codes.ts";

/** Which dead letters a command means, the same for all of them. */
export const FILTER = {
  agent: { type: "text", short: "a", value: "AGENT", help: "Only of this mailbox" },
  from: { type: "text", value: "AGENT", help: "Only from this sender" },
  reason: {
    type: "text",
    value: "REASON",
    help: "Only with this reason, such as max_attempts, rejected, expired",
  },
  type: { type: "text", short: "t", value: "TYPE", help: "Only of this message type" },
  fingerprint: {
    type: "text",
    value: "HASH",
    help: "Only failures of one cause, as `dlq groups` shows it",
  },
  "error-code": { type: "text", value: "CODE", help: "Only with this code of the last error" },
  error: {
    type: "text",
    short: "e",
    value: "TEXT",
    help: "Only with this text in the last error, in any case",
  },
  since: {
    type: "text",
    value: "INSTANT",
    help: "Only those that failed at this instant or later, in ISO 8601",
  },
  before: {
    type: "text",
    value: "INSTANT",
    help: "Only those that failed before this, in ISO 8601",
  },
  "sent-since": {
    type: "text",
    value: "INSTANT",
    help: "Only those that were sent at this instant or later",
  },
  "sent-before": { type: "text", value: "INSTANT", help: "Only those that were sent before this" },
} as const;

/** The filter for commands that change something. */
export const CHOICE = {
  ...FILTER,
  all: { type: "flag", help: "All of them, when there is no id and no filter" },
  limit: {
    type: "number",
    short: "n",
    value: "N",
    min: 1,
    default: 1_000,
    help: "The most at once, the oldest first",
  },
  "dry-run": { type: "flag", help: "Only count and show what would go" },
} as const;

type FilterValues = { readonly [K in keyof typeof FILTER]: string | undefined };

export const filterOf = (options: FilterValues) => ({
  agentId: options.agent,
  fromAgent: options.from,
  reason: options.reason,
  messageType: options.type,
  fingerprint: options.fingerprint,
  errorCode: options["error-code"],
  errorText: options.error,
  failedAfter: options.since,
  failedBefore: options.before,
  createdAfter: options["sent-since"],
  createdBefore: options["sent-before"],
});

/** Ids, or a filter, or --all: nobody should empty the dead letters by leaving something out. */
export function chosen(
  ids: readonly string[],
  options: FilterValues & { readonly all: boolean; readonly limit: number },
) {
  const filter = filterOf(options);
  const filtered = Object.values(filter).some((value) => value !== undefined);
  if (ids.length === 0 && !filtered && !options.all) {
    throw new UsageError(
      "which ones?",
      "Name message ids or a filter such as --agent, or say --all.",
    );
  }
  return {
    ...filter,
    messageIds: ids.length === 0 ? undefined : [...ids],
    limit: options.limit,
  };
}
