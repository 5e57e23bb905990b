import type { Outbox, Workflow, WorkflowInput, WorkflowState } from "../index.ts";
import { after, atMost, sayMore } from "./at-most.ts";
import { defineCommand } from "./command.ts";
import { library } from "./context.ts";
import { EXIT } from "./exit-codes.ts";
import { readObject } from "./input.ts";
import type { Terminal } from "./terminal.ts";
import { relative, wire } from "./text.ts";
import { workflowActCommands } from "./workflows-act.ts";
import {
  heading,
  outcome,
  progressLine,
  stateStyle,
  table,
  tree,
  unknown,
} from "./workflows-text.ts";

const STATES = [
  "running",
  "paused",
  "compensating",
  "completed",
  "completed_with_warnings",
  "failed",
  "compensated",
  "canceled",
  "compensation_failed",
] as const satisfies readonly WorkflowState[];

const ls = defineCommand({
  name: "workflows ls",
  summary: "List workflows in the order of their start",
  options: {
    state: { type: "text", choices: STATES, value: "STATE", help: "Only in this state" },
    type: { type: "text", value: "TYPE", help: "Only of this type" },
    limit: atMost(100, "The most to list"),
    after,
  },
  examples: [
    ["workflows ls --state running", "those under way"],
    ["workflows ls --state compensation_failed", "those that an operator has to look at"],
  ],
  async run({ options, terminal, outbox }) {
    const workflows = await (await outbox()).workflows.list({
      state: options.state,
      workflowType: options.type,
      limit: options.limit,
      afterSeq: options.after,
    });
    terminal.document(wire(workflows));
    if (workflows.length === 0) {
      terminal.say("No workflows.");
      return undefined;
    }
    const now = Date.now();
    terminal.table(workflows, [
      { title: "WORKFLOW", value: ({ workflowId }) => workflowId, flexible: true },
      { title: "TYPE", value: ({ workflowType }) => workflowType, flexible: true },
      { title: "STATE", value: ({ state }) => state, style: stateStyle },
      { title: "STARTED", value: ({ createdAt }) => relative(createdAt, now) },
      { title: "ENDED", value: ({ finishedAt }) => relative(finishedAt, now) },
      { title: "BECAUSE", value: ({ failure }) => failure?.message ?? "", flexible: true },
    ]);
    sayMore(terminal, workflows, options.limit);
    return undefined;
  },
});

const show = defineCommand({
  name: "workflows show",
  summary: "Show a workflow with its steps and what they brought",
  arguments: { id: { help: "The workflow's id" } },
  examples: [["workflows show upload-7", "how far each step is"]],
  async run({ args, terminal, outbox }) {
    const workflow = await (await outbox()).workflows.get(args.id);
    if (workflow === null) throw unknown(args.id);
    terminal.document(wire(workflow));
    if (terminal.json) return undefined;
    heading(terminal, workflow);
    if (workflow.mode === "dag") tree(terminal, workflow);
    table(terminal, workflow);
    outcome(terminal, workflow);
    return undefined;
  },
});

const LOOK_EVERY_MS = 500;

/** Waits for the end, and says meanwhile how far it is. */
async function waited(
  { workflows }: Outbox,
  id: string,
  { terminal, signal, waitMs }: { terminal: Terminal; signal: AbortSignal; waitMs: number },
): Promise<number> {
  const { MessageTimeout } = await library();
  const until = Date.now() + waitMs;
  let workflow: Workflow | undefined;
  while (workflow === undefined) {
    const now = await workflows.get(id);
    if (now === null) throw unknown(id);
    terminal.status(progressLine(now));
    const left = Math.max(0, until - Date.now());
    try {
      workflow = await workflows.wait(id, { timeoutMs: Math.min(left, LOOK_EVERY_MS), signal });
    } catch (error) {
      if (!(error instanceof MessageTimeout) || left > 0) {
        if (error instanceof MessageTimeout) continue;
        throw error;
      }
      throw new MessageTimeout(`the workflow "${id}" is ${now.state} after ${waitMs} ms`, {
        cause: error,
        recoverySuggestion: `It is not lost: \`agent-outbox workflows why ${id}\` tells what it waits for.`,
      });
    }
  }
  terminal.document(wire(workflow));
  if (!terminal.json) {
    heading(terminal, workflow);
    table(terminal, workflow);
    outcome(terminal, workflow);
  }
  return workflow.state.startsWith("completed") ? EXIT.OK : EXIT.ERROR;
}

const start = defineCommand({
  name: "workflows start",
  summary: "Start a workflow from a definition in JSON",
  details: [
    "The definition is what `workflows.start` of the library takes: workflowType, mode, steps, and so on. A supervisor with its supervisorId (default: workflows) must run to move it on.",
  ],
  arguments: { definition: { help: "JSON; @FILE and - as in send" } },
  options: {
    id: { type: "text", value: "ID", help: "Its id: starting it again changes nothing" },
    input: { type: "text", value: "JSON", help: "Its input, an object; @FILE and - as in send" },
    "wait-ms": {
      type: "number",
      value: "MS",
      help: "Wait this long for its end; exit 1 unless it completes",
    },
  },
  examples: [
    ["workflows start @upload.json --id upload-7", "from a file"],
    [`workflows start @upload.json --input '{"file":"a.csv"}' --wait-ms 60000`, "and wait"],
  ],
  async run({ args, options, terminal, stdin, signal, outbox }) {
    const source = { terminal, stdin };
    const definition = await readObject("definition", args.definition, source);
    const input =
      options.input === undefined
        ? {}
        : { input: await readObject("input", options.input, source) };
    const id = options.id === undefined ? {} : { workflowId: options.id };
    const opened = await outbox();
    const started = await opened.workflows.start({
      ...definition,
      ...input,
      ...id,
    } as unknown as WorkflowInput);
    const waitMs = options["wait-ms"];
    if (waitMs !== undefined)
      return waited(opened, started.workflowId, { terminal, signal, waitMs });
    terminal.document(wire(started));
    if (terminal.quiet) terminal.line(started.workflowId);
    const was = started.duplicate ? "There already: workflow" : "Workflow";
    terminal.say(`${was} ${started.workflowId} is ${started.state}.`);
    return undefined;
  },
});

const wait = defineCommand({
  name: "workflows wait",
  summary: "Wait for the end of a workflow; exit 1 unless it completes",
  arguments: { id: { help: "The workflow's id" } },
  options: {
    "wait-ms": { type: "number", value: "MS", default: 300_000, help: "Give up after this" },
  },
  examples: [["workflows wait upload-7 --wait-ms 60000", "and show what came of it"]],
  async run({ args, options, terminal, signal, outbox }) {
    return waited(await outbox(), args.id, { terminal, signal, waitMs: options["wait-ms"] });
  },
});

export const workflowCommands = [ls, show, start, wait, ...workflowActCommands];
