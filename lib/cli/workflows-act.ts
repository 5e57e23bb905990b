import type { Workflow } from "../index.ts";
import { defineCommand } from "./command.ts";
import { readJson } from "./input.ts";
import type { Terminal } from "./terminal.ts";
import { relative, wire } from "./text.ts";

const id = { help: "The workflow's id" } as const;

function said(terminal: Terminal, workflow: Workflow): undefined {
  terminal.document(wire(workflow));
  terminal.say(`Workflow ${workflow.workflowId} is ${workflow.state}.`);
}

const pause = defineCommand({
  name: "workflows pause",
  summary: "Begin no further step until it is resumed",
  arguments: { id },
  examples: [["workflows pause upload-7", "tasks under way go on"]],
  async run({ args, terminal, outbox }) {
    return said(terminal, await (await outbox()).workflows.pause(args.id));
  },
});

const resume = defineCommand({
  name: "workflows resume",
  summary: "Let a paused workflow go on",
  arguments: { id },
  examples: [["workflows resume upload-7", "from where it was"]],
  async run({ args, terminal, outbox }) {
    return said(terminal, await (await outbox()).workflows.resume(args.id));
  },
});

const retry = defineCommand({
  name: "workflows retry",
  summary: "Let a failed workflow go on, or try its failed compensation again",
  arguments: { id },
  options: {
    "from-step": {
      type: "text",
      value: "STEP",
      help: "Go on from this step; default: from what did not complete",
    },
    "deadline-ms": { type: "number", value: "MS", min: 1, help: "The new deadline, from now on" },
  },
  examples: [
    ["workflows retry upload-7", "from the failed step"],
    ["workflows retry upload-7 --from-step parse", "this step and all behind it run again"],
  ],
  async run({ args, options, terminal, outbox }) {
    const workflow = await (await outbox()).workflows.retry(args.id, {
      fromStep: options["from-step"],
      deadlineMs: options["deadline-ms"],
    });
    return said(terminal, workflow);
  },
});

const cancel = defineCommand({
  name: "workflows cancel",
  summary: "End a workflow, and its tasks that are under way",
  arguments: { id },
  options: {
    reason: { type: "text", short: "r", value: "TEXT", help: "Why, for people" },
    compensate: { type: "flag", help: "Undo what completed" },
  },
  examples: [
    [`workflows cancel upload-7 --reason "wrong file"`, "what completed stays"],
    ["workflows cancel upload-7 --compensate", "what completed is undone"],
  ],
  async run({ args, options, terminal, outbox }) {
    const workflow = await (await outbox()).workflows.cancel(args.id, {
      reason: options.reason,
      compensate: options.compensate,
    });
    return said(terminal, workflow);
  },
});

const signal = defineCommand({
  name: "workflows signal",
  summary: "Give a workflow the signal that a step waits for, such as an approval",
  arguments: { id, name: { help: "The name of the signal" } },
  options: {
    data: { type: "text", value: "JSON", help: "The result of the step; @FILE and - as in send" },
    from: { type: "text", value: "ID", help: "Who sends it, for the record" },
  },
  examples: [[`workflows signal upload-7 approval --data '{"by":"eve"}'`, "it goes on"]],
  async run({ args, options, terminal, stdin, outbox }) {
    const data =
      options.data === undefined ? null : await readJson("data", options.data, { terminal, stdin });
    const { workflows } = await outbox();
    const first = await workflows.signal(args.id, args.name, data, { from: options.from });
    terminal.document({ workflow_id: args.id, name: args.name, first });
    terminal.say(
      first ? `Signaled ${args.name}.` : `${args.name} had come before: the first one counts.`,
    );
    return undefined;
  },
});

const why = defineCommand({
  name: "workflows why",
  summary: "Tell what a workflow waits for, step by step",
  arguments: { id },
  examples: [["workflows why upload-7", "and for whom its tasks wait"]],
  async run({ args, terminal, outbox }) {
    const told = await (await outbox()).workflows.why(args.id);
    terminal.document(wire(told));
    if (terminal.json) return undefined;
    terminal.line(`Workflow ${told.workflowId}: ${told.reason}`);
    if (told.steps.length === 0) return undefined;
    const now = Date.now();
    terminal.table(told.steps, [
      { title: "STEP", value: (step) => `${step.compensation ? "undo " : ""}${step.stepId}` },
      { title: "STATE", value: ({ state }) => state },
      { title: "DUE", value: ({ dueAt }) => (dueAt === null ? "" : relative(dueAt, now)) },
      { title: "WHY", value: ({ reason }) => reason, flexible: true },
    ]);
    return undefined;
  },
});

export const workflowActCommands = [pause, resume, retry, cancel, signal, why];
