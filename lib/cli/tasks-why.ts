import { defineCommand } from "./command.ts";
import { wire } from "./text.ts";

/** What a person has to do something about is red, what passes by itself green. */
const STYLES: Readonly<Record<string, "red" | "yellow" | "green">> = {
  no_capable_agent: "red",
  none_alive: "red",
  none_taking: "red",
  only_its_supervisor: "red",
  agent_lost: "red",
  ended: "green",
  working: "green",
  claimed: "green",
  in_auction: "green",
};

const why = defineCommand({
  name: "tasks why",
  summary: "Tell what a task waits for, and what to do",
  arguments: { id: { help: "The task's id" } },
  examples: [
    ["tasks why task_42", "which requirement no agent meets, who is full, what it waits for"],
  ],
  async run({ args, terminal, outbox }) {
    const answer = await (await outbox()).tasks.why(args.id);
    terminal.document(wire(answer));
    terminal.fields([
      ["task", answer.taskId],
      ["state", answer.state],
      ["reason", answer.reason, STYLES[answer.reason] ?? "yellow"],
      ["why", answer.explanation],
      ["to do", answer.remedy],
    ]);
    return undefined;
  },
});

export const taskWhyCommands = [why];
