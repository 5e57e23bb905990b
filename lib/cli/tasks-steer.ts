import type { Outbox } from "../index.ts";
import { type Context, defineCommand, type Options } from "./command.ts";
import { CommandError } from "./exit-codes.ts";

const id = { id: { help: "The task's id" } };

/** What is said when nothing was to be done: that is no success, because somebody else decided. */
async function inState(outbox: Outbox, taskId: string): Promise<string> {
  const task = await outbox.tasks.get(taskId);
  if (task === null) return "gone";
  return task.pausedAt !== null && task.finishedAt === null ? "paused" : task.state;
}

const cancel = defineCommand({
  name: "tasks cancel",
  summary: "End a task and its subtasks; agents that have begun are told to stop",
  arguments: id,
  options: { reason: { type: "text", short: "r", value: "TEXT", help: "Why, for people" } },
  examples: [[`tasks cancel report-7 --reason "no longer needed"`, "it will not run, or stop"]],
  async run({ args, options, terminal, outbox }) {
    const { tasks } = await outbox();
    const canceled = await tasks.cancel(args.id, options.reason);
    if (!canceled) {
      const state = await inState(await outbox(), args.id);
      throw new CommandError(`task ${args.id} has ended already: it is ${state}`);
    }
    terminal.document({ task_id: args.id, canceled });
    terminal.say(`Canceled ${args.id}.`);
    return undefined;
  },
});

/** Pause and resume differ in words only. */
async function steer(
  { args, terminal, outbox }: Pick<Context<Options, typeof id>, "args" | "terminal" | "outbox">,
  verb: "pause" | "resume",
  done: string,
): Promise<undefined> {
  const opened = await outbox();
  if (!(await opened.tasks[verb](args.id))) {
    const state = await inState(opened, args.id);
    throw new CommandError(`task ${args.id} cannot be ${verb}d: it is ${state}`);
  }
  terminal.document({ task_id: args.id, paused: verb === "pause" });
  terminal.say(`${done} ${args.id}.`);
  return undefined;
}

const pause = defineCommand({
  name: "tasks pause",
  summary: "Give a task to no agent for now",
  details: [
    "An agent that has begun is told to stop, and stores how far it came; after half a minute the task is taken from it. That counts as no failed assignment. Deadlines go on.",
  ],
  arguments: id,
  examples: [["tasks pause report-7", "until `tasks resume report-7`"]],
  run: (context) => steer(context, "pause", "Paused"),
});

const resume = defineCommand({
  name: "tasks resume",
  summary: "Let a paused task go on",
  arguments: id,
  examples: [["tasks resume report-7", "with the progress that was stored"]],
  run: (context) => steer(context, "resume", "Resumed"),
});

export const steerCommands = [cancel, pause, resume];
