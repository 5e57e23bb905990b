import type { Handoff, Outbox } from "../index.ts";
import { type Arguments, type Context, defineCommand, type Options } from "./command.ts";
import { readJson, readObject } from "./input.ts";
import { priorityOf } from "./messages.ts";
import type { Terminal } from "./terminal.ts";
import { wire } from "./text.ts";

function said(terminal: Terminal, handoff: Handoff, words: string): undefined {
  terminal.document(wire(handoff));
  if (terminal.quiet) terminal.line(handoff.handoffId);
  terminal.say(words);
  return undefined;
}

const offer = defineCommand({
  name: "handoffs offer",
  summary: "Offer work to another agent, on behalf of the one that has it",
  details: [
    "The task stays with the giver until the target accepts. What nobody accepts in time goes back by itself.",
  ],
  arguments: {
    from: { help: "The agent that gives" },
    to: { help: "The agent that is to take over", optional: true },
  },
  options: {
    reason: {
      type: "text",
      short: "r",
      value: "TEXT",
      default: "expertise_required",
      help: "Why it is handed over",
    },
    capability: {
      type: "text",
      short: "c",
      value: "NEED",
      multiple: "repeat",
      help: "Instead of an agent: the best one that meets this",
    },
    task: { type: "text", short: "t", value: "ID", help: "The task that is handed over" },
    context: { type: "text", value: "ID", help: "The conversation that it belongs to" },
    state: { type: "text", value: "JSON", help: "Where things stand; @FILE and - as in send" },
    deliverables: { type: "text", value: "JSON", help: "What there is to take over, an object" },
    done: { type: "text", value: "TEXT", multiple: "repeat", help: "What was accomplished" },
    warning: { type: "text", value: "TEXT", multiple: "repeat", help: "What to be careful about" },
    action: { type: "text", value: "TEXT", multiple: "repeat", help: "What is to be done" },
    priority: { type: "text", value: "PRIORITY", help: "As in send; default: the task's" },
    effort: { type: "text", value: "TEXT", help: "How much it is, for people" },
    "due-ms": { type: "number", value: "MS", min: 1, help: "Goes back after this; default 300000" },
    id: { type: "text", value: "ID", help: "The handoff's id: offering it again changes nothing" },
  },
  examples: [
    [`handoffs offer upload mapping --task t-7 --action "map all columns"`, "to that agent"],
    [`handoffs offer upload --capability "python >= 3.11" --task t-7`, "to whoever can"],
  ],
  async run({ args, options, terminal, stdin, outbox }) {
    const source = { terminal, stdin };
    const { state, deliverables, capability } = options;
    const handoff = await (await outbox()).handoffs.initiate({
      handoffId: options.id,
      from: args.from,
      to: args.to,
      ...(capability.length === 0 ? {} : { requires: [...capability] }),
      taskId: options.task,
      contextId: options.context,
      reason: options.reason,
      currentState: state === undefined ? undefined : await readJson("state", state, source),
      ...(deliverables === undefined
        ? {}
        : { deliverables: await readObject("deliverables", deliverables, source) }),
      context: { accomplished: [...options.done], warnings: [...options.warning] },
      actionsRequired: [...options.action],
      priority: priorityOf(options.priority) as "NORMAL" | undefined,
      estimatedEffort: options.effort,
      dueMs: options["due-ms"],
    });
    const there = handoff.duplicate ? "There already: handoff" : "Handoff";
    return said(
      terminal,
      handoff,
      `${there} ${handoff.handoffId} is ${handoff.state}, to ${handoff.to}.`,
    );
  },
});

const ids = {
  id: { help: "The handoff's id" },
  agent: { help: "The agent on whose behalf" },
};
const reason = {
  type: "text",
  short: "r",
  value: "TEXT",
  help: "Why, for the other side",
} as const;

type Move<O extends Options, A extends Arguments> = Pick<
  Context<O, A>,
  "args" | "options" | "terminal" | "outbox"
>;

async function move<O extends Options, A extends Arguments>(
  { terminal, outbox }: Move<O, A>,
  run: (handoffs: Outbox["handoffs"]) => Promise<Handoff>,
): Promise<undefined> {
  const handoff = await run((await outbox()).handoffs);
  const { handoffId, state, from, to } = handoff;
  return said(terminal, handoff, `Handoff ${handoffId} from ${from} to ${to} is ${state}.`);
}

const accept = defineCommand({
  name: "handoffs accept",
  summary: "Take over what was offered: the task, its message and its owner move at once",
  arguments: ids,
  options: {
    note: { type: "text", short: "n", value: "TEXT", help: "For the giver" },
    "wait-ms": { type: "number", value: "MS", help: "Wait this long for room at the agent" },
  },
  examples: [["handoffs accept h-7 mapping", "the task is its own from now on"]],
  run: (context) =>
    move(context, (handoffs) =>
      handoffs.accept(context.args.id, context.args.agent, {
        note: context.options.note,
        waitMs: context.options["wait-ms"],
      }),
    ),
});

const reject = defineCommand({
  name: "handoffs reject",
  summary: "Decline what was offered; it stays with, or goes back to, the giver",
  arguments: ids,
  options: { reason },
  examples: [[`handoffs reject h-7 mapping --reason "not my field"`, "the giver is told why"]],
  run: (context) =>
    move(context, (handoffs) =>
      handoffs.reject(
        context.args.id,
        context.args.agent,
        context.options.reason ?? "rejected from the command line",
      ),
    ),
});

const withdraw = defineCommand({
  name: "handoffs withdraw",
  summary: "Take an offer back that nobody has accepted",
  arguments: ids,
  options: { reason },
  examples: [["handoffs withdraw h-7 upload", "it is no longer offered"]],
  run: (context) =>
    move(context, (handoffs) =>
      handoffs.withdraw(
        context.args.id,
        context.args.agent,
        context.options.reason ?? "withdrawn from the command line",
      ),
    ),
});

const giveBack = defineCommand({
  name: "handoffs return",
  summary: "Give back what was accepted; the task goes to the giver with its progress",
  arguments: { id: ids.id },
  options: { reason },
  examples: [[`handoffs return h-7 --reason "the file is broken"`, "it is the giver's again"]],
  run: (context) =>
    move(context, (handoffs) =>
      handoffs.returnToSender(
        context.args.id,
        context.options.reason ?? "returned from the command line",
      ),
    ),
});

const complete = defineCommand({
  name: "handoffs complete",
  summary: "Say that what was handed over is done; the end of its task does it by itself",
  arguments: ids,
  options: { note: { type: "text", short: "n", value: "TEXT", help: "For the giver" } },
  examples: [["handoffs complete h-7 mapping", "a handoff without a task"]],
  run: (context) =>
    move(context, (handoffs) =>
      handoffs.complete(context.args.id, context.args.agent, { note: context.options.note }),
    ),
});

export const handoffMoveCommands = [offer, accept, reject, withdraw, giveBack, complete];
