import type { ChangeRequest, ChangeRequests, Outbox } from "../index.ts";
import { type Command, defineCommand } from "./command.ts";
import { readObject } from "./input.ts";
import type { Terminal } from "./terminal.ts";
import { wire } from "./text.ts";

const BY = { type: "text", value: "AGENT", default: "operator", help: "Who does it" } as const;
const NOTE = { type: "text", short: "n", value: "TEXT", help: "For people" } as const;

function told(terminal: Terminal, change: ChangeRequest): undefined {
  terminal.document(wire(change));
  if (terminal.quiet) terminal.line(change.requestId);
  terminal.say(`${change.requestId} is ${change.state}.`);
  return undefined;
}

const request = defineCommand({
  name: "changes request",
  summary: "Ask for a change that concerns several modules",
  details: [
    "The request is JSON, as for the library: requestingAgent, affectedModules, changeType (api_update, schema_change, integration_update), description, changes, impactAnalysis, testingPlan, module, draft.",
  ],
  arguments: { request: { help: "The request as JSON; @FILE and - as in send" } },
  examples: [["changes request @change.json", "prints its id"]],
  async run({ args, terminal, stdin, outbox }) {
    const wanted = await readObject("request", args.request, { terminal, stdin });
    const { changes } = await outbox();
    const id = await changes.request(wanted as Parameters<ChangeRequests["request"]>[0]);
    return told(terminal, (await changes.get(id)) as ChangeRequest);
  },
});

/** A move that takes nothing but who makes it. */
function move(
  verb: "submit" | "review" | "implement" | "test" | "withdraw",
  summary: string,
): Command {
  return defineCommand({
    name: `changes ${verb}`,
    summary,
    arguments: { id: { help: "The request's id" } },
    options: { by: BY, note: NOTE },
    examples: [[`changes ${verb} CR-20260123100000-content --by drive`, "and everybody is told"]],
    async run({ args, options, terminal, outbox }) {
      const { changes } = (await outbox()) as Outbox;
      const actor = { by: options.by, note: options.note };
      return told(terminal, await changes[verb](args.id, actor));
    },
  });
}

function decide(verb: "approve" | "reject", summary: string): Command {
  return defineCommand({
    name: `changes ${verb}`,
    summary,
    arguments: {
      id: { help: "The request's id" },
      module: { help: "For which of the affected modules" },
    },
    options: { by: BY, comment: { ...NOTE, help: "Why" } },
    examples: [
      [`changes ${verb} CR-20260123100000-content drive --by drive-agent`, "once per module"],
    ],
    async run({ args, options, terminal, outbox }) {
      const { changes } = (await outbox()) as Outbox;
      const decision = { module: args.module, by: options.by, comment: options.comment };
      return told(terminal, await changes[verb](args.id, decision));
    },
  });
}

const amend = defineCommand({
  name: "changes amend",
  summary: "Change what is proposed; what was decided so far no longer counts",
  arguments: {
    id: { help: "The request's id" },
    changes: { help: "What is proposed now, as JSON; @FILE and - as in send" },
  },
  options: { by: BY, note: NOTE, description: { type: "text", value: "TEXT", help: "A new one" } },
  examples: [
    [`changes amend CR-20260123100000-content '{"new_fields":["bitrate"]}'`, "and submit it again"],
  ],
  async run({ args, options, terminal, stdin, outbox }) {
    const { by, note, description } = options;
    const changes = await readObject("changes", args.changes, { terminal, stdin });
    const amended = (await outbox()).changes.amend(args.id, { by, note, description, changes });
    return told(terminal, await amended);
  },
});

const report = defineCommand({
  name: "changes report",
  summary: "Say how the tests of a module went",
  arguments: {
    id: { help: "The request's id" },
    module: { help: "Whose tests" },
  },
  options: {
    by: BY,
    passed: { type: "number", value: "N", default: 0, min: 0, help: "How many passed" },
    failed: { type: "number", value: "N", default: 0, min: 0, help: "How many failed" },
    url: { type: "text", value: "URL", help: "Where the report is" },
  },
  examples: [["changes report CR-20260123100000-content drive --passed 31", "all of them"]],
  async run({ args, options, terminal, outbox }) {
    const { by, passed, failed, url } = options;
    const { changes } = await outbox();
    return told(
      terminal,
      await changes.report(args.id, { module: args.module, by, passed, failed, url }),
    );
  },
});

const complete = defineCommand({
  name: "changes complete",
  summary: "End a change whose modules are tested",
  arguments: { id: { help: "The request's id" } },
  options: {
    by: BY,
    note: NOTE,
    force: { type: "text", value: "REASON", help: "Without the reports, and why; it is noted" },
  },
  examples: [["changes complete CR-20260123100000-content", "when all reports are there"]],
  async run({ args, options, terminal, outbox }) {
    const { by, note, force } = options;
    return told(terminal, await (await outbox()).changes.complete(args.id, { by, note, force }));
  },
});

export const changeMoves = [
  request,
  move("submit", "Hand in a draft"),
  move("review", "Begin to review a change request"),
  decide("approve", "Agree for a module; when all have, the request is approved"),
  decide("reject", "Refuse for a module, which rejects the request"),
  amend,
  move("implement", "Begin to implement what was approved"),
  move("test", "Begin to test what was implemented"),
  report,
  complete,
  move("withdraw", "Take a change request back"),
];
