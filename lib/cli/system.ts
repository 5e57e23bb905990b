import type { SystemStatus } from "../index.ts";
import { defineCommand } from "./command.ts";
import type { Terminal } from "./terminal.ts";
import { plural, relative, wire } from "./text.ts";

function print(terminal: Terminal, status: SystemStatus): void {
  terminal.document(wire(status));
  if (terminal.json) return;
  const { maintenance, acknowledged, waiting } = status;
  if (maintenance === null) {
    terminal.say("Normal: everything is handed out.");
    return;
  }
  const held = [...maintenance.kinds.map((kind) => `kind ${kind}`), ...maintenance.types];
  terminal.fields([
    ["mode", "maintenance (read-only)", "yellow"],
    ["reason", maintenance.reason],
    ["by", maintenance.by],
    ["since", relative(maintenance.since, Date.now())],
    ["held back", held.join(", ")],
    ["acknowledged", acknowledged.map(({ agentId }) => agentId).join(", ") || "nobody yet"],
    ["waiting for", waiting.join(", ") || null, "yellow"],
  ]);
}

const status = defineCommand({
  name: "system status",
  summary: "Show whether the system is in maintenance, and which agents know",
  examples: [["system status", "what is held back, and who has not acknowledged it"]],
  async run({ terminal, outbox }) {
    print(terminal, await (await outbox()).system.status());
    return undefined;
  },
});

const maintenance = defineCommand({
  name: "system maintenance",
  summary: "Hold back what writes, and tell all agents",
  details: [
    "Messages of the kinds task and command are stored and handed to nobody, in every mailbox, until `system ready`; what agents hold already they may finish. It stands in the database, so it holds for processes that start later, too.",
  ],
  options: {
    reason: {
      type: "text",
      short: "r",
      value: "TEXT",
      help: "Why, for people and agents; required",
    },
    by: { type: "text", value: "WHO", help: "Who enters it; default operator" },
    kind: {
      type: "text",
      value: "KIND",
      multiple: "list",
      help: "Kinds of messages that write; default task,command",
    },
    type: {
      type: "text",
      value: "TYPE",
      multiple: "list",
      help: "Message types that write, besides the kinds",
    },
    quiet: { type: "flag", help: "Do not tell the agents" },
  },
  examples: [[`system maintenance --reason "schema update"`, "before a change of the schema"]],
  async run({ options, terminal, outbox }) {
    const { system } = await outbox();
    const entered = await system.enterMaintenance({
      reason: options.reason ?? "",
      by: options.by,
      ...(options.kind.length === 0 ? {} : { writeKinds: [...options.kind] as ["task"] }),
      writeTypes: [...options.type],
      announce: !options.quiet,
    });
    print(terminal, entered);
    if (!terminal.json && entered.waiting.length > 0) {
      terminal.say(
        `${plural(entered.waiting.length, "agent")} still to acknowledge it: \`agent-outbox system status\`.`,
      );
    }
    return undefined;
  },
});

const ready = defineCommand({
  name: "system ready",
  summary: "End the maintenance: what was held back is handed out in its old order",
  options: {
    by: { type: "text", value: "WHO", help: "Who ends it; default operator" },
    quiet: { type: "flag", help: "Do not tell the agents" },
  },
  examples: [["system ready", "work goes on"]],
  async run({ options, terminal, outbox }) {
    const { system } = await outbox();
    print(terminal, await system.ready({ by: options.by, announce: !options.quiet }));
    return undefined;
  },
});

export const systemCommands = [status, maintenance, ready];
