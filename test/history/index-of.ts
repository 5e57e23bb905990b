import type { Claim, Entry, EntryOf, History, Moment, SentMessage } from "./types.ts";

/** A claim that some client knows of, and since when. */
export interface KnownClaim extends Claim {
  readonly op: string;
  /** When it was asked for; unknown of a worker's. */
  readonly askedAt: Moment | undefined;
  /** From when on the client had it. */
  readonly at: Moment;
  readonly leaseMs: number | undefined;
}

/** One claim in one settling call. */
export interface Settle {
  readonly op: string;
  readonly kind: EntryOf<"settle">["kind"];
  readonly seq: number;
  readonly receipt: number;
  readonly askedAt: Moment;
  readonly answeredAt: Moment | undefined;
  /** Undefined: nobody knows. */
  readonly outcome: string | undefined;
  readonly leaseMs: number | undefined;
}

export interface Send {
  readonly op: string;
  readonly messages: readonly SentMessage[];
  readonly fate: "committed" | "not_sent" | "unknown";
  /** Known of a committed one. */
  readonly stored: readonly boolean[];
}

/** A history, joined: what was asked with what was answered. */
export class Index {
  readonly history: History;
  readonly sends: readonly Send[];
  readonly claims: readonly KnownClaim[];
  readonly settles: readonly Settle[];
  /** When a cancellation was asked for, per message id; the earliest. */
  readonly cancelledAt: ReadonlyMap<string, Moment>;
  /** Whether messages may lie in other mailboxes than they were sent to. */
  readonly moved: boolean;
  readonly sent: ReadonlyMap<string, SentMessage>;
  readonly claimsOf: ReadonlyMap<number, readonly KnownClaim[]>;
  readonly settlesOf: ReadonlyMap<number, readonly Settle[]>;

  constructor(history: History) {
    this.history = history;
    const all = <E extends Entry["e"]>(e: E) =>
      history.entries.filter((entry): entry is EntryOf<E> => entry.e === e);
    const byOp = <E extends Entry["e"]>(e: E) => new Map(all(e).map((entry) => [entry.op, entry]));

    const answers = byOp("sent");
    const refused = byOp("not_sent");
    this.sends = all("send").map(({ op, messages }) => {
      const answer = answers.get(op);
      const fate = answer ? "committed" : refused.has(op) ? "not_sent" : "unknown";
      return { op, messages, fate, stored: answer?.stored ?? [] };
    });
    this.sent = new Map(
      this.sends.flatMap(({ messages }) => messages.map((message) => [message.messageId, message])),
    );

    const looks = byOp("look");
    this.claims = [
      ...all("claimed").flatMap(({ op, at, claims }) => {
        const look = looks.get(op);
        const known = { op, at, askedAt: look?.at, leaseMs: look?.leaseMs };
        return claims.map((claim) => ({ ...claim, ...known }));
      }),
      ...all("begin").map(({ op, at, claim }) => {
        return { ...claim, op, at, askedAt: undefined, leaseMs: undefined };
      }),
    ];
    const settled = byOp("settled");
    this.settles = all("settle").flatMap(({ op, at, kind, claims, leaseMs }) => {
      const answer = settled.get(op);
      return claims.map(({ seq, receipt }, n) => ({
        ...{ op, kind, seq, receipt, askedAt: at, leaseMs },
        answeredAt: answer?.at,
        outcome: answer?.outcomes[n],
      }));
    });
    const cancelledAt = new Map<string, Moment>();
    for (const { messageId, at } of all("cancel")) {
      cancelledAt.set(messageId, Math.min(at, cancelledAt.get(messageId) ?? at));
    }
    this.cancelledAt = cancelledAt;
    this.moved = all("redrive").some(({ elsewhere }) => elsewhere);
    this.claimsOf = grouped(this.claims, ({ seq }) => seq);
    this.settlesOf = grouped(this.settles, ({ seq }) => seq);
  }
}

export function grouped<K, V>(values: readonly V[], key: (value: V) => K): Map<K, V[]> {
  const groups = new Map<K, V[]>();
  for (const value of values) {
    const group = groups.get(key(value));
    if (group === undefined) groups.set(key(value), [value]);
    else group.push(value);
  }
  return groups;
}
