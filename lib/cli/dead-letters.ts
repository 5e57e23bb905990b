import { defineCommand } from "./command.ts";
import { confirmed } from "./confirm.ts";
import { EXIT, NotFound, UsageError } from "./exit-codes.ts";
import { duration, plural, prettyJson, relative, wire } from "./text.ts";

const FILTER = {
  agent: { type: "text", short: "a", value: "AGENT", help: "Only of this mailbox" },
  reason: {
    type: "text",
    value: "REASON",
    help: "Only with this reason, such as max_attempts, rejected, expired",
  },
  type: { type: "text", short: "t", value: "TYPE", help: "Only of this message type" },
  fingerprint: {
    type: "text",
    value: "HASH",
    help: "Only failures of one cause, as `dlq ls` shows it",
  },
  before: {
    type: "text",
    value: "INSTANT",
    help: "Only those that failed before this, in ISO 8601",
  },
} as const;

interface FilterValues {
  readonly agent: string | undefined;
  readonly reason: string | undefined;
  readonly type: string | undefined;
  readonly fingerprint: string | undefined;
  readonly before: string | undefined;
}

const filterOf = (options: FilterValues) => ({
  agentId: options.agent,
  reason: options.reason,
  messageType: options.type,
  fingerprint: options.fingerprint,
  failedBefore: options.before,
});

/** Ids, or a filter, or --all: nobody should empty the dead letters by leaving something out. */
function chosen(ids: readonly string[], options: FilterValues & { readonly all: boolean }) {
  const filter = filterOf(options);
  const filtered = Object.values(filter).some((value) => value !== undefined);
  if (ids.length === 0 && !filtered && !options.all) {
    throw new UsageError(
      "which ones?",
      "Name message ids or a filter such as --agent, or say --all.",
    );
  }
  return { ...filter, messageIds: ids.length === 0 ? undefined : [...ids] };
}

const ls = defineCommand({
  name: "dlq ls",
  summary: "List dead letters, oldest first",
  options: {
    ...FILTER,
    limit: {
      type: "number",
      short: "n",
      value: "N",
      min: 1,
      max: 1_000,
      default: 50,
      help: "The most to list",
    },
    after: {
      type: "number",
      value: "SEQUENCE",
      default: 0,
      help: "Continue after this sequence number",
    },
  },
  examples: [
    ["dlq ls", "what could not be delivered, and why"],
    ["dlq ls --agent billing --reason max_attempts", "of one mailbox"],
    ["dlq ls --json | jq -r '.[].fingerprint' | sort | uniq -c", "how many of each cause"],
  ],
  async run({ options, terminal, outbox }) {
    const { queue } = await outbox();
    const letters = await queue.deadLetters.list({
      ...filterOf(options),
      limit: options.limit,
      afterSeq: options.after,
    });
    terminal.document(wire(letters));
    if (letters.length === 0) {
      terminal.say("No dead letters.");
      return undefined;
    }
    const now = Date.now();
    terminal.table(letters, [
      { title: "MESSAGE", value: ({ messageId }) => messageId, flexible: true },
      { title: "MAILBOX", value: ({ toAgent }) => toAgent, flexible: true },
      { title: "TYPE", value: ({ messageType }) => messageType, flexible: true },
      { title: "REASON", value: ({ reason }) => reason, style: () => "red" },
      { title: "RUNS", value: ({ attempt }) => String(attempt), align: "right" },
      { title: "FAILED", value: ({ failedAt }) => relative(failedAt, now) },
      { title: "CAUSE", value: ({ fingerprint }) => fingerprint },
      { title: "ERROR", value: ({ lastError }) => lastError?.message ?? "", flexible: true },
    ]);
    if (letters.length === options.limit) {
      terminal.say(`There may be more: --after ${letters.at(-1)?.sequence}`);
    }
    return undefined;
  },
});

