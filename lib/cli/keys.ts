import { defineCommand } from "./command.ts";
import { NotFound } from "./exit-codes.ts";
import { plural, relative, wire } from "./text.ts";

const ls = defineCommand({
  name: "keys ls",
  summary: "List the ordering keys that a dead letter halts",
  details: [
    "Only mailboxes set to `--on-dead-letter halt` have such keys: their messages wait until a person has decided.",
  ],
  arguments: { agent: { optional: true, help: "Only of this mailbox; default all" } },
  examples: [["keys ls", "what waits for a decision, and since when"]],
  async run({ args, terminal, outbox }) {
    const { queue } = await outbox();
    const halted = await queue.orderingKeys.halted(args.agent);
    const found = [];
    for (const key of halted) {
      const { agentId, sequence } = key;
      const [letter] = await queue.deadLetters.list({ agentId, limit: 1, afterSeq: sequence - 1 });
      const dead = letter?.sequence === sequence ? letter : undefined;
      found.push({ ...key, messageId: dead?.messageId ?? null, reason: dead?.reason ?? null });
    }
    terminal.document(wire(found));
    if (found.length === 0) {
      terminal.say("No ordering key is halted.");
      return undefined;
    }
    const now = Date.now();
    terminal.table(found, [
      { title: "MAILBOX", value: ({ agentId }) => agentId, flexible: true },
      { title: "KEY", value: ({ orderingKey }) => orderingKey, flexible: true },
      { title: "HALTED", value: ({ haltedAt }) => relative(haltedAt, now) },
      { title: "BY", value: ({ messageId }) => messageId ?? "–", flexible: true },
      { title: "REASON", value: ({ reason }) => reason ?? "–" },
    ]);
    const [first] = found;
    terminal.say(
      `${plural(found.length, "key")}. To run the dead one again in its place: agent-outbox dlq redrive ${first?.messageId ?? "ID"}. To go on without it: agent-outbox keys resume ${first?.agentId} ${first?.orderingKey}`,
    );
    return undefined;
  },
});

const resume = defineCommand({
  name: "keys resume",
  summary: "Go on with the message after the dead one of an ordering key",
  details: ["The dead one stays in the dead letters. To go on with it instead, redrive it."],
  arguments: {
    agent: { help: "Whose mailbox" },
    key: { help: "The ordering key" },
  },
  examples: [["keys resume billing customer-17", "without the one that failed"]],
  async run({ args, terminal, outbox }) {
    const { queue } = await outbox();
    const resumed = await queue.orderingKeys.resume(args.agent, args.key);
    if (!resumed) {
      throw new NotFound(
        `the key ${args.key} of ${args.agent} is not halted`,
        "Try `agent-outbox keys ls`.",
      );
    }
    terminal.document({ agent_id: args.agent, ordering_key: args.key, resumed });
    terminal.say(`Resumed ${args.key} of ${args.agent}.`);
    return undefined;
  },
});

export const keyCommands = [ls, resume];
