import type { Handoff, HandoffState } from "../index.ts";
import { after, atMost, sayMore } from "./at-most.ts";
import { defineCommand } from "./command.ts";
import { library } from "./context.ts";
import { NotFound } from "./exit-codes.ts";
import { handoffMoveCommands } from "./handoffs-move.ts";
import type { Terminal } from "./terminal.ts";
import { prettyJson, relative, wire } from "./text.ts";

const STATES = [
  "offered",
  "accepted",
  "active",
  "completed",
  "rejected",
  "returned",
  "withdrawn",
] as const satisfies readonly HandoffState[];

const styleOf = ({ state }: Handoff) =>
  state === "completed"
    ? ("green" as const)
    : state === "offered"
      ? ("yellow" as const)
      : state === "rejected" || state === "returned"
        ? ("red" as const)
        : undefined;

const ls = defineCommand({
  name: "handoffs ls",
  summary: "List handoffs in the order in which they were offered",
  options: {
    state: { type: "text", choices: STATES, value: "STATE", help: "Only in this state" },
    from: { type: "text", value: "AGENT", help: "Only what this agent gave" },
    to: { type: "text", value: "AGENT", help: "Only what this agent was offered" },
    task: { type: "text", value: "ID", help: "Only of this task" },
    limit: atMost(100, "The most to list"),
    after,
  },
  examples: [
    ["handoffs ls --state offered", "what waits for somebody to accept it"],
    ["handoffs ls --task report-7", "through whose hands a task went"],
  ],
  async run({ options, terminal, outbox }) {
    const handoffs = await (await outbox()).handoffs.list({
      state: options.state,
      from: options.from,
      to: options.to,
      taskId: options.task,
      limit: options.limit,
      afterSeq: options.after,
    });
    terminal.document(wire(handoffs));
    if (handoffs.length === 0) {
      terminal.say("No handoffs.");
      return undefined;
    }
    const now = Date.now();
    terminal.table(handoffs, [
      { title: "HANDOFF", value: ({ handoffId }) => handoffId, flexible: true },
      { title: "FROM", value: ({ from }) => from, flexible: true },
      { title: "TO", value: ({ to }) => to, flexible: true },
      { title: "STATE", value: ({ state }) => state, style: styleOf },
      { title: "TASK", value: ({ taskId }) => taskId ?? "–", flexible: true },
      { title: "OFFERED", value: ({ createdAt }) => relative(createdAt, now) },
      {
        title: "DUE",
        value: ({ state, dueAt }) => (state === "offered" ? relative(dueAt, now) : "–"),
      },
    ]);
    sayMore(terminal, handoffs, options.limit);
    return undefined;
  },
});

function print(terminal: Terminal, handoff: Handoff): void {
  const now = Date.now();
  const { context } = handoff;
  const at = (instant: number | null) => (instant === null ? null : relative(instant, now));
  terminal.fields([
    ["handoff", handoff.handoffId],
    ["state", handoff.state, styleOf(handoff)],
    ["from", handoff.from],
    ["to", handoff.to],
    ["found by", handoff.requiredCapabilities?.join(", ") ?? null],
    ["task", handoff.taskId],
    ["outcome", handoff.outcome],
    ["context", handoff.contextId],
    ["reason", handoff.reason],
    ["note", handoff.note],
    ["accomplished", context.accomplished.join("; ") || null],
    ["data", context.dataState],
    ["warnings", context.warnings.join("; ") || null, "yellow"],
    ["to be done", handoff.actionsRequired.join("; ") || null],
    ["effort", handoff.estimatedEffort],
    [
      "gates",
      handoff.warnings.map(({ gate, message }) => `${gate}: ${message}`).join("; ") || null,
      "yellow",
    ],
    ["offered", relative(handoff.createdAt, now)],
    ["due", handoff.state === "offered" ? relative(handoff.dueAt, now) : null],
    ["accepted", at(handoff.acceptedAt)],
    ["begun", at(handoff.startedAt)],
    ["ended", at(handoff.endedAt)],
  ]);
  for (const [name, value] of [
    ["current state", handoff.currentState],
    ["deliverables", handoff.deliverables],
  ] as const) {
    if (value === null || (typeof value === "object" && Object.keys(value).length === 0)) continue;
    terminal.line(terminal.style("dim", name));
    terminal.line(prettyJson(value, "  "));
  }
}

const show = defineCommand({
  name: "handoffs show",
  summary: "Show one handoff with its sheet",
  arguments: { id: { help: "The handoff's id" } },
  options: { md: { type: "flag", help: "As the Markdown sheet that agents exchange" } },
  examples: [
    ["handoffs show h-7", "what was handed over, and what became of it"],
    ["handoffs show h-7 --md > handoff.md", "the sheet"],
  ],
  async run({ args, options, terminal, outbox }) {
    const handoff = await (await outbox()).handoffs.get(args.id);
    if (handoff === null) {
      throw new NotFound(`there is no handoff ${args.id}`, "Try `agent-outbox handoffs ls`.");
    }
    const markdown = options.md ? (await library()).handoffMarkdown(handoff) : undefined;
    terminal.document(wire(markdown === undefined ? handoff : { ...handoff, markdown }));
    if (terminal.json) return undefined;
    if (markdown === undefined) print(terminal, handoff);
    else terminal.raw(markdown);
    return undefined;
  },
});

export const handoffCommands = [ls, show, ...handoffMoveCommands];