const show = defineCommand({
  name: "dlq show",
  summary: "Show one dead letter with its content and error",
  arguments: { id: { help: "The message's id" } },
  examples: [["dlq show order-17", "all that is known of it"]],
  async run({ args, terminal, outbox }) {
    const { queue } = await outbox();
    const letter = await queue.deadLetters.get(args.id);
    if (letter === null) {
      throw new NotFound(
        `there is no dead letter ${args.id}`,
        `\`agent-outbox why ${args.id}\` tells where the message is.`,
      );
    }
    terminal.document(wire(letter));
    const now = Date.now();
    const { lastError } = letter;
    terminal.fields([
      ["message", letter.messageId],
      ["to", letter.toAgent],
      ["from", letter.fromAgent],
      ["type", letter.messageType],
      ["reason", letter.reason, "red"],
      ["error", lastError === null ? null : `${lastError.code}: ${lastError.message}`],
      ["cause", letter.fingerprint],
      ["runs", `${letter.attempt} of ${letter.maxAttempts}`],
      ["created", relative(letter.createdAt, now)],
      ["failed", relative(letter.failedAt, now)],
      [
        "first failure",
        letter.firstFailedAt === null
          ? null
          : `${duration(letter.failedAt - letter.firstFailedAt)} before`,
      ],
      ["redriven", letter.redriven === 0 ? null : plural(letter.redriven, "time")],
      ["task", letter.taskId],
      ["correlation", letter.correlationId],
      ["subject", letter.subject],
      ["last worker", letter.workerId],
    ]);
    terminal.line(terminal.style("dim", "content"));
    terminal.line(prettyJson(letter.content, "  "));
    terminal.say(`To send it again: agent-outbox dlq redrive ${letter.messageId}`);
    return undefined;
  },
});

const CHOICE = {
  ...FILTER,
  all: { type: "flag", help: "All of them, when there is no id and no filter" },
  limit: {
    type: "number",
    short: "n",
    value: "N",
    min: 1,
    default: 1_000,
    help: "The most at once",
  },
} as const;

const redrive = defineCommand({
  name: "dlq redrive",
  summary: "Send dead letters again, with all their runs before them",
  arguments: { id: { many: true, optional: true, help: "Message ids" } },
  options: {
    ...CHOICE,
    to: { type: "text", value: "AGENT", help: "Into another mailbox" },
    "delay-ms": { type: "number", value: "MS", default: 0, help: "How long from now" },
  },
  examples: [
    ["dlq redrive order-17", "one message"],
    ["dlq redrive --agent billing --reason max_attempts", "after the cause was mended"],
    ["dlq redrive --all --limit 10", "the oldest ten first"],
  ],
  async run({ args, options, terminal, outbox }) {
    const choice = chosen(args.id, options);
    const { queue } = await outbox();
    const result = await queue.deadLetters.redrive({
      ...choice,
      limit: options.limit,
      toAgent: options.to,
      delayMs: options["delay-ms"],
    });
    terminal.document(wire(result));
    terminal.say(`Sent ${plural(result.redriven, "dead letter")} again.`);
    return args.id.length > 0 && result.redriven === 0 ? EXIT.NOT_FOUND : EXIT.OK;
  },
});

const purge = defineCommand({
  name: "dlq purge",
  summary: "Delete dead letters for good",
  details: ["Asks first, but only at a terminal: scripts are not asked, with or without --yes."],
  arguments: { id: { many: true, optional: true, help: "Message ids" } },
  options: { ...CHOICE, yes: { type: "flag", short: "y", help: "Do not ask" } },
  examples: [
    ["dlq purge order-17", "one message"],
    ["dlq purge --reason expired --before 2024-01-01 --yes", "old ones, from a script"],
  ],
  async run({ args, options, terminal, stdin, outbox }) {
    const choice = chosen(args.id, options);
    const { queue } = await outbox();
    const question = `Delete up to ${plural(options.limit, "dead letter")} for good?`;
    if (!options.yes && !(await confirmed(terminal, stdin, question))) {
      terminal.say("Nothing was changed.");
      return undefined;
    }
    const result = await queue.deadLetters.purge({ ...choice, limit: options.limit });
    terminal.document(wire(result));
    terminal.say(`Deleted ${plural(result.purged, "dead letter")}.`);
    return args.id.length > 0 && result.purged === 0 ? EXIT.NOT_FOUND : EXIT.OK;
  },
});

export const deadLetterCommands = [ls, show, redrive, purge];
