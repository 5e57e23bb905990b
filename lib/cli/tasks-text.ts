import type { Task } from "../index.ts";
import { NotFound } from "./exit-codes.ts";
import type { Terminal } from "./terminal.ts";
import { prettyJson, relative } from "./text.ts";

/** Who assigns from the command line, unless told otherwise. */
export const SUPERVISOR = "cli";

export const styleOf = ({ state }: Task) =>
  state === "completed"
    ? ("green" as const)
    : state === "failed" || state === "rejected"
      ? ("red" as const)
      : state === "submitted" || state === "input_required" || state === "auth_required"
        ? ("yellow" as const)
        : undefined;

/** The state, and what else keeps a task. */
export const stateOf = ({ state, pausedAt, finishedAt }: Task): string =>
  pausedAt !== null && finishedAt === null ? `${state}, paused` : state;

export function progressOf({ progress }: Task): string {
  return progress === null || progress.percentage === null ? "" : `${progress.percentage} %`;
}

export const noTask = (taskId: string) =>
  new NotFound(`there is no task ${taskId}`, "Try `agent-outbox tasks ls`.");

/** Why no agent has a task. */
function nobody({ finishedAt, pausedAt, waitsFor, state }: Task): string | null {
  if (finishedAt !== null) return null;
  if (pausedAt !== null) return "none: it is paused";
  if (waitsFor === 0) return "none can take it yet";
  return state === "submitted" ? "none: it waits for other tasks" : "none: it waits for an answer";
}

export function print(terminal: Terminal, task: Task): void {
  const now = Date.now();
  terminal.fields([
    ["task", task.taskId],
    ["type", task.taskType],
    ["description", task.description],
    ["state", stateOf(task), styleOf(task)],
    ["progress", progressOf(task)],
    ["agent", task.agentId ?? nobody(task)],
    ["before that", task.previousAgentId],
    ["needs", task.requiredCapabilities.join(", ")],
    ["assigned", `${task.assignment} of at most ${task.maxAssignments} times`],
    ["part of", task.parentTaskId],
    ["supervisor", task.supervisorId],
    ["asks", task.requestedBy],
    ["message", task.messageId],
    ["created", relative(task.createdAt, now)],
    ["deadline", task.deadlineAt === null ? null : relative(task.deadlineAt, now)],
    ["run ends", task.runDeadlineAt === null ? null : relative(task.runDeadlineAt, now)],
    ["ended", task.finishedAt === null ? null : relative(task.finishedAt, now)],
    [
      "error",
      task.lastError === null ? null : `${task.lastError.code}: ${task.lastError.message}`,
      "red",
    ],
    ["warnings", task.warnings.map(({ message }) => message).join("; "), "yellow"],
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
