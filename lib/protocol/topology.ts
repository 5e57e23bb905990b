import { z } from "zod";
import { MessageType } from "./types.ts";
import { id, parse } from "./validate.ts";

/** What becomes of a message: it goes its way, goes to the hub first, or is refused. */
export type Route = "allow" | "relay" | "deny";

const patterns = z.array(id).min(1).max(100);
const pattern = z.union([id.transform((one) => [one]), patterns]);

const ruleSchema = z.strictObject({
  /** Senders: ids, in which `*` stands for any characters. */
  from: pattern.default(["*"]),
  /** Recipients, likewise. */
  to: pattern.default(["*"]),
  /** Only messages of these types, likewise. Default: all. */
  messageTypes: pattern.default(["*"]),
  /** `relay` goes through the hub. */
  effect: z.enum(["allow", "relay", "deny"]),
});

export const topologySchema = z
  .strictObject({
    /** `mesh`: everybody may send to everybody. `hub`: only to the hub, and the hub to all. Default mesh. */
    mode: z.enum(["mesh", "hub"]).default("mesh"),
    /** The agent in the middle. */
    hub: id.optional(),
    /** What becomes of a message past the hub: it is refused, or goes to the hub, which passes it on. Default reject. */
    onDirect: z.enum(["reject", "relay"]).default("reject"),
    /** Asked first, in this order; the first that fits decides. At most 500. */
    rules: z.array(ruleSchema).max(500).default([]),
  })
  .refine(({ mode, hub }) => mode === "mesh" || hub !== undefined, {
    message: "a hub topology names its hub",
    path: ["hub"],
  })
  .refine(
    ({ hub, onDirect, rules }) =>
      hub !== undefined ||
      (onDirect !== "relay" && rules.every(({ effect }) => effect !== "relay")),
    { message: "without a hub nothing can be relayed", path: ["hub"] },
  );

export type TopologyInput = z.input<typeof topologySchema>;
export type TopologySettings = z.output<typeof topologySchema>;

/** @throws ValidationFailed */
export const topologyOf = (value: unknown): TopologySettings =>
  parse(topologySchema, value, "topology");

/**
 * The library's own talk, between supervisors and agents, goes its way in every topology: without it no task would
 * be assigned or answered, and nobody hear of a maintenance.
 */
const OWN: ReadonlySet<string> = new Set([
  MessageType.TASK_ASSIGNMENT,
  MessageType.TASK_RESPONSE,
  MessageType.TASK_CANCEL,
  MessageType.STATUS_UPDATE,
  MessageType.HEARTBEAT,
  MessageType.ERROR_REPORT,
  MessageType.INPUT_REQUEST,
  MessageType.INPUT_RESPONSE,
  MessageType.AGENT_HANDOFF,
  MessageType.HANDOFF_ACCEPTED,
  MessageType.HANDOFF_REJECTED,
  MessageType.HANDOFF_RETURNED,
  MessageType.HANDOFF_COMPLETED,
  MessageType.HANDOFF_WITHDRAWN,
  MessageType.CALL_FOR_BIDS,
  MessageType.BID,
  MessageType.BID_REJECTED,
  MessageType.SYSTEM_MAINTENANCE,
  MessageType.SYSTEM_READY,
  MessageType.CHANGE_REQUEST_UPDATED,
]);

/** What becomes of a message of this type from one agent to another. */
export function routeOf(
  { mode, hub, onDirect, rules }: TopologySettings,
  from: string,
  to: string,
  messageType: string,
): Route {
  if (OWN.has(messageType)) return "allow";
  const rule = rules.find(
    (one) =>
      one.from.some((glob) => fits(glob, from)) &&
      one.to.some((glob) => fits(glob, to)) &&
      one.messageTypes.some((glob) => fits(glob, messageType)),
  );
  if (rule !== undefined) return rule.effect;
  if (mode === "mesh" || from === hub || to === hub || from === to) return "allow";
  return onDirect === "relay" ? "relay" : "deny";
}

const globs = new Map<string, RegExp>();

function fits(glob: string, text: string): boolean {
  if (!glob.includes("*")) return glob === text;
  let expression = globs.get(glob);
  if (expression === undefined) {
    const parts = glob.split("*").map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    expression = new RegExp(`^${parts.join(".*")}$`, "u");
    // A few hundred rules at most; a changing topology must not fill the memory.
    if (globs.size > 10_000) globs.clear();
    globs.set(glob, expression);
  }
  return expression.test(text);
}

/** Feature agents talk to the hub alone: what one sends to another is refused, or goes through the hub. */
export function hubTopology(hub: string, onDirect: "reject" | "relay" = "reject"): TopologyInput {
  return { mode: "hub", hub, onDirect };
}

/** Who may send and who may receive on each channel, by the message types of the channel; nothing else goes. */
export function channelTopology(
  channels: Readonly<
    Record<
      string,
      {
        readonly messageTypes?: string | readonly string[];
        readonly publishers: readonly string[];
        readonly subscribers: readonly string[];
      }
    >
  >,
): TopologyInput {
  const list = (given: string | readonly string[]) =>
    typeof given === "string" ? [given] : [...given];
  return {
    mode: "mesh",
    rules: [
      ...Object.entries(channels).map(([name, { messageTypes, publishers, subscribers }]) => ({
        from: [...publishers],
        to: [...subscribers],
        messageTypes: list(messageTypes ?? `${name.toUpperCase().replaceAll("-", "_")}*`),
        effect: "allow" as const,
      })),
      { effect: "deny" as const },
    ],
  };
}
