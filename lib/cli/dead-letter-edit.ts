import { defineCommand } from "./command.ts";
import { UsageError } from "./exit-codes.ts";
import { pairs, readJson } from "./input.ts";
import { priorityOf } from "./messages.ts";
import { wire } from "./text.ts";

const CHANGES = {
  content: {
    type: "text",
    short: "c",
    value: "JSON",
    help: "A JSON object or array; @FILE reads a file, - the standard input",
  },
  type: { type: "text", short: "t", value: "TYPE", help: "The message type" },
  priority: {
    type: "text",
    value: "PRIORITY",
    help: "LOW, NORMAL, HIGH, CRITICAL, or 0 to 100",
  },
  "max-attempts": { type: "number", value: "N", min: 1, help: "Runs before it is dead again" },
  subject: { type: "text", value: "TEXT", help: "For people" },
  "reply-to": { type: "text", value: "AGENT", help: "Who gets the replies" },
  "correlation-id": { type: "text", value: "ID", help: "What it belongs to" },
  "context-id": { type: "text", value: "ID", help: "The conversation that it is part of" },
  "task-id": { type: "text", value: "ID", help: "The task that it is about" },
  header: {
    type: "text",
    value: "NAME=VALUE",
    multiple: "repeat",
    help: "A header; the others stay as they are",
  },
  "drop-header": { type: "text", value: "NAME", multiple: "repeat", help: "Takes a header away" },
} as const;

export const edit = defineCommand({
  name: "dlq edit",
  summary: "Correct a dead letter, and send it again with --replay",
  details: [
    "What is named replaces what was there; the rest stays. The header x-edited-at says when, x-edited-by who. With --replay, both happen or neither.",
  ],
  arguments: { id: { help: "The message's id" } },
  options: {
    ...CHANGES,
    agent: {
      type: "text",
      short: "a",
      value: "AGENT",
      help: "The mailbox, where several have a dead letter of this id",
    },
    by: { type: "text", value: "NAME", help: "Who corrects it; default USER" },
    replay: { type: "flag", help: "Send it again at once" },
    to: { type: "text", value: "AGENT", help: "With --replay: into another mailbox" },
    "delay-ms": {
      type: "number",
      value: "MS",
      default: 0,
      help: "With --replay: how long from now",
    },
  },
  examples: [
    [`dlq edit order-17 --content '{"total":17}' --replay`, "correct it and send it again"],
    ["dlq edit order-17 --content @order.json --by ada", "from a file; redrive it later"],
  ],
  async run({ args, options, terminal, stdin, env, outbox }) {
    const changes = {
      content:
        options.content === undefined
          ? undefined
          : ((await readJson("content", options.content, { terminal, stdin })) as object),
      messageType: options.type,
      priority: priorityOf(options.priority) as "NORMAL" | undefined,
      maxAttempts: options["max-attempts"],
      subject: options.subject,
      replyTo: options["reply-to"],
      correlationId: options["correlation-id"],
      contextId: options["context-id"],
      taskId: options["task-id"],
      headers: headersOf(options.header, options["drop-header"]),
    };
    if (Object.values(changes).every((value) => value === undefined)) {
      throw new UsageError("what is to be changed?", "Name it, as in --content @corrected.json.");
    }
    if (!options.replay && (options.to !== undefined || options["delay-ms"] > 0)) {
      throw new UsageError("--to and --delay-ms go with --replay");
    }
    const { queue } = await outbox();
    const by = options.by ?? (env.USER || env.USERNAME);
    const result = await queue.deadLetters.edit(args.id, changes, {
      agentId: options.agent,
      by: by || undefined,
      replay: options.replay,
      toAgent: options.to,
      delayMs: options["delay-ms"],
    });
    terminal.document(wire(result));
    terminal.say(
      result.replayed
        ? `Corrected ${args.id} and sent it again.`
        : `Corrected ${args.id}. To send it again: agent-outbox dlq redrive ${args.id}`,
    );
    return undefined;
  },
});

function headersOf(
  given: readonly string[],
  dropped: readonly string[],
): Record<string, string | null> | undefined {
  if (given.length === 0 && dropped.length === 0) return undefined;
  return {
    ...Object.fromEntries(dropped.map((name) => [name, null])),
    ...pairs("header", given),
  };
}
