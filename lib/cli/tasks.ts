import type { Task, TaskState } from "../index.ts";
import { atMost } from "./at-most.ts";
import { defineCommand } from "./command.ts";
import { library } from "./context.ts";
import { CommandError, EXIT, NotFound } from "./exit-codes.ts";
import { readObject } from "./input.ts";
import { priorityOf } from "./messages.ts";
import type { Terminal } from "./terminal.ts";
import { prettyJson, relative, wire } from "./text.ts";

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

/** Who assigns from the command line, unless told otherwise. */
const SUPERVISOR = "cli";

const styleOf = ({ state }: Task) =>
  state === "completed"
    ? ("green" as const)
    : state === "failed" || state === "rejected"
      ? ("red" as const)
      : state === "submitted"
        ? ("yellow" as const)
        : undefined;

function progressOf({ progress }: Task): string {
  return progress === null || progress.percentage === null ? "" : `${progress.percentage} %`;
}

const ls = defineCommand({
  name: "tasks ls",
  summary: "List tasks in the order of their arrival",
  options: {
    state: { type: "text", choices: STATES, value: "STATE", help: "Only in this state" },
    agent: { type: "text", short: "a", value: "AGENT", help: "Only of this agent" },
    supervisor: { type: "text", value: "ID", help: "Only of this supervisor" },
    limit: atMost(100, "The most to list"),
    after: {
      type: "number",
      value: "SEQUENCE",
      default: 0,
      help: "Continue after this sequence number",
    },
  },
  examples: [
    ["tasks ls", "all of them"],
    ["tasks ls --state submitted", "those that no agent can take"],
    ["tasks ls --state failed --json | jq '.[].last_error'", "why they failed"],
  ],
  async run({ options, terminal, outbox }) {
    const supervisor = (await outbox()).supervisor(SUPERVISOR);
    const tasks = await supervisor.listTasks({
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
      { title: "STATE", value: ({ state }) => state, style: styleOf },
      { title: "DONE", value: progressOf, align: "right" },
      { title: "AGENT", value: ({ agentId }) => agentId ?? "–", flexible: true },
      { title: "CREATED", value: ({ createdAt }) => relative(createdAt, now) },
      { title: "ENDED", value: ({ finishedAt }) => relative(finishedAt, now) },
    ]);
    if (tasks.length === options.limit) {
      terminal.say(`There may be more: --after ${tasks.at(-1)?.seq}`);
    }
    return undefined;
  },
});

function print(terminal: Terminal, task: Task): void {
  const now = Date.now();
  terminal.fields([
    ["task", task.taskId],
    ["type", task.taskType],
    ["description", task.description],
    ["state", task.state, styleOf(task)],
    ["progress", progressOf(task)],
    ["agent", task.agentId ?? (task.finishedAt === null ? "none can take it yet" : null)],
    ["before that", task.previousAgentId],
    ["needs", task.requiredCapabilities.join(", ")],
    ["assigned", `${task.assignment} of at most ${task.maxAssignments} times`],
    ["supervisor", task.supervisorId],
    ["message", task.messageId],
    ["created", relative(task.createdAt, now)],
    ["deadline", task.deadlineAt === null ? null : relative(task.deadlineAt, now)],
    ["ended", task.finishedAt === null ? null : relative(task.finishedAt, now)],
    [
      "error",
      task.lastError === null ? null : `${task.lastError.code}: ${task.lastError.message}`,
      "red",
    ],
  ]);
  const parts = [
    ["parameters", task.parameters],
    ["result", task.result],
  ] as const;
  for (const [name, value] of parts) {
    if (value === null || value === undefined) continue;
    if (typeof value === "object" && Object.keys(value).length === 0) continue;
    terminal.line(terminal.style("dim", name));
    terminal.line(prettyJson(value, "  "));
  }
}

const show = defineCommand({
  name: "tasks show",
  summary: "Show one task with its parameters and result",
  arguments: { id: { help: "The task's id" } },
  examples: [["tasks show report-7", "where it is, and what came of it"]],
  async run({ args, terminal, outbox }) {
    const task = await (await outbox()).supervisor(SUPERVISOR).getTask(args.id);
    if (task === null)
      throw new NotFound(`there is no task ${args.id}`, "Try `agent-outbox tasks ls`.");
    terminal.document(wire(task));
    if (!terminal.json) print(terminal, task);
    return undefined;
  },
});

const parked = ({ state }: Task): string =>
  state === "submitted"
    ? "submitted: no agent can take it yet; a running supervisor assigns it when one can"
    : state;

