import type { ChangeRequest, ChangeState } from "../index.ts";
import { after, atMost, sayMore } from "./at-most.ts";
import { changeMoves } from "./changes-move.ts";
import { defineCommand } from "./command.ts";
import { NotFound } from "./exit-codes.ts";
import { prettyJson, relative, wire } from "./text.ts";

const STATES = [
  "draft",
  "submitted",
  "in_review",
  "approved",
  "rejected",
  "implementing",
  "testing",
  "completed",
  "withdrawn",
] as const satisfies readonly ChangeState[];

const styleOf = ({ state }: Pick<ChangeRequest, "state">) =>
  state === "completed" ? ("green" as const) : state === "rejected" ? ("red" as const) : undefined;

const ls = defineCommand({
  name: "changes ls",
  summary: "List change requests in the order in which they were made",
  options: {
    state: { type: "text", choices: STATES, value: "STATE", help: "Only in this state" },
    limit: atMost(100, "The most to list"),
    after,
  },
  examples: [["changes ls --state in_review", "what waits for approvals"]],
  async run({ options, terminal, outbox }) {
    const found = await (await outbox()).changes.list({
      limit: options.limit,
      afterSeq: options.after,
      ...(options.state === undefined ? {} : { state: options.state }),
    });
    terminal.document(wire(found));
    if (found.length === 0) {
      terminal.say("No change requests.");
      return undefined;
    }
    const now = Date.now();
    terminal.table(found, [
      { title: "REQUEST", value: ({ requestId }) => requestId, flexible: true },
      { title: "TYPE", value: ({ changeType }) => changeType },
      { title: "STATE", value: ({ state }) => state, style: styleOf },
      { title: "MODULES", value: (it) => it.affectedModules.join(", "), flexible: true },
      { title: "BY", value: ({ requestingAgent }) => requestingAgent, flexible: true },
      { title: "CREATED", value: ({ createdAt }) => relative(createdAt, now) },
    ]);
    sayMore(terminal, found, options.limit);
    return undefined;
  },
});

const show = defineCommand({
  name: "changes show",
  summary: "Show a change request with its approvals, test reports and history",
  arguments: { id: { help: "The request's id" } },
  examples: [["changes show CR-20260123100000-content", "who has approved, and what is missing"]],
  async run({ args, terminal, outbox }) {
    const { changes } = await outbox();
    const change = await changes.get(args.id);
    if (change === null) {
      throw new NotFound(`there is no change request ${args.id}`, "Try `agent-outbox changes ls`.");
    }
    const history = await changes.history(args.id);
    terminal.document(wire({ ...change, history }));
    if (terminal.json) return undefined;
    const now = Date.now();
    const { approvals, reports, impactAnalysis: impact } = change;
    const open = change.affectedModules.filter(
      (module) => !approvals.some((approval) => approval.module === module),
    );
    terminal.fields([
      ["request", change.requestId],
      ["type", change.changeType],
      ["description", change.description],
      ["state", change.state, styleOf(change)],
      ["by", change.requestingAgent],
      ["created", relative(change.createdAt, now)],
      ["modules", change.affectedModules.join(", ")],
      [
        "impact",
        `${impact.breakingChanges ? "breaking" : "not breaking"}, ${impact.migrationRequired ? "with" : "without"} a migration, ${impact.estimatedEffort} effort`,
      ],
      ["to decide", change.state === "in_review" ? open.join(", ") : null],
    ]);
    if (Object.keys(change.changes).length > 0) {
      terminal.line(terminal.style("dim", "changes"));
      terminal.line(prettyJson(change.changes, "  "));
    }
    if (approvals.length > 0) {
      terminal.table(approvals, [
        { title: "MODULE", value: ({ module }) => module },
        { title: "DECISION", value: ({ decision }) => decision },
        { title: "BY", value: ({ by }) => by },
        { title: "WHEN", value: ({ at }) => relative(at, now) },
        { title: "COMMENT", value: ({ comment }) => comment ?? "", flexible: true },
      ]);
    }
    if (reports.length > 0) {
      terminal.table(reports, [
        { title: "TESTED", value: ({ module }) => module },
        { title: "PASSED", value: ({ passed }) => String(passed), align: "right" },
        { title: "FAILED", value: ({ failed }) => String(failed), align: "right" },
        { title: "BY", value: ({ by }) => by },
        { title: "WHERE", value: ({ url }) => url ?? "", flexible: true },
      ]);
    }
    terminal.table(history, [
      { title: "MOVED", value: ({ at }) => relative(at, now) },
      { title: "TO", value: ({ to, forced }) => (forced ? `${to} (forced)` : to) },
      { title: "BY", value: ({ by }) => by },
      { title: "NOTE", value: ({ note }) => note ?? "", flexible: true },
    ]);
    return undefined;
  },
});

export const changeCommands = [ls, show, ...changeMoves];
