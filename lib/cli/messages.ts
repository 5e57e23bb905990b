import type { Explanation } from "../index.ts";
import { defineCommand } from "./command.ts";
import { EXIT, UsageError } from "./exit-codes.ts";
import { pairs, readJson } from "./input.ts";
import { duration, relative, wire } from "./text.ts";

const send = defineCommand({
  name: "send",
  summary: "Put a message into the mailbox of an agent, or of several",
  details: [
    "With --id it can be repeated safely: the same id from the same sender is stored once, and the second time is told as a duplicate.",
  ],
  arguments: { agent: { many: true, help: "The receiving agents; they need not be registered" } },
  options: {
    type: {
      type: "text",
      short: "t",
      value: "TYPE",
      help: "The message type, such as greet or TASK_ASSIGNMENT (required)",
    },
    content: {
      type: "text",
      short: "c",
      value: "JSON",
      help: "A JSON object or array; @FILE reads a file, - the standard input; default {}",
    },
    from: {
      type: "text",
      value: "AGENT",
      help: "The sender, who gets the replies; default system",
    },
    id: { type: "text", value: "ID", help: "The message's id; default a new UUID" },
    priority: {
      type: "text",
      value: "PRIORITY",
      help: "LOW, NORMAL, HIGH, CRITICAL, or 0 to 100; default NORMAL",
    },
    "delay-ms": { type: "number", value: "MS", help: "Not handed out before this long from now" },
    "ttl-ms": {
      type: "number",
      value: "MS",
      min: 1,
      help: "Expires this long after it became available; default never",
    },
    "max-attempts": {
      type: "number",
      value: "N",
      min: 1,
      help: "Runs before it is dead-lettered; default AGENT_MAX_RETRIES, else 3",
    },
    retry: {
      type: "text",
      value: "POLICY",
      help: "The retry policy for errors of no class: transient_error, rate_limit or service_unavailable; default the receiver's",
    },
    "dedupe-key": {
      type: "text",
      value: "KEY",
      help: "Not stored while a message with this key is remembered",
    },
    "dedupe-window-ms": {
      type: "number",
      value: "MS",
      min: 1,
      help: "How long the key is remembered; default 300000",
    },
    "reply-to": { type: "text", value: "AGENT", help: "Who gets the replies; default the sender" },
    "correlation-id": {
      type: "text",
      value: "ID",
      help: "What it belongs to; copied into replies",
    },
    "context-id": { type: "text", value: "ID", help: "The conversation that it is part of" },
    "task-id": { type: "text", value: "ID", help: "The task that it is about" },
    subject: { type: "text", value: "TEXT", help: "For people" },
    header: { type: "text", value: "NAME=VALUE", multiple: "repeat", help: "A header" },
  },
  examples: [
    [`send worker-1 --type greet --content '{"name":"Ada"}'`, "one message"],
    ["send worker-1 worker-2 --type reload", "the same to two mailboxes"],
    [
      "send billing --type invoice --content @invoice.json --id inv-17",
      "from a file, safe to repeat",
    ],
    [
      `date | jq -R '{now: .}' | agent-outbox send clock --type tick --content -`,
      "from another program",
    ],
  ],
  async run({ args, options, terminal, stdin, outbox }) {
    const content = await readJson("content", options.content ?? "{}", { terminal, stdin });
    if (options.type === undefined) {
      throw new UsageError(
        "--type TYPE is missing",
        "Say what the message is, as in --type greet.",
      );
    }
    const { queue } = await outbox();
    const sent = await queue.sendMessage({
      toAgent: args.agent,
      messageType: options.type,
      content: content as object,
      fromAgent: options.from,
      messageId: options.id,
      priority: priorityOf(options.priority) as "NORMAL" | undefined,
      delayMs: options["delay-ms"],
      ttlMs: options["ttl-ms"],
      maxAttempts: options["max-attempts"],
      retry: options.retry,
      dedupeKey: options["dedupe-key"],
      dedupeWindowMs: options["dedupe-window-ms"],
      replyTo: options["reply-to"],
      correlationId: options["correlation-id"],
      contextId: options["context-id"],
      taskId: options["task-id"],
      subject: options.subject,
      headers: options.header.length === 0 ? undefined : pairs("header", options.header),
    });
    terminal.document(wire(sent));
    if (terminal.quiet) terminal.line(sent.messageId);
    else if (sent.duplicate) {
      terminal.line(`Stored before as ${sent.messageId}; nothing was sent again.`);
    } else {
      terminal.line(`Sent ${sent.messageId} to ${args.agent.join(", ")}.`);
    }
    return undefined;
  },
});

/** A number is a number also when it comes from the command line. */
export function priorityOf(text: string | undefined): string | number | undefined {
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : text;
}

const why = defineCommand({
  name: "why",
  summary: "Tell what keeps a message from being delivered, and what to do",
  arguments: { id: { help: "The message's id" } },
  examples: [["why 0198c0de-7e57-7000-8000-000000000001", "where it is, per recipient"]],
  async run({ args, terminal, outbox }) {
    const { queue } = await outbox();
    const answers = await queue.why(args.id);
    terminal.document(wire(answers.map(withInstants)));
    const now = Date.now();
    for (const [n, answer] of answers.entries()) {
      if (n > 0) terminal.line();
      terminal.fields([
        ["message", answer.messageId],
        ["to", answer.toAgent],
        ["state", answer.state, STYLES[answer.state] ?? "green"],
        ["why", answer.reason],
        ...answer.also.map((reason): [string, string] => ["also", reason]),
        ["until", answer.until === null ? null : relative(answer.until, now)],
        ["to do", answer.remedy],
        ...answer.failures.map(({ attempt, at, worker, durationMs, error }): [string, string] => [
          `run ${attempt}`,
          `${[
            `failed ${relative(at, now)}`,
            ...(worker === null ? [] : [`on ${worker}`]),
            ...(durationMs === null ? [] : [`after ${duration(durationMs)}`]),
          ].join(" ")}: ${error.code}: ${error.message}`,
        ]),
      ]);
    }
    return answers.every(({ state }) => state === "unknown") ? EXIT.NOT_FOUND : EXIT.OK;
  },
});

/** What a person has to do something about is red, what holds it back for a while yellow. */
const STYLES: Partial<Record<Explanation["state"], "red" | "yellow">> = {
  ...{ dead: "red", unknown: "red", halted: "red", expired: "red", paused: "yellow" },
  ...{ circuit_open: "yellow", limited: "yellow", blocked: "yellow" },
};

/** The instants of the runs in ISO 8601, like all others. */
function withInstants(answer: Explanation) {
  const failures = answer.failures.map((run) => ({ ...run, at: new Date(run.at).toISOString() }));
  return { ...answer, failures };
}

export const sendCommands = [send];
export const whyCommands = [why];