/** What the library says to do about a time-out is for programs; here the task goes on and can be looked at. */
function sayWhereToLook(taskId: string): (thrown: unknown) => Promise<never> {
  return async (thrown) => {
    const { MessageTimeout } = await library();
    if (!(thrown instanceof MessageTimeout)) throw thrown;
    const { message, details } = thrown;
    throw new MessageTimeout(message, {
      details,
      cause: thrown,
      recoverySuggestion: `It is not lost: \`agent-outbox tasks show ${taskId}\` tells how far it is; or wait longer with --wait-ms.`,
    });
  };
}

const assign = defineCommand({
  name: "tasks assign",
  summary: "Give a task to the best agent that can do it",
  details: [
    "The least loaded of the agents that have every capability gets it; without one it is parked until one appears. With the id of a supervisor that runs, that one follows the task to its end; otherwise --wait-ms does. Without --wait-ms the command ends at once, and what is parked waits for any running supervisor to assign it.",
  ],
  arguments: { type: { help: "The task type, which the agent dispatches by" } },
  options: {
    description: { type: "text", short: "d", value: "TEXT", help: "For people" },
    parameters: {
      type: "text",
      short: "p",
      value: "JSON",
      help: "An object; @FILE and - as in send; default {}",
    },
    capability: {
      type: "text",
      short: "c",
      value: "NAME",
      multiple: "list",
      help: "What the agent must be able to do",
    },
    priority: {
      type: "text",
      value: "PRIORITY",
      help: "LOW, NORMAL, HIGH, CRITICAL, or 0 to 100; default NORMAL",
    },
    "deadline-ms": {
      type: "number",
      value: "MS",
      min: 1,
      help: "Fails unless it ends within this",
    },
    id: { type: "text", value: "ID", help: "The task's id: assigning it again changes nothing" },
    supervisor: { type: "text", value: "ID", default: SUPERVISOR, help: "On whose behalf" },
    "wait-ms": {
      type: "number",
      value: "MS",
      help: "Wait this long for its end; exit 1 unless it completes",
    },
  },
  examples: [
    [
      `tasks assign review --capability code_review --parameters '{"file":"a.ts"}'`,
      "to whoever can",
    ],
    ["tasks assign render --capability render --wait-ms 60000", "and wait for the result"],
  ],
  async run({ args, options, terminal, stdin, signal, outbox }) {
    const parameters = await readObject("parameters", options.parameters ?? "{}", {
      terminal,
      stdin,
    });
    const supervisor = (await outbox()).supervisor(options.supervisor);
    const assigned = await supervisor.assignTask({
      taskId: options.id,
      taskType: args.type,
      description: options.description,
      parameters,
      requiredCapabilities: [...options.capability],
      priority: priorityOf(options.priority) as "NORMAL" | undefined,
      deadlineMs: options["deadline-ms"],
    });
    const wait = options["wait-ms"];
    if (wait === undefined) {
      terminal.document(wire(assigned));
      if (terminal.quiet) terminal.line(assigned.taskId);
      terminal.say(
        `${assigned.duplicate ? "There already: task" : "Task"} ${assigned.taskId} is ${
          assigned.agentId === null
            ? parked(assigned)
            : `${assigned.state}, with ${assigned.agentId}`
        }.`,
      );
      return undefined;
    }
    terminal.status(`task ${assigned.taskId}: waiting for ${assigned.agentId ?? "an agent"}`);
    const ended = await supervisor
      .waitForTask(assigned.taskId, { timeoutMs: wait, signal })
      .catch(sayWhereToLook(assigned.taskId));
    terminal.document(wire(ended));
    if (!terminal.json) print(terminal, ended);
    return ended.state === "completed" ? EXIT.OK : EXIT.ERROR;
  },
});

const cancel = defineCommand({
  name: "tasks cancel",
  summary: "End a task; an agent that has begun is told to stop",
  arguments: { id: { help: "The task's id" } },
  options: { reason: { type: "text", short: "r", value: "TEXT", help: "Why, for people" } },
  examples: [[`tasks cancel report-7 --reason "no longer needed"`, "it will not run, or stop"]],
  async run({ args, options, terminal, outbox }) {
    const supervisor = (await outbox()).supervisor(SUPERVISOR);
    const canceled = await supervisor.cancelTask(args.id, options.reason);
    if (!canceled) {
      const task = await supervisor.getTask(args.id);
      throw new CommandError(`task ${args.id} has ended already: it is ${task?.state ?? "gone"}`);
    }
    terminal.document({ task_id: args.id, canceled });
    terminal.say(`Canceled ${args.id}.`);
    return undefined;
  },
});

export const taskCommands = [ls, show, assign, cancel];
