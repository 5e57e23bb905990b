import type { Candidate } from "../../store/dialect.ts";
import type { Breaker, Limit } from "../../store/gate-rows.ts";
import { GateStore, type Slot } from "../../store/gates.ts";
import type { WhyStore } from "../../store/why.ts";
import type { QueueCore } from "../core.ts";
import { admit, breakerGate, type Gate, gateOf } from "../gates/admission.ts";
import { probeOf } from "../gates/breakers.ts";
import { concerns } from "../gates/gates.ts";
import { heldBy, iso, type Obstacle } from "./words.ts";

/** A message before a gate, and who stands before it. */
export interface AtGate {
  readonly core: QueueCore;
  readonly look: WhyStore;
  readonly agentId: string;
  readonly message: Candidate;
  readonly head: (Candidate & { readonly messageId: string }) | undefined;
  readonly now: number;
}

/** What the breaker of the mailbox and the limits keep back, by the rules of the claim itself. */
export async function atGates(at: AtGate, breaker: Breaker | null): Promise<Obstacle[]> {
  const { core, agentId, message, now } = at;
  const store = new GateStore(core.knex, core.dialect, core.options.prefix);
  const about = { toAgent: agentId, messageType: message.message_type };
  const limits = (await store.limits(core.knex)).filter(
    (limit) => limit.removedAt === null && concerns(limit, about),
  );
  const names = limits.flatMap(({ name, maxInFlight }) => (maxInFlight === undefined ? [] : name));
  const probe = probeOf(agentId);
  const slots = (await store.slots(core.knex, [...names, probe], now)).filter(
    ({ state }) => state === "live",
  );
  const of = (name: string) => slots.filter((slot) => slot.name === name);
  const found: Obstacle[] = [];
  if (breaker !== null && breaker.state !== "closed") {
    found.push(...(await atBreaker(at, breaker, of(probe))));
  }
  for (const limit of limits) {
    found.push(...(await atLimit(at, limit, of(limit.name))));
  }
  return found;
}

/** Refused alone, or only because of the one before; undefined: it would pass. */
function refusal(at: AtGate, gate: Gate): { behind: boolean; until: number | null } | undefined {
  const { message, head, now } = at;
  const alone = admit([message], [{ ...gate }], 1, now);
  if (alone.refused.length > 0) return { behind: false, until: alone.retryAt };
  const applies = gate.messageType === undefined || gate.messageType === head?.message_type;
  if (head === undefined || !applies) return undefined;
  const both = admit([head, message], [{ ...gate }], 2, now);
  if (!both.refused.includes(message)) return undefined;
  // Where the one before passes and takes what there was, this one is next, and waits for nothing else.
  return both.refused.includes(head) ? { behind: true, until: both.retryAt } : undefined;
}

async function atBreaker(at: AtGate, breaker: Breaker, probes: Slot[]): Promise<Obstacle[]> {
  const { agentId, head, now, look } = at;
  const remedy = `Mend what ${agentId} needs: the breaker closes when a message gets through. \`agent-outbox mailboxes set ${agentId} --no-breaker\` takes it away.`;
  const open = { state: "circuit_open" as const, remedy };
  const gate = breakerGate(probeOf(agentId), breaker, probes.length, now);
  if (gate.shutUntil !== null) {
    const reason = `the circuit breaker of ${agentId} is open until ${iso(gate.shutUntil)}; then one message is let through to try`;
    return [{ ...open, reason, until: gate.shutUntil }];
  }
  if (gate.room < 1) {
    const [tried] = await look.bySequence(probes.map(({ seq }) => seq));
    const which = tried === undefined ? "one message" : heldBy(tried, now);
    const reason = `the circuit breaker of ${agentId} is half open: ${which} is tried first`;
    return [{ ...open, reason, until: null }];
  }
  if (head === undefined) return [];
  const reason = `the circuit breaker of ${agentId} is half open: it lets one message through to try, and ${head.messageId} is before this one`;
  return [{ ...open, reason, until: null }];
}

const amount = (n: number) => String(Math.round(n * 100) / 100);

async function atLimit(at: AtGate, limit: Limit, slots: Slot[]): Promise<Obstacle[]> {
  const { head, message, now, look } = at;
  const gate = gateOf(limit, slots.length, now);
  const refused = refusal(at, gate);
  if (refused === undefined) return [];
  const { until } = refused;
  const obstacle = (reason: string, remedy: string): Obstacle[] => [
    { state: "limited", reason: `over the limit ${limit.name}: ${reason}`, remedy, until },
  ];
  const raise = `\`agent-outbox limits set ${limit.name} …\` changes the limit, \`agent-outbox limits rm ${limit.name}\` takes it away.`;
  if (gate.shutUntil !== null) {
    const back = `parked until ${iso(gate.shutUntil)}, because the other side asked for it`;
    return obstacle(back, `Nothing: it goes on by itself. ${raise}`);
  }
  if (gate.room < 1) {
    const holders = await look.bySequence(slots.map(({ seq }) => seq));
    const who = holders.map((holder) => heldBy(holder, now)).join("; ");
    const reason = `${slots.length} of at most ${limit.maxInFlight} in flight${who === "" ? "" : ` (${who})`}`;
    return obstacle(reason, `Wait until one of them ends. ${raise}`);
  }
  const holds = `its bucket holds ${amount(gate.tokens ?? 0)} of ${amount(gate.size)}`;
  const enough = until === null ? "" : `, enough at ${iso(until)}`;
  const cost =
    refused.behind && head !== undefined
      ? `message ${head.messageId} before this one costs ${amount(head.cost)}`
      : `this message costs ${amount(message.cost)}`;
  return obstacle(
    `${holds}, and ${cost}${enough}`,
    `Nothing: the bucket fills by itself. ${raise}`,
  );
}
