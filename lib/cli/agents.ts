import type { AgentInfo } from "../index.ts";
import { cardCommands } from "./agents-cards.ts";
import { atMost } from "./at-most.ts";
import { defineCommand } from "./command.ts";
import { NotFound } from "./exit-codes.ts";
import { readObject } from "./input.ts";
import { duration, prettyJson, relative, wire } from "./text.ts";

const STATUSES = ["active", "idle", "busy", "draining", "offline"] as const;

const styleOf = ({ state }: AgentInfo) =>
  state === "lost" || state === "offline"
    ? ("red" as const)
    : state === "draining"
      ? ("yellow" as const)
      : ("green" as const);

const missing = (id: string) =>
  new NotFound(`there is no agent ${id}`, "`agent-outbox agents ls` lists those that there are.");

const ls = defineCommand({
  name: "agents ls",
  summary: "List agents with their load and last sign of life",
  options: {
    status: { type: "text", choices: STATUSES, value: "STATUS", help: "Only with this status" },
    role: { type: "text", value: "ROLE", help: "Only with this role" },
    capability: { type: "text", value: "NAME", help: "Only with this capability" },
    limit: atMost(100, "The most to list"),
    after: { type: "text", value: "AGENT", help: "Continue after this agent" },
  },
  examples: [
    ["agents ls", "who is there"],
    ["agents ls --capability code_review", "who can do it"],
    ["agents ls --json | jq -r '.[] | select(.lost) | .agent_id'", "who is lost"],
  ],
  async run({ options, terminal, outbox }) {
    const { agents } = await outbox();
    const list = await agents.listAgents({
      status: options.status,
      role: options.role,
      capability: options.capability,
      limit: options.limit,
      after: options.after,
    });
    terminal.document(wire(list));
    if (list.length === 0) {
      terminal.say("No agents.");
      return undefined;
    }
    const now = Date.now();
    terminal.table(list, [
      { title: "AGENT", value: ({ agentId }) => agentId, flexible: true },
      { title: "ROLE", value: ({ role }) => role },
      { title: "STATUS", value: ({ state }) => state, style: styleOf },
      {
        title: "TASKS",
        value: ({ currentTasks, maxConcurrentTasks }) => `${currentTasks}/${maxConcurrentTasks}`,
        align: "right",
      },
      { title: "HEARTBEAT", value: ({ heartbeatAt }) => relative(heartbeatAt, now) },
      {
        title: "CAPABILITIES",
        value: ({ capabilities }) => capabilities.join(" "),
        flexible: true,
      },
    ]);
    if (list.length === options.limit) {
      terminal.say(`There may be more: --after ${list.at(-1)?.agentId}`);
    }
    return undefined;
  },
});

function tasksOf({ currentTasks, usedSlots, maxConcurrentTasks }: AgentInfo): string {
  const slots = usedSlots === currentTasks ? "" : `, which use ${usedSlots} slots`;
  return `${currentTasks}${slots} of at most ${maxConcurrentTasks}`;
}

const AGENT = { agent: { help: "The agent's id" } } as const;

const show = defineCommand({
  name: "agents show",
  summary: "Show one agent",
  arguments: AGENT,
  examples: [["agents show worker-1", "all that the registry knows of it"]],
  async run({ args, terminal, outbox }) {
    const { agents } = await outbox();
    const agent = await agents.getAgent(args.agent);
    if (agent === null) throw missing(args.agent);
    terminal.document(wire(agent));
    const now = Date.now();
    const filled = (value: object) => Object.keys(value).length > 0;
    terminal.fields([
      ["agent", agent.agentId],
      ["role", agent.role],
      ["status", agent.state, styleOf(agent)],
      ["takes tasks", agent.available ? "yes" : "no"],
      ["tasks", tasksOf(agent)],
      ["capabilities", agent.capabilities.join(", ")],
      ...(agent.dependenciesDown.length === 0
        ? []
        : [["dependencies down", agent.dependenciesDown.join(", "), "red"] as const]),
      ["heartbeat", relative(agent.heartbeatAt, now)],
      ["lost after", duration(agent.staleAfterMs)],
      ["last task", relative(agent.lastAssignedAt, now)],
      ["registered", relative(agent.registeredAt, now)],
    ]);
    for (const name of ["card", "metadata", "metrics"] as const) {
      const value = agent[name];
      if (value === null || !filled(value)) continue;
      terminal.line(terminal.style("dim", name));
      terminal.line(prettyJson(value, "  "));
    }
    return undefined;
  },
});

