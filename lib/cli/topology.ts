import type { TopologyInput } from "../index.ts";
import { defineCommand } from "./command.ts";
import { EXIT, UsageError } from "./exit-codes.ts";
import { readObject } from "./input.ts";
import { wire } from "./text.ts";

const show = defineCommand({
  name: "topology show",
  summary: "Show who may send to whom",
  examples: [
    ["topology show --json | jq .rules", "the rules, in the order in which they are asked"],
  ],
  async run({ terminal, outbox }) {
    const set = await (await outbox()).topology.get();
    terminal.document(wire(set));
    if (terminal.json) return undefined;
    terminal.fields([
      ["mode", set.mode],
      ["hub", set.hub ?? null],
      ["past the hub", set.mode === "hub" ? set.onDirect : null],
    ]);
    if (set.rules.length === 0) return undefined;
    terminal.table(set.rules, [
      { title: "FROM", value: ({ from }) => from.join(", "), flexible: true },
      { title: "TO", value: ({ to }) => to.join(", "), flexible: true },
      { title: "TYPES", value: ({ messageTypes }) => messageTypes.join(", "), flexible: true },
      { title: "EFFECT", value: ({ effect }) => effect },
    ]);
    return undefined;
  },
});

const set = defineCommand({
  name: "topology set",
  summary: "Set who may send to whom",
  details: [
    "`hub` lets agents send to the hub only, and the hub to all; `--relay` sends what goes past it through the hub instead of refusing it. `mesh` lets everybody send to everybody. Rules come from a JSON object, as for the library. Other processes know within three seconds.",
  ],
  arguments: {
    mode: { help: "mesh, hub, or json" },
    value: { help: "The hub, or the JSON", optional: true },
  },
  options: {
    relay: { type: "flag", help: "Pass on what goes past the hub, instead of refusing it" },
  },
  examples: [
    ["topology set hub main-agent --relay", "all talk goes through main-agent"],
    ["topology set json @topology.json", "with rules"],
    ["topology set mesh", "everybody with everybody"],
  ],
  async run({ args, options, terminal, stdin, outbox }) {
    const { mode, value } = args;
    let wanted: TopologyInput | null = null;
    if (mode === "hub") {
      if (value === undefined)
        throw new UsageError("which agent is the hub?", "topology set hub AGENT");
      wanted = { mode, hub: value, onDirect: options.relay ? "relay" : "reject" };
    } else if (mode === "json") {
      if (value === undefined)
        throw new UsageError("the JSON is missing", "topology set json @FILE");
      wanted = (await readObject("value", value, { terminal, stdin })) as TopologyInput;
    } else if (mode !== "mesh") {
      throw new UsageError(`there is no mode ${mode}`, "mesh, hub, or json");
    }
    const { topology } = await outbox();
    const now = await topology.set(wanted);
    terminal.document(wire(now));
    terminal.say(
      now.mode === "hub"
        ? `Agents send to ${now.hub} only; what goes past it is ${now.onDirect === "relay" ? "passed on by it" : "refused"}.`
        : now.rules.length === 0
          ? "Everybody may send to everybody."
          : `Set, with ${now.rules.length} rules.`,
    );
    return undefined;
  },
});

const check = defineCommand({
  name: "topology check",
  summary: "Tell what becomes of a message from one agent to another",
  details: ["Exit 0: it goes, directly or through the hub; 1: it is refused."],
  arguments: { from: { help: "The sender" }, to: { help: "The recipient" } },
  options: { type: { type: "text", value: "TYPE", help: "The message type; default any" } },
  examples: [["topology check upload-agent mapping-agent", "allow, relay or deny"]],
  async run({ args, options, terminal, outbox }) {
    const { topology } = await outbox();
    const route = await topology.check(args.from, args.to, options.type);
    terminal.document({ from: args.from, to: args.to, route });
    terminal.say({ allow: "allow", relay: "relay: through the hub", deny: "deny: refused" }[route]);
    return route === "deny" ? EXIT.ERROR : undefined;
  },
});

export const topologyCommands = [show, set, check];
