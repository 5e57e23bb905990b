import { AgentCommunicationError, UnknownRecipient } from "../../errors.ts";
import { addressOf, type GroupAddress } from "../../protocol/addresses.ts";
import type { EncodedMessage } from "../../protocol/envelope.ts";
import { routeOf, type TopologySettings } from "../../protocol/topology.ts";
import type { Db } from "../../store/dialect.ts";
import { present } from "../../store/recipients.ts";
import type { QueueCore } from "../core.ts";

/** Headers of a message that goes through the hub: who it is for (JSON list), and who sent it. */
export const RELAY_TO = "relay-to";
export const RELAYED_FROM = "relayed-from";

/** Where messages go: addresses become mailboxes, and the topology has its say. Plain messages are not copied. */
export async function route(
  core: QueueCore,
  db: Db,
  messages: readonly EncodedMessage[],
): Promise<readonly EncodedMessage[]> {
  const addressed = messages.some(({ toAgent }) => toAgent.some((to) => to.includes(":")));
  const resolved = addressed ? await resolve(core, db, messages) : messages;
  const topology = await core.gates.known.topology(db);
  return topology === null ? resolved : resolved.map((message) => guided(message, topology));
}

async function resolve(
  core: QueueCore,
  db: Db,
  messages: readonly EncodedMessage[],
): Promise<EncodedMessage[]> {
  const members = new Map<string, readonly string[]>();
  const of = async ({ kind, name }: GroupAddress): Promise<readonly string[]> => {
    const key = `${kind}:${name}`;
    const known =
      members.get(key) ??
      (await present(db, core.dialect, core.options.prefix, kind === "role" ? name : undefined));
    members.set(key, known);
    return known;
  };
  const routed: EncodedMessage[] = [];
  for (const message of messages) {
    const to = new Set<string>();
    for (const recipient of message.toAgent) {
      const address = addressOf(recipient);
      if (typeof address === "string") to.add(address);
      // Nobody shouts at himself.
      else for (const id of await of(address)) if (id !== message.fromAgent) to.add(id);
    }
    if (to.size === 0) {
      throw new UnknownRecipient(`nobody is there for ${message.toAgent.join(", ")}`, {
        details: { toAgent: message.toAgent },
      });
    }
    // A repetition is recognised by the address as it was written, whoever is there by then.
    routed.push({ ...message, toAgent: [...to], addressedTo: message.toAgent });
  }
  return routed;
}

function guided(message: EncodedMessage, topology: TopologySettings): EncodedMessage {
  const { fromAgent, toAgent, messageType } = message;
  const routes = toAgent.map((to) => routeOf(topology, fromAgent, to, messageType));
  const denied = toAgent.filter((_, n) => routes[n] === "deny");
  if (denied.length > 0) {
    throw new AgentCommunicationError(
      "TOPOLOGY_FORBIDDEN",
      `"${fromAgent}" may not send ${messageType} to ${denied.map((to) => `"${to}"`).join(", ")}`,
      { details: { fromAgent, toAgent: denied, messageType, hub: topology.hub ?? null } },
    );
  }
  const { hub } = topology;
  if (hub === undefined || !routes.includes("relay")) return message;
  const headers = JSON.parse(message.headersText ?? "{}") as object;
  return {
    ...message,
    // As one message, also where some of its recipients could be reached directly: the hub sees it whole.
    toAgent: [hub],
    addressedTo: message.addressedTo ?? toAgent,
    headersText: JSON.stringify({
      ...headers,
      [RELAY_TO]: JSON.stringify(toAgent),
      [RELAYED_FROM]: fromAgent,
    }),
  };
}
