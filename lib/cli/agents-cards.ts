import { readFile, writeFile } from "node:fs/promises";
import type { AgentHistoryEntry, AgentInfo, AgentRegistry, MatchingStrategy } from "../index.ts";
import { atMost } from "./at-most.ts";
import { defineCommand } from "./command.ts";
import { CommandError, EXIT, NotFound } from "./exit-codes.ts";
import { clean, prettyJson, relative, wire } from "./text.ts";

const AGENT = { agent: { help: "The agent's id" } } as const;

async function found(agents: AgentRegistry, id: string): Promise<AgentInfo> {
  const agent = await agents.getAgent(id);
  if (agent !== null) return agent;
  throw new NotFound(`there is no agent ${id}`, "`agent-outbox agents ls` lists them.");
}

/** Markdown made safe for a terminal, line by line. */
const markdown = (text: string): string => text.trimEnd().split("\n").map(clean).join("\n");

const STRATEGIES = ["leastLoaded", "roundRobin", "weighted", "sticky"] as const;

const find = defineCommand({
  name: "agents find",
  summary: "Find agents that meet requirements and have room, the best first",
  arguments: {
    requirement: { help: 'A name, or as in "python >= 3.11"', optional: true, many: true },
  },
  options: {
    prefer: {
      type: "text",
      value: "REQUIREMENT",
      multiple: "repeat",
      help: "What counts in an agent's favour",
    },
    strategy: {
      type: "text",
      choices: STRATEGIES,
      value: "NAME",
      default: "leastLoaded",
      help: "leastLoaded, roundRobin, weighted or sticky",
    },
    context: { type: "text", value: "ID", help: "For sticky: the context whose agent comes first" },
    cost: {
      type: "number",
      value: "N",
      min: 1,
      max: 10_000,
      default: 1,
      help: "Free slots needed",
    },
    development: { type: "flag", help: "Also agents in development" },
    limit: atMost(10, "The most to return"),
  },
  examples: [
    ["agents find code_review", "who can do it now"],
    [
      "agents find 'python >= 3.11' 'region in (eu, us)' --prefer gpu",
      "and who had better be asked",
    ],
  ],
  async run({ args, options, terminal, outbox }) {
    const { agents } = await outbox();
    const list = await agents.findAvailableAgents(args.requirement, {
      strategy: options.strategy as MatchingStrategy,
      preferred: [...options.prefer],
      contextId: options.context,
      cost: options.cost,
      includeDevelopment: options.development,
      maxResults: options.limit,
    });
    terminal.document(wire(list));
    if (list.length === 0) terminal.say("No agent can take such a task now.");
    else {
      terminal.table(list, [
        { title: "AGENT", value: ({ agentId }) => agentId, flexible: true },
        {
          title: "SLOTS",
          value: ({ usedSlots, maxConcurrentTasks }) => `${usedSlots}/${maxConcurrentTasks}`,
          align: "right",
        },
        {
          title: "CAPABILITIES",
          value: ({ capabilities }) => capabilities.join(" "),
          flexible: true,
        },
      ]);
    }
    return undefined;
  },
});

const greet = defineCommand({
  name: "agents greet",
  summary: "Let an agent present itself, as Markdown",
  details: [
    "Name, domain, location, status, capabilities, and whether those that it depends on are alive.",
  ],
  arguments: AGENT,
  examples: [["agents greet worker-1", "who is that?"]],
  async run({ args, terminal, outbox }) {
    const { agents } = await outbox();
    await found(agents, args.agent);
    const greeting = await agents.getAgentGreeting(args.agent);
    terminal.document({ agent_id: args.agent, greeting });
    terminal.line(markdown(greeting));
    return undefined;
  },
});

const card = defineCommand({
  name: "agents card",
  summary: "Show what an agent says of itself",
  arguments: AGENT,
  examples: [
    ["agents card worker-1", "its card"],
    ["agents card worker-1 --json | jq .card > card.json", "to change it and register it again"],
  ],
  async run({ args, terminal, outbox }) {
    const { agents } = await outbox();
    const agent = await found(agents, args.agent);
    const { agentId, role, capabilities, capabilityDetails, maxConcurrentTasks, cardHash } = agent;
    terminal.document({
      ...(wire({ agentId, role, capabilities, capabilityDetails, maxConcurrentTasks }) as object),
      card_hash: cardHash,
      dependencies_down: agent.dependenciesDown,
      card: agent.card,
    });
    if (agent.card === null) terminal.say(`${agentId} says nothing of itself.`);
    else terminal.line(prettyJson(agent.card));
    return undefined;
  },
});

