import type { TaskState } from "../index.ts";
import { after, atMost, sayMore } from "./at-most.ts";
import { defineCommand } from "./command.ts";
import { assignCommands } from "./tasks-assign.ts";
import { inputCommands } from "./tasks-inputs.ts";
import { steerCommands } from "./tasks-steer.ts";
import { noTask, print, progressOf, stateOf, styleOf } from "./tasks-text.ts";
import { treeCommands } from "./tasks-tree.ts";
import { relative, wire } from "./text.ts";

const STATES = [
  "submitted",
  "assigned",
  "working",
  "input_required",
  "auth_required",
  "completed",
  "failed",
  "canceled",
  "rejected",
] as const satisfies readonly TaskState[];

const ls = defineCommand({
  name: "tasks ls",
  summary: "List tasks in the order of their arrival",
  options: {
    state: { type: "text", choices: STATES, value: "STATE", help: "Only in this state" },
    agent: { type: "text", short: "a", value: "AGENT", help: "Only of this agent" },
    supervisor: { type: "text", value: "ID", help: "Only of this supervisor" },
    limit: atMost(100, "The most to list"),
    after,
  },
  examples: [
    ["tasks ls", "all of them"],
    ["tasks ls --state submitted", "those that no agent can take"],
    ["tasks ls --state failed --json | jq '.[].last_error'", "why they failed"],
  ],
  async run({ options, terminal, outbox }) {
    const tasks = await (await outbox()).tasks.list({
      state: options.state,
      agentId: options.agent,
      supervisorId: options.supervisor,
      limit: options.limit,
      afterSeq: options.after,
    });
    terminal.document(wire(tasks));
    if (tasks.length === 0) {
      terminal.say("No tasks.");
      return undefined;
    }
    const now = Date.now();
    terminal.table(tasks, [
      { title: "TASK", value: ({ taskId }) => taskId, flexible: true },
      { title: "TYPE", value: ({ taskType }) => taskType, flexible: true },
      { title: "STATE", value: stateOf, style: styleOf },
      { title: "DONE", value: progressOf, align: "right" },
      { title: "AGENT", value: ({ agentId }) => agentId ?? "–", flexible: true },
      { title: "CREATED", value: ({ createdAt }) => relative(createdAt, now) },
      { title: "ENDED", value: ({ finishedAt }) => relative(finishedAt, now) },
    ]);
    sayMore(terminal, tasks, options.limit);
    return undefined;
  },
});

const show = defineCommand({
  name: "tasks show",
  summary: "Show one task with its parameters and result",
  arguments: { id: { help: "The task's id" } },
  examples: [["tasks show report-7", "where it is, and what came of it"]],
  async run({ args, terminal, outbox }) {
    const task = await (await outbox()).tasks.get(args.id);
    if (task === null) throw noTask(args.id);
    terminal.document(wire(task));
    if (!terminal.json) print(terminal, task);
    return undefined;
  },
});

export const taskCommands = [
  ls,
  show,
  ...treeCommands,
  ...assignCommands,
  ...steerCommands,
  ...inputCommands,
];
