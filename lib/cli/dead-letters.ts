import type { DeadLetter } from "../index.ts";
import { after, atMost } from "./at-most.ts";
import { defineCommand } from "./command.ts";
import { library } from "./context.ts";
import { deadLetterActs } from "./dead-letter-acts.ts";
import { FILTER, filterOf } from "./dead-letter-filter.ts";
import { NotFound } from "./exit-codes.ts";
import type { Column, Terminal } from "./terminal.ts";
import { duration, plural, prettyJson, relative, wire } from "./text.ts";

const columns = (now: number): Column<DeadLetter>[] => [
  { title: "MESSAGE", value: ({ messageId }) => messageId, flexible: true },
  { title: "MAILBOX", value: ({ toAgent }) => toAgent, flexible: true },
  { title: "TYPE", value: ({ messageType }) => messageType, flexible: true },
  { title: "REASON", value: ({ reason }) => reason, style: () => "red" },
  { title: "RUNS", value: ({ attempt }) => String(attempt), align: "right" },
  { title: "FAILED", value: ({ failedAt }) => relative(failedAt, now) },
  { title: "CAUSE", value: ({ fingerprint }) => fingerprint },
  { title: "ERROR", value: ({ lastError }) => lastError?.message ?? "", flexible: true },
];

const ls = defineCommand({
  name: "dlq ls",
  summary: "List dead letters, oldest first",
  options: {
    ...FILTER,
    limit: atMost(50, "The most to list"),
    after,
  },
  examples: [
    ["dlq ls", "what could not be delivered, and why"],
    ["dlq ls --agent billing --reason max_attempts", "of one mailbox"],
    [`dlq ls --error "connection refused" --since 2026-01-31T08:00Z`, "by the words of the error"],
  ],
  async run({ options, terminal, outbox }) {
    const { queue } = await outbox();
    const letters = await queue.deadLetters.list({
      ...filterOf(options),
      limit: options.limit,
      afterSeq: options.after,
    });
    terminal.document(wire(letters.map(withInstants)));
    if (letters.length === 0) {
      terminal.say("No dead letters.");
      return undefined;
    }
    terminal.table(letters, columns(Date.now()));
    if (letters.length === options.limit) {
      terminal.say(`There may be more: --after ${letters.at(-1)?.sequence}`);
    }
    return undefined;
  },
});

const groups = defineCommand({
  name: "dlq groups",
  summary: "Group dead letters by their cause, the most frequent first",
  details: [
    "A cause is the message type, the code of the error and its words, but for numbers and quotations. Of more than 10,000 dead letters the newest 10,000 are counted.",
  ],
  options: {
    ...FILTER,
    limit: atMost(20, "The most groups"),
  },
  examples: [
    ["dlq groups", "what fails most"],
    ["dlq groups --agent billing --since 2026-01-31T08:00Z", "of one mailbox, lately"],
    ["dlq groups --json | jq -r '.groups[].fingerprint'", "for a script"],
  ],
  async run({ options, terminal, outbox }) {
    const { queue } = await outbox();
    const found = await queue.deadLetters.groups(filterOf(options), { limit: options.limit });
    terminal.document(wire(found));
    if (found.groups.length === 0) {
      terminal.say("No dead letters.");
      return undefined;
    }
    const now = Date.now();
    terminal.table(found.groups, [
      { title: "CAUSE", value: ({ fingerprint }) => fingerprint },
      { title: "COUNT", value: ({ count }) => String(count), align: "right" },
      { title: "REASON", value: ({ reason }) => reason, style: () => "red" },
      { title: "TYPE", value: ({ messageType }) => messageType, flexible: true },
      {
        title: "MAILBOXES",
        value: ({ mailboxes }) => mailboxes.map(({ agentId }) => agentId).join(", "),
        flexible: true,
      },
      { title: "FIRST", value: ({ earliestFailedAt }) => relative(earliestFailedAt, now) },
      { title: "LAST", value: ({ latestFailedAt }) => relative(latestFailedAt, now) },
      { title: "ERROR", value: ({ errorMessage }) => errorMessage ?? "", flexible: true },
    ]);
    if (found.capped) terminal.say("There are more: these are the newest 10,000.");
    terminal.say(`To list one: agent-outbox dlq ls --fingerprint ${found.groups[0]?.fingerprint}`);
    return undefined;
  },
});

const show = defineCommand({
  name: "dlq show",
  summary: "Show one dead letter with its content, error and runs",
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
    terminal.document(wire(withInstants(letter)));
    const { DEAD_LETTER_REASONS } = await library();
    const meaning = (DEAD_LETTER_REASONS as Readonly<Record<string, string>>)[letter.reason];
    showFields(terminal, letter, meaning);
    showRuns(terminal, letter);
    if (Object.keys(letter.headers).length > 0) {
      terminal.line(terminal.style("dim", "headers"));
      terminal.line(prettyJson(letter.headers, "  "));
    }
    terminal.line(terminal.style("dim", "content"));
    terminal.line(prettyJson(letter.content, "  "));
    terminal.say(`To send it again: agent-outbox dlq redrive ${letter.messageId}`);
    return undefined;
  },
});

function showFields(terminal: Terminal, letter: DeadLetter, meaning: string | undefined): void {
  const now = Date.now();
  const { lastError } = letter;
  terminal.fields([
    ["message", letter.messageId],
    ["to", letter.toAgent],
    ["first sent to", letter.originalAgent === letter.toAgent ? null : letter.originalAgent],
    ["from", letter.fromAgent],
    ["type", letter.messageType],
    ["reason", `${letter.reason}${meaning === undefined ? "" : `: ${meaning}`}`, "red"],
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
    ["last run", relative(letter.lastAttemptAt, now)],
    ["redriven", letter.redriven === 0 ? null : plural(letter.redriven, "time")],
    ["task", letter.taskId],
    ["correlation", letter.correlationId],
    ["subject", letter.subject],
    ["last worker", letter.workerId],
  ]);
}

function showRuns(terminal: Terminal, { failures }: DeadLetter): void {
  if (failures.length === 0) return;
  const now = Date.now();
  terminal.line(terminal.style("dim", "failed runs"));
  terminal.table(failures, [
    { title: "RUN", value: ({ attempt }) => String(attempt), align: "right" },
    { title: "ENDED", value: ({ at }) => relative(at, now) },
    {
      title: "TOOK",
      value: ({ durationMs }) => (durationMs === null ? "–" : duration(durationMs)),
    },
    { title: "WORKER", value: ({ worker }) => worker ?? "–", flexible: true },
    { title: "CODE", value: ({ error }) => error.code },
    { title: "ERROR", value: ({ error }) => error.message, flexible: true },
  ]);
}

/** The instants of the runs in ISO 8601, like all others. */
function withInstants(letter: DeadLetter) {
  const failures = letter.failures.map((run) => ({ ...run, at: new Date(run.at).toISOString() }));
  return { ...letter, failures };
}

export const deadLetterCommands = [ls, groups, show, ...deadLetterActs];