const register = defineCommand({
  name: "agents register",
  summary: "Register an agent, or replace what is registered of it",
  details: [
    "A registered agent gets tasks as long as it beats: `work` does that for it. Messages need no registration.",
  ],
  arguments: AGENT,
  options: {
    role: { type: "text", value: "ROLE", default: "worker", help: "Its role" },
    capability: {
      type: "text",
      short: "c",
      value: "NAME",
      multiple: "list",
      help: "What it can do, also with a version (python@3.12) or a value (gpu=true)",
    },
    "max-concurrent-tasks": {
      type: "number",
      value: "N",
      max: 10_000,
      default: 1,
      help: "The most tasks at once; 0 for none",
    },
    "stale-after-ms": {
      type: "number",
      value: "MS",
      min: 100,
      max: 86_400_000,
      default: 90_000,
      help: "Lost without a heartbeat for this long",
    },
    weight: {
      type: "number",
      value: "N",
      min: 1,
      max: 1_000,
      default: 1,
      help: "Its share where agents are drawn",
    },
    card: {
      type: "text",
      value: "JSON",
      help: "What it says of itself, as an object; @FILE and - as in send. Default: as it was",
    },
    metadata: {
      type: "text",
      value: "JSON",
      help: "Anything about it, as an object; @FILE and - as in send",
    },
  },
  examples: [
    [
      "agents register worker-1 --capability code_review,typescript",
      "an agent that can do two things",
    ],
    ["agents register big --capability render --max-concurrent-tasks 8", "with more room"],
    ["agents register gpu-1 -c python@3.12,gpu=true --card @card.json", "with versions and a card"],
  ],
  async run({ args, options, terminal, stdin, outbox }) {
    const object = async (name: "metadata" | "card") => {
      const text = options[name];
      return text === undefined ? undefined : readObject(name, text, { terminal, stdin });
    };
    const card = await object("card");
    const metadata = await object("metadata");
    const { agents } = await outbox();
    const agent = await agents.registerAgent({
      agentId: args.agent,
      role: options.role,
      capabilities: [...options.capability],
      maxConcurrentTasks: options["max-concurrent-tasks"],
      staleAfterMs: options["stale-after-ms"],
      weight: options.weight,
      card,
      metadata,
    });
    terminal.document(wire(agent));
    terminal.say(`Registered ${agent.agentId} as ${agent.role}.`);
    return undefined;
  },
});

const drain = defineCommand({
  name: "agents drain",
  summary: "Give an agent no new tasks; it goes on with those that it has",
  arguments: AGENT,
  options: {
    "wait-ms": {
      type: "number",
      value: "MS",
      max: 315_576_000_000,
      help: "Wait this long until it has ended its tasks; exit code 1 when it has not",
    },
  },
  examples: [
    ["agents drain worker-1", "before it is updated"],
    ["agents drain worker-1 --wait-ms 60000", "and until it has nothing to do any more"],
  ],
  async run({ args, options, terminal, outbox }) {
    const { agents } = await outbox();
    const waitMs = options["wait-ms"];
    await agents.drainAgent(args.agent, { waitMs });
    terminal.document({ agent_id: args.agent, status: "draining" });
    const ended = waitMs === undefined ? "" : " and has none left";
    terminal.say(
      `${args.agent} gets no new tasks${ended}. To undo: agent-outbox agents resume ${args.agent}`,
    );
    return undefined;
  },
});

const resume = defineCommand({
  name: "agents resume",
  summary: "Give a drained agent tasks again",
  arguments: AGENT,
  examples: [["agents resume worker-1", "after it was updated"]],
  async run({ args, terminal, outbox }) {
    const { agents } = await outbox();
    await agents.resumeAgent(args.agent);
    terminal.document({ agent_id: args.agent, status: "active" });
    terminal.say(`${args.agent} gets tasks again.`);
    return undefined;
  },
});

const rm = defineCommand({
  name: "agents rm",
  summary: "Take an agent out of the registry; its tasks go to others",
  details: ["Its mailbox and the messages in it stay."],
  arguments: AGENT,
  examples: [["agents rm worker-1", "it will not come back"]],
  async run({ args, terminal, outbox }) {
    const { agents } = await outbox();
    if (!(await agents.deregisterAgent(args.agent))) throw missing(args.agent);
    terminal.document({ agent_id: args.agent, removed: true });
    terminal.say(`Removed ${args.agent}.`);
    return undefined;
  },
});

export const agentCommands = [ls, show, register, drain, resume, rm, ...cardCommands];
