import type { ClaimedMessage, StoredMessage } from "../index.ts";
import { atMost } from "./at-most.ts";
import { defineCommand } from "./command.ts";
import { library } from "./context.ts";
import { NotFound, UsageError } from "./exit-codes.ts";
import type { Terminal } from "./terminal.ts";
import { duration, plural, prettyJson } from "./text.ts";

const receive = defineCommand({
  name: "receive",
  summary: "Claim messages of a mailbox and print them",
  details: [
    "A claimed message is yours until its lease ends; then it is handed out again. Finish it with `ack` or give it back with `nack`, using the receipt that is printed with it.",
  ],
  arguments: { agent: { help: "Whose mailbox" } },
  options: {
    limit: atMost(10, "The most to claim"),
    "lease-ms": {
      type: "number",
      value: "MS",
      min: 1,
      default: 30_000,
      help: "How long the claim lasts",
    },
    "wait-ms": {
      type: "number",
      value: "MS",
      default: 0,
      help: "How long to wait when there is none",
    },
    types: { type: "text", value: "TYPE", multiple: "list", help: "Only these message types" },
    ack: { type: "flag", help: "Finish each as soon as it is printed" },
  },
  examples: [
    ["receive worker-1", "claim up to ten"],
    ["receive worker-1 --wait-ms 60000 --limit 1 --json", "wait for one, for a script"],
    ["receive inbox --ack --json | jq .content", "read and finish"],
  ],
  async run({ args, options, terminal, outbox }) {
    const { queue } = await outbox();
    const messages = await queue.getMessages(args.agent, {
      limit: options.limit,
      leaseMs: options["lease-ms"],
      waitMs: options["wait-ms"],
      messageTypes: options.types.length === 0 ? undefined : [...options.types],
    });
    for (const message of messages) {
      terminal.item(message);
      if (!terminal.json) printClaim(terminal, message, options.ack);
    }
    if (options.ack && messages.length > 0) await queue.ackMessages(messages);
    if (messages.length === 0) terminal.say(`No message for ${args.agent}.`);
    else if (!options.ack) {
      terminal.say(
        `${plural(messages.length, "message")} claimed for ${duration(options["lease-ms"])}. To finish one: agent-outbox ack ID --agent ${args.agent} --receipt N`,
      );
    }
    return undefined;
  },
});

function printClaim(terminal: Terminal, message: ClaimedMessage, acked: boolean): void {
  const facts = [
    `from ${message.fromAgent}`,
    ...(message.priority === 20 ? [] : [`priority ${message.priority}`]),
    `run ${message.attempt} of ${message.maxAttempts}`,
    ...(acked ? [] : [`receipt ${message.receipt}`]),
  ].join(", ");
  terminal.line(
    `${terminal.style("bold", message.messageId)}  ${terminal.style("cyan", message.messageType)}  ${terminal.style("dim", facts)}`,
  );
  terminal.line(prettyJson(message.content, "  "));
  terminal.line();
}

const HELD = {
  agent: {
    type: "text",
    short: "a",
    value: "AGENT",
    help: "The mailbox that it was claimed from (required)",
  },
  receipt: {
    type: "number",
    value: "N",
    min: 1,
    help: "The claim meant; default the one that the agent holds now",
  },
} as const;

const ack = defineCommand({
  name: "ack",
  summary: "Finish a claimed message",
  arguments: { id: { help: "The message's id" } },
  options: HELD,
  examples: [
    ["ack 0198c0de-7e57-7000-8000-000000000001 --agent worker-1 --receipt 1", "finish one"],
  ],
  async run({ args, options, terminal, outbox }) {
    const agent = requireAgent(options.agent);
    const { queue } = await outbox();
    const done = await queue.markProcessed(args.id, agent, { receipt: options.receipt });
    if (!done) return notHeld(await queue.getMessage(args.id), args.id, agent);
    terminal.document({ message_id: args.id, outcome: "acked" });
    terminal.say(`Finished ${args.id}.`);
    return undefined;
  },
});

const nack = defineCommand({
  name: "nack",
  summary: "Give a claimed message back as failed",
  details: [
    "It is tried again after the retry policy's pause, or dead-lettered when that was its last run.",
  ],
  arguments: { id: { help: "The message's id" } },
  options: {
    ...HELD,
    error: { type: "text", short: "e", value: "TEXT", help: "What went wrong (required)" },
    "delay-ms": {
      type: "number",
      value: "MS",
      help: "The pause before the next run; default by the retry policy",
    },
    dead: { type: "flag", help: "No further run: straight to the dead letters" },
  },
  examples: [
    [
      `nack 0198c0de-7e57-7000-8000-000000000001 --agent worker-1 --error "no such customer"`,
      "try it again later",
    ],
    [`nack order-17 --agent billing --error "bad data" --dead`, "never again"],
  ],
  async run({ args, options, terminal, outbox }) {
    const agent = requireAgent(options.agent);
    if (options.error === undefined) {
      throw new UsageError(
        "--error TEXT is missing",
        "Say what went wrong: `why` and `dlq` show it.",
      );
    }
    const { queue } = await outbox();
    const outcome = await queue.nack(args.id, agent, new Reported(options.error), {
      receipt: options.receipt,
      delayMs: options["delay-ms"],
      retry: !options.dead,
    });
    if (outcome === "stale" || outcome === "gone") {
      return notHeld(await queue.getMessage(args.id), args.id, agent);
    }
    terminal.document({ message_id: args.id, outcome });
    const what = outcome === "retried" ? "is tried again later" : "went to the dead letters";
    terminal.say(`${args.id} ${what}.`);
    return undefined;
  },
});

/** An error of the person's, not of this program: without a stack. */
class Reported extends Error {
  override readonly name = "Reported";
  constructor(message: string) {
    super(message);
    delete this.stack;
  }
}

function requireAgent(agent: string | undefined): string {
  if (agent !== undefined) return agent;
  throw new UsageError(
    "--agent AGENT is missing",
    "Name the mailbox that the message was claimed from.",
  );
}

async function notHeld(message: StoredMessage | null, id: string, agent: string): Promise<number> {
  if (message === null) throw new NotFound(`there is no message ${id}`, "Check the id.");
  const { LeaseLost } = await library();
  throw new LeaseLost(`${agent} does not hold message ${id} (it is ${message.state})`, {
    recoverySuggestion: `\`agent-outbox why ${id}\` tells where it is; nothing was changed.`,
  });
}

export const claimCommands = [receive, ack, nack];
