import type { Candidate } from "../../store/dialect.ts";
import type { Breaker, Limit } from "../../store/gate-rows.ts";

/**
 * Who of those that are ready may pass the limits, as a pure function: the caller holds the locks, gives what is in
 * flight, and writes down what this decides.
 */

/** What a limit has left while one claim is decided. */
export interface Gate {
  readonly name: string;
  readonly messageType: string | undefined;
  /** How many more may be in flight; Infinity: no such limit. */
  room: number;
  /** What the bucket holds now; undefined: no bucket. */
  tokens: number | undefined;
  readonly size: number;
  /** Tokens per millisecond. */
  readonly refill: number;
  /** Nothing passes before this instant. */
  readonly shutUntil: number | null;
}

export interface Admission {
  readonly taken: Candidate[];
  readonly refused: Candidate[];
  /** When time alone will let more through; null when only others' ends will. */
  readonly retryAt: number | null;
}

/** What the bucket of a limit holds at `now`: it fills steadily, up to its size. */
export function tokensAt(limit: Limit, now: number): number | undefined {
  if (limit.rate === undefined) return undefined;
  const size = limit.rate.burst ?? limit.rate.amount;
  if (limit.tokens === null || limit.refilledAt === null) return size;
  const elapsed = Math.max(0, now - limit.refilledAt);
  return Math.min(size, limit.tokens + (elapsed * limit.rate.amount) / limit.rate.perMs);
}

export function gateOf(limit: Limit, inFlight: number, now: number): Gate {
  return {
    name: limit.name,
    messageType: limit.messageType,
    room: limit.maxInFlight === undefined ? Number.POSITIVE_INFINITY : limit.maxInFlight - inFlight,
    tokens: tokensAt(limit, now),
    size: limit.rate?.burst ?? limit.rate?.amount ?? 0,
    refill: limit.rate === undefined ? 0 : limit.rate.amount / limit.rate.perMs,
    shutUntil: limit.parkedUntil !== null && limit.parkedUntil > now ? limit.parkedUntil : null,
  };
}

/** The breaker as a gate of its mailbox: closed, everything passes; half open, one message at a time. */
export function breakerGate(name: string, breaker: Breaker, probes: number, now: number): Gate {
  const open = breaker.state === "open" && breaker.until !== null && breaker.until > now;
  return {
    ...{ name, messageType: undefined, tokens: undefined, size: 0, refill: 0 },
    room: breaker.state === "closed" ? Number.POSITIVE_INFINITY : 1 - probes,
    shutUntil: open ? breaker.until : null,
  };
}

const applies = (gate: Gate, type: string) =>
  gate.messageType === undefined || gate.messageType === type;

/** Until when a gate refuses a message of this cost; Infinity: until another one ends; undefined: it does not. */
function refusedUntil(gate: Gate, cost: number, now: number): number | undefined {
  if (gate.shutUntil !== null) return gate.shutUntil;
  if (gate.room < 1) return Number.POSITIVE_INFINITY;
  if (gate.tokens === undefined) return undefined;
  // What costs more than the bucket holds passes a full one, and leaves a debt that is waited off.
  const needed = Math.min(cost, gate.size);
  // Rounding of the steady refill must not keep a bucket from ever being full.
  if (gate.tokens >= needed - 1e-9) return undefined;
  return now + Math.max(1, Math.ceil((needed - gate.tokens) / gate.refill));
}

/** Whether any message of a type could pass at all, and if not, when. */
export function laneShutUntil(
  gates: readonly Gate[],
  type: string,
  now: number,
): number | undefined {
  return latest(
    gates.filter((gate) => applies(gate, type)).map((gate) => refusedUntil(gate, 0, now)),
  );
}

/** Decides in the mailbox's order. What a gate has refused, nothing behind it that needs the same gate overtakes. */
export function admit(
  candidates: readonly Candidate[],
  gates: readonly Gate[],
  limit: number,
  now: number,
): Admission {
  const taken: Candidate[] = [];
  const refused: Candidate[] = [];
  const closed = new Map<Gate, number>();
  let retryAt = Number.POSITIVE_INFINITY;
  for (const candidate of candidates) {
    if (taken.length >= limit) break;
    // It will be buried, not run: no limit is about it.
    if (candidate.doomed) {
      taken.push(candidate);
      continue;
    }
    const own = gates.filter((gate) => applies(gate, candidate.message_type));
    for (const gate of own) {
      const until = refusedUntil(gate, candidate.cost, now);
      if (until !== undefined && !closed.has(gate)) closed.set(gate, until);
    }
    const until = latest(own.map((gate) => closed.get(gate)));
    if (until !== undefined) {
      retryAt = Math.min(retryAt, until);
      refused.push(candidate);
      continue;
    }
    for (const gate of own) {
      gate.room -= 1;
      if (gate.tokens !== undefined) gate.tokens -= candidate.cost;
    }
    taken.push(candidate);
  }
  return { taken, refused, retryAt: Number.isFinite(retryAt) ? retryAt : null };
}

function latest(instants: readonly (number | undefined)[]): number | undefined {
  const known = instants.filter((instant) => instant !== undefined);
  return known.length === 0 ? undefined : Math.max(...known);
}
