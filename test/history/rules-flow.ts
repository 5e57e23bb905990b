import { grouped, type Index } from "./index-of.ts";
import { certainlyHeld, type Held } from "./leases.ts";
import type { Bucket, Limit, Violation } from "./types.ts";

/** Several messages at a time, as clients saw it: keys, limits, rates. */
export function flowRules(index: Index): Violation[] {
  const held = certainlyHeld(index);
  return [
    ...sameMessage(held),
    ...keyOverlap(index, held),
    ...keyOrder(index),
    ...(index.history.limits ?? []).flatMap((limit) => [...overLimit(index, held, limit)]),
    ...(index.history.buckets ?? []).flatMap((bucket) => [...overRate(index, bucket)]),
  ];
}

/** Calls with each claim that begins while others are held. */
function* sweep(held: readonly Held[]): Generator<{ begins: Held; others: readonly Held[] }> {
  let active: Held[] = [];
  for (const begins of [...held].sort((a, b) => a.from - b.from)) {
    active = active.filter(({ until }) => until > begins.from);
    yield { begins, others: active };
    active.push(begins);
  }
}

const name = ({ claim }: Held) => `${claim.seq}/${claim.receipt}`;

function* sameMessage(held: readonly Held[]): Generator<Violation> {
  for (const ofOne of grouped(held, ({ claim }) => claim.seq).values()) {
    for (const { begins, others } of sweep(ofOne)) {
      const other = others.find(({ claim }) => claim.receipt !== begins.claim.receipt);
      if (other === undefined) continue;
      yield { rule: "two_leases", what: `claims ${name(other)} and ${name(begins)} held at once` };
    }
  }
}

function* keyOverlap(index: Index, held: readonly Held[]): Generator<Violation> {
  for (const [key, ofKey] of grouped(held, ({ claim }) => orderingKey(index, claim))) {
    if (key === undefined) continue;
    for (const { begins, others } of sweep(ofKey)) {
      const other = others.find(({ claim }) => claim.seq !== begins.claim.seq);
      if (other === undefined) continue;
      yield { rule: "key_overlap", what: `key ${key}: ${name(other)} and ${name(begins)} at once` };
    }
  }
}

function orderingKey(index: Index, claim: { messageId: string; mailbox: string }) {
  const key = index.sent.get(claim.messageId)?.orderingKey;
  return key === undefined ? undefined : `${key} of ${claim.mailbox}`;
}

/**
 * A later message of a key that was claimed before the call was sent which finished an earlier one. What came
 * back from the dead letters has lost its place.
 */
function* keyOrder(index: Index): Generator<Violation> {
  const processed = new Set(
    index.history.final.filter(({ outcome }) => outcome === "processed").map(({ seq }) => seq),
  );
  const back = new Set(
    index.history.final.filter(({ redriven }) => (redriven ?? 0) > 0).map(({ seq }) => seq),
  );
  const acks = new Map(
    index.settles
      .filter(({ seq, outcome }) => outcome === "acked" && processed.has(seq) && !back.has(seq))
      .map((settle) => [settle.seq, settle]),
  );
  for (const [key, claims] of grouped(index.claims, (claim) => orderingKey(index, claim))) {
    if (key === undefined) continue;
    // From the last to the first: the earliest claim of all that follow.
    let earliest: (typeof claims)[number] | undefined;
    for (const claim of [...claims].sort((a, b) => b.seq - a.seq)) {
      const ack = acks.get(claim.seq);
      if (
        ack !== undefined &&
        earliest !== undefined &&
        earliest.seq > claim.seq &&
        earliest.at < ack.askedAt
      ) {
        yield {
          rule: "key_order",
          what: `key ${key}: ${earliest.seq} was claimed before ${claim.seq} was done`,
        };
        acks.delete(claim.seq);
      }
      if (earliest === undefined || claim.at < earliest.at) earliest = claim;
    }
  }
}

/** Which messages count together under a limit; undefined: the limit is not theirs. */
export function limitGroup(
  limit: Omit<Limit, "max">,
  message: {
    mailbox: string;
    messageType?: string | undefined;
    concurrencyKey?: string | null | undefined;
  },
): string | undefined {
  if (limit.mailbox !== undefined && limit.mailbox !== message.mailbox) return undefined;
  if (limit.messageType !== undefined && limit.messageType !== message.messageType)
    return undefined;
  if (!limit.perKey) return "";
  return message.concurrencyKey ? `${message.mailbox}:${message.concurrencyKey}` : undefined;
}

function* overLimit(index: Index, held: readonly Held[], limit: Limit): Generator<Violation> {
  const groups = grouped(held, ({ claim }) =>
    limitGroup(limit, { ...index.sent.get(claim.messageId), mailbox: claim.mailbox }),
  );
  for (const [group, ofGroup] of groups) {
    if (group === undefined) continue;
    for (const { begins, others } of sweep(ofGroup)) {
      // A claim that was extended is held in parts, which overlap.
      const count = new Set([...others, begins].map(({ claim }) => claim.seq)).size;
      if (count <= limit.max) continue;
      const all = [...others, begins].map(name).join(", ");
      yield { rule: "limit", what: `${JSON.stringify(limit)} ${group}: ${count} held: ${all}` };
    }
  }
}

function* overRate(index: Index, bucket: Bucket): Generator<Violation> {
  const taken = index.claims
    .filter((claim) => claim.leaseMs !== undefined)
    .filter(
      (claim) =>
        limitGroup(bucket, { ...index.sent.get(claim.messageId), mailbox: claim.mailbox }) === "",
    )
    .map(({ leaseExpiresAt, leaseMs = 0, messageId }) => ({
      at: leaseExpiresAt - leaseMs,
      cost: index.sent.get(messageId)?.cost ?? 1,
    }));
  yield* rate(bucket, taken, "clients");
}

/** The level of a bucket that was full at first: what is taken beyond it was never there, in whatever window. */
export function* rate(
  bucket: Bucket,
  taken: readonly { at: number; cost: number }[],
  by: string,
): Generator<Violation> {
  // The slack is given once: two windows of one run cannot both gain it.
  const slack = (bucket.slackMs ?? 25) * bucket.refillPerMs;
  let tokens = bucket.capacity;
  let last: number | undefined;
  for (const { at, cost } of [...taken].sort((a, b) => a.at - b.at)) {
    if (at > (bucket.until ?? Number.POSITIVE_INFINITY)) break;
    tokens = Math.min(bucket.capacity, tokens + (at - (last ?? at)) * bucket.refillPerMs);
    last = at;
    tokens -= cost;
    if (tokens < -slack - 1e-6) {
      yield { rule: "bucket", what: `${JSON.stringify(bucket)}: ${-tokens} too many (${by})` };
      tokens = 0;
    }
  }
}
