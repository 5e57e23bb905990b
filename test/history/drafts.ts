import type { Random } from "./random.ts";
import type { Change, Claim, Effect, Entry, EntryOf, FinalMessage } from "./types.ts";

export type Writable<T> = T extends unknown ? { -readonly [K in keyof T]: T[K] } : never;

/** A copy of a history that may be spoilt. */
export interface Draft {
  entries: Writable<Entry>[];
  final: Writable<FinalMessage>[];
  journal: Writable<Change>[];
  effects: Effect[];
}

export type Written<E extends Entry["e"]> = Writable<EntryOf<E>>;

function all<E extends Entry["e"]>(draft: Draft, e: E): Written<E>[] {
  return draft.entries.filter((entry): entry is Written<E> => entry.e === e);
}

export function answerTo<E extends Entry["e"]>(
  draft: Draft,
  e: E,
  op: string,
): Written<E> | undefined {
  return all(draft, e).find((entry) => entry.op === op);
}

export function without<T>(values: T[], value: T): void {
  values.splice(values.indexOf(value), 1);
}

interface Acked {
  readonly settle: Written<"settle">;
  readonly settled: Written<"settled">;
  readonly claimed: Written<"claimed">;
  readonly claim: Claim;
}

/** Single acknowledgements that succeeded, with the claim of each; nothing else was done with it. */
export function acks(draft: Draft): Acked[] {
  const cancelled = new Set(all(draft, "cancel").map(({ messageId }) => messageId));
  const settles = all(draft, "settle");
  return settles.flatMap((settle) => {
    const [key] = settle.claims;
    const others = settles.filter(({ claims }) =>
      claims.some(({ seq, receipt }) => seq === key?.seq && receipt === key.receipt),
    );
    if (others.length > 1) return [];
    const settled = answerTo(draft, "settled", settle.op);
    if (settled?.outcomes.length !== 1 || settled.outcomes[0] !== "acked") return [];
    for (const claimed of all(draft, "claimed")) {
      const claim = claimed.claims.find(
        ({ seq, receipt }) => seq === key?.seq && receipt === key.receipt,
      );
      if (claim === undefined || cancelled.has(claim.messageId)) continue;
      return [{ settle, settled, claimed, claim }];
    }
    return [];
  });
}

/** Does it with one of them, by chance. */
export function some<T>(random: Random, values: readonly T[], run: (value: T) => void): boolean {
  if (values.length === 0) return false;
  run(random.pick(values));
  return true;
}

/** Committed messages, one recipient each, that are where they should be. */
export function stored(draft: Draft): { send: Written<"send">; row: Writable<FinalMessage> }[] {
  return all(draft, "send").flatMap((send) => {
    const sent = answerTo(draft, "sent", send.op);
    return send.messages.flatMap(({ messageId }, n) => {
      const row = draft.final.find((one) => one.messageId === messageId);
      return sent?.stored[n] && row !== undefined ? [{ send, row }] : [];
    });
  });
}

/** Messages of a batch of which another one is stored as well. */
export function inBatches(draft: Draft): ReturnType<typeof stored> {
  const certain = stored(draft).filter(
    ({ send, row }) =>
      send.messages.find(({ messageId }) => messageId === row.messageId)?.dedupeKey === undefined,
  );
  return certain.filter(({ send, row }) =>
    certain.some((other) => other.send === send && other.row !== row),
  );
}

export function leases(draft: Draft): Writable<Change>[] {
  return draft.journal.filter(
    ({ now, before, after }) =>
      after?.worker != null && after.receipt > (before?.receipt ?? 0) && after.visibleAt > now,
  );
}

/** Claims that hand out, by the journal. */
export function doomless(draft: Draft): Writable<Change>[] {
  return leases(draft).filter(({ after }) => !after?.worker?.startsWith("!"));
}

/** Two messages of one key that were acknowledged, the later one after the other. */
export function followed(draft: Draft): { first: Acked; next: Acked }[] {
  const keys = new Map(
    all(draft, "send").flatMap(({ messages }) =>
      messages.map(({ messageId, orderingKey }) => [messageId, orderingKey] as const),
    ),
  );
  const keyed = acks(draft).filter(({ claim }) => keys.get(claim.messageId) !== undefined);
  return keyed.flatMap((first) => {
    const next = keyed.find(
      ({ claim }) =>
        claim.seq > first.claim.seq &&
        keys.get(claim.messageId) === keys.get(first.claim.messageId),
    );
    return next === undefined ? [] : [{ first, next }];
  });
}
