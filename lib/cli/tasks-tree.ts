import type { TaskTree } from "../index.ts";
import { defineCommand } from "./command.ts";
import { progressOf, stateOf, styleOf } from "./tasks-text.ts";
import type { Terminal } from "./terminal.ts";
import { clean, wire } from "./text.ts";

function draw(terminal: Terminal, tree: TaskTree, first: string, rest: string): void {
  const { task, subtasks } = tree;
  const style = styleOf(task);
  const state = stateOf(task);
  const where = [progressOf(task), task.agentId === null ? "" : `with ${clean(task.agentId)}`];
  terminal.line(
    [
      `${first}${clean(task.taskId)}`,
      clean(task.taskType),
      style === undefined ? state : terminal.style(style, state),
      ...where.filter((text) => text !== "").map((text) => terminal.style("dim", text)),
    ].join("  "),
  );
  for (const [n, part] of subtasks.entries()) {
    const last = n === subtasks.length - 1;
    draw(terminal, part, `${rest}${last ? "└─ " : "├─ "}`, `${rest}${last ? "   " : "│  "}`);
  }
}

const tree = defineCommand({
  name: "tasks tree",
  summary: "Show a task with its subtasks and theirs",
  arguments: { id: { help: "The task's id" } },
  examples: [["tasks tree report-7", "how far each part is"]],
  async run({ args, terminal, outbox }) {
    const found = await (await outbox()).tasks.tree(args.id);
    terminal.document(wire(found));
    if (terminal.json) return undefined;
    draw(terminal, found, "", "");
    if (found.truncated) terminal.say("There are more: look at a part with `tasks tree` too.");
    return undefined;
  },
});

export const treeCommands = [tree];
