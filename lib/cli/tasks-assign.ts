import type { Task } from "../index.ts";
import { defineCommand } from "./command.ts";
import { library } from "./context.ts";
import { EXIT } from "./exit-codes.ts";
import { readObject } from "./input.ts";
import { priorityOf } from "./messages.ts";
import { print, SUPERVISOR } from "./tasks-text.ts";
import { wire } from "./text.ts";

const OPERATIONS = ["request", "event", "file", "batch", "task"] as const;

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
    "run-timeout-ms": {
      type: "number",
      value: "MS",
      min: 1,
      help: "The most that one run may take; another agent tries then",
    },
    operation: {
      type: "text",
      choices: OPERATIONS,
      value: "CLASS",
      help: "Its class, which limits a run where nothing else does",
    },
    parent: { type: "text", value: "TASK", help: "The task that it is a part of" },
    "requested-by": {
      type: "text",
      value: "ID",
      help: "Who is asked when its agent needs input; default: the supervisor",
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
      runTimeoutMs: options["run-timeout-ms"],
      operation: options.operation,
      parentTaskId: options.parent,
      requestedBy: options["requested-by"],
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

export const assignCommands = [assign];