const doc = defineCommand({
  name: "agents doc",
  summary: "Write AGENT.md of an agent, or check that it is up to date",
  details: [
    "The file begins with the hash of all that users of the agent rely on: its role, capabilities, limits and card. With --check the exit code is 1 when the agent was registered with something new and the file was not written again.",
  ],
  arguments: AGENT,
  options: {
    check: { type: "text", value: "FILE", help: "Compare this file with what is registered" },
    out: { type: "text", value: "FILE", help: "Write to this file instead of the output" },
  },
  examples: [
    ["agents doc worker-1 --out AGENT.md", "write it"],
    ["agents doc worker-1 --check AGENT.md", "in a build: fail when it is out of date"],
  ],
  async run({ args, options, terminal, outbox }) {
    const { agents } = await outbox();
    await found(agents, args.agent);
    const text = await agents.getAgentDocument(args.agent);
    if (options.check !== undefined) {
      const wanted = hashIn(text);
      const had = hashIn(await readText(options.check));
      const current = had === wanted;
      terminal.document({ agent_id: args.agent, file: options.check, current, card_hash: wanted });
      if (current) terminal.say(`${options.check} is up to date.`);
      else {
        terminal.line(
          had === undefined
            ? `${options.check} has no card_hash in its front matter.`
            : `${options.check} is out of date: the agent's card changed.`,
        );
        terminal.line(
          `Write it again: agent-outbox agents doc ${args.agent} --out ${options.check}`,
        );
      }
      return current ? EXIT.OK : EXIT.ERROR;
    }
    if (options.out === undefined) {
      terminal.document({ agent_id: args.agent, document: text });
      terminal.line(markdown(text));
      return undefined;
    }
    await writeFile(options.out, text);
    terminal.document({ agent_id: args.agent, file: options.out, card_hash: hashIn(text) });
    terminal.say(`Wrote ${options.out}.`);
    return undefined;
  },
});

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (cause) {
    throw new CommandError(`cannot read ${file}: ${(cause as Error).message}`);
  }
}

/** The hash in the front matter, wherever people put other fields around it. */
function hashIn(text: string): string | undefined {
  const [, front] = /^\uFEFF?---\r?\n(.*?)\r?\n---\r?(?:\n|$)/s.exec(text) ?? [];
  return /^card_hash:\s*["']?([0-9a-f]{64})["']?\s*$/m.exec(front ?? "")?.[1];
}

const changelog = defineCommand({
  name: "agents changelog",
  summary: "Print the changes of an agent's card as messages of commits",
  arguments: AGENT,
  examples: [["agents changelog worker-1", "what is new in it"]],
  async run({ args, terminal, outbox }) {
    const { agents } = await outbox();
    await found(agents, args.agent);
    const text = await agents.getAgentChangelog(args.agent);
    terminal.document({ agent_id: args.agent, changelog: text });
    if (text === "") terminal.say("No changes yet.");
    else terminal.line(markdown(text));
    return undefined;
  },
});

const history = defineCommand({
  name: "agents history",
  summary: "List what happened to an agent, the newest first",
  arguments: AGENT,
  options: {
    cards: { type: "flag", help: "Only changes of its card" },
    limit: atMost(100, "The most to list"),
    before: { type: "number", value: "SEQ", min: 1, help: "Continue before this entry" },
  },
  examples: [
    ["agents history worker-1", "when it was lost, drained, registered anew"],
    ["agents history worker-1 --cards --json", "all its cards"],
  ],
  async run({ args, options, terminal, outbox }) {
    const { agents } = await outbox();
    const entries = await agents.getAgentHistory(args.agent, {
      cards: options.cards,
      limit: options.limit,
      before: options.before,
    });
    // One that was deregistered has a history for a while, and one without any is not there.
    if (entries.length === 0) await found(agents, args.agent);
    terminal.document(entries.map((entry) => ({ ...(wire(entry) as object), card: entry.card })));
    if (entries.length === 0) {
      terminal.say("Nothing yet.");
      return undefined;
    }
    const now = Date.now();
    terminal.table(entries, [
      { title: "SEQ", value: ({ seq }) => String(seq), align: "right" },
      { title: "WHEN", value: ({ at }) => relative(at, now) },
      { title: "EVENT", value: ({ event }) => event },
      { title: "WHAT", value: aboutOf, flexible: true },
    ]);
    if (entries.length === options.limit) {
      terminal.say(`There may be more: --before ${entries.at(-1)?.seq}`);
    }
    return undefined;
  },
});

function aboutOf({ data, cardHash }: AgentHistoryEntry): string {
  if (cardHash !== null) return `card ${cardHash.slice(0, 12)}`;
  return Object.entries(data)
    .map(([key, value]) => `${key} ${String(value)}`)
    .join(", ");
}

export const cardCommands = [find, greet, card, doc, changelog, history];
