import { grouped, type Index } from "./index-of.ts";
import type { FinalMessage, Violation } from "./types.ts";

/** What was sent against what is there: nothing lost, nothing invented, nothing twice. */
export function messageRules(index: Index): Violation[] {
  return [...lost(index), ...invented(index), ...twice(index), ...reasons(index)];
}

const place = (messageId: string, mailbox: string) => `${messageId} in ${mailbox}`;

function* lost({ sends, history, moved }: Index): Generator<Violation> {
  const found = new Set(history.final.map((row) => place(row.messageId, row.mailbox)));
  const somewhere = new Set(history.final.map(({ messageId }) => messageId));
  for (const send of sends) {
    const stored = send.messages.filter(
      // Nobody knows whether another message stood for one with a dedupe key.
      ({ dedupeKey }, n) => send.stored[n] ?? dedupeKey === undefined,
    );
    const wanted = stored.flatMap(({ messageId, toAgent }) =>
      // An operator may have sent it to another mailbox.
      toAgent.map((to) => ({
        name: place(messageId, to),
        there: found.has(place(messageId, to)) || (moved && somewhere.has(messageId)),
      })),
    );
    const missing = wanted.filter(({ there }) => !there).map(({ name }) => name);
    if (missing.length === 0) continue;
    if (send.fate === "committed") {
      yield { rule: "lost", what: `${missing.join(", ")}: committed by ${send.op}, and nowhere` };
    } else if (send.fate === "unknown" && missing.length < wanted.length) {
      // A batch is one transaction: all of it or nothing.
      yield { rule: "torn_batch", what: `${missing.join(", ")}: the rest of ${send.op} is there` };
    }
  }
}

function* invented({ sends, claims, history }: Index): Generator<Violation> {
  const possible = new Set(
    sends.flatMap(({ fate, messages, stored }) =>
      messages
        .filter((_, n) => fate === "unknown" || (fate === "committed" && stored[n]))
        .map(({ messageId }) => messageId),
    ),
  );
  const seen = new Map<string, string>();
  for (const row of history.final) seen.set(row.messageId, row.place);
  for (const claim of claims) seen.set(claim.messageId, "claimed");
  for (const [messageId, where] of seen) {
    if (!possible.has(messageId)) {
      yield {
        rule: "never_sent",
        what: `${messageId} (${where}) was never sent, rolled back, or a duplicate`,
      };
    }
  }
}

function* twice({ history, moved }: Index): Generator<Violation> {
  for (const [seq, rows] of grouped(history.final, (row) => row.seq)) {
    if (rows.length > 1) {
      const places = rows.map((row) => row.place).join(" and ");
      yield { rule: "stored_twice", what: `sequence ${seq} lies in ${places}` };
    }
  }
  if (moved) return;
  const name = (row: FinalMessage) => place(row.messageId, row.mailbox);
  for (const [where, rows] of grouped(history.final, name)) {
    const seqs = new Set(rows.map(({ seq }) => seq));
    if (seqs.size > 1) {
      yield { rule: "stored_twice", what: `${where} was stored as ${[...seqs].join(", ")}` };
    }
  }
}

function* reasons({ history }: Index): Generator<Violation> {
  for (const row of history.final) {
    if (row.place === "dead" && !row.reason) {
      yield { rule: "dead_without_reason", what: `${row.messageId} is dead, nobody knows why` };
    }
  }
}
