import { AgentCommunicationError, UnknownRecipient } from "../../errors.ts";
import { addressOf, type GroupAddress } from "../../protocol/addresses.ts";
import { type EncodedMessage, type Head, headsOf } from "../../protocol/envelope.ts";
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
  const heads = new Map(headsOf(messages).map((head) => [head, head]));
  const isAddressed = ({ toAgent }: Head) => toAgent.some((to) => to.includes(":"));
  if ([...heads.keys()].some(isAddressed)) await resolve(core, db, heads);
  const topology = await core.gates.known.topology(db);
  if (topology !== null) {
    for (const [given, head] of heads) heads.set(given, guided(head, topology));
  }
  return messages.map((message) => {
    const head = heads.get(message.head) ?? message.head;
    return head === message.head ? message : message.under(head);
  });
}

/** Puts in the place of each head one whose recipients are mailboxes. */
async function resolve(core: QueueCore, db: Db, heads: Map<Head, Head>): Promise<void> {
  const members = new Map<string, readonly string[]>();
  const of = async ({ kind, name }: GroupAddress): Promise<readonly string[]> => {
    const key = `${kind}:${name}`;
    const known =
      members.get(key) ??
      (await present(db, core.dialect, core.options.prefix, kind === "role" ? name : undefined));
    members.set(key, known);
    return known;
  };
  for (const head of heads.keys()) {
    const to = new Set<string>();
    for (const recipient of head.toAgent) {
      const address = addressOf(recipient);
      if (typeof address === "string") to.add(address);
      // Nobody shouts at himself.
      else for (const id of await of(address)) if (id !== head.fromAgent) to.add(id);
    }
    if (to.size === 0) {
      throw new UnknownRecipient(`nobody is there for ${head.toAgent.join(", ")}`, {
        details: { toAgent: head.toAgent },
      });
    }
    // A repetition is recognised by the address as it was written, whoever is there by then.
    heads.set(head, { ...head, toAgent: [...to], addressedTo: head.toAgent });
  }
}

function guided(head: Head, topology: TopologySettings): Head {
  const { fromAgent, toAgent, messageType } = head;
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
  if (hub === undefined || !routes.includes("relay")) return head;
  const headers = JSON.parse(head.headersText ?? "{}") as object;
  return {
    ...head,
    // As one message, also where some of its recipients could be reached directly: the hub sees it whole.
    toAgent: [hub],
    addressedTo: head.addressedTo ?? toAgent,
    headersText: JSON.stringify({
      ...headers,
      [RELAY_TO]: JSON.stringify(toAgent),
      [RELAYED_FROM]: fromAgent,
    }),
  };
}
