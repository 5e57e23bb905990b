import { QueueFull } from "../errors.ts";
import { type EncodedMessage, type Head, headsOf } from "../protocol/envelope.ts";
import type { MessageEvent, MessageEventName } from "../protocol/events.ts";
import { type Flow, flowOf } from "../protocol/flow.ts";
import { afterCommit, told } from "../store/after-commit.ts";
import type { Db } from "../store/dialect.ts";
import { refOf } from "../store/payloads.ts";
import { BATCH, bearsNoKey, type Sent } from "../store/sending.ts";
import { isTransaction, transaction, translated } from "../store/sql.ts";
import type { QueueCore } from "./core.ts";
import { brakesFor } from "./delivery/brakes.ts";
import { messageEvent } from "./events.ts";
import { route } from "./routing/route.ts";

/** Longer than the pauses between two looks of an idle consumer. */
const SOON_MS = 10_000;

export interface SendAs {
  /** As the caller chose; default: the queue's own. */
  readonly flow?: Flow | undefined;
  /** As of `SendWith`. */
  readonly apart?: boolean;
}

/** Stores messages where they belong, and tells of them once they are committed. */
export async function send(
  core: QueueCore,
  db: Db,
  given: readonly EncodedMessage[],
  { flow, apart = false }: SendAs = {},
): Promise<Sent[]> {
  const { known } = core.gates;
  const plain = known.nothing && flow === undefined && headsOf(given).every(isPlain);
  const routed = plain ? given : await route(core, db, given);
  for (const agentId of plain ? [] : await known.refusing(db, routed)) {
    await core.breakers.refuse(db, agentId);
  }
  const packs = core.contents.needsPacking(routed);
  const messages = packs ? await core.contents.pack(db, routed) : routed;
  const placing = plain ? undefined : await known.placing(db, messages);
  const admission = plain
    ? undefined
    : await core.flow.admission(db, messages, flow ?? flowOf(undefined, false));
  const brakes = brakesFor(core.dialect, core.options, messages);
  const simple = admission === undefined && brakes === undefined && !isTransaction(db);
  const ride = core.ride(simple ? onlyMailbox(messages) : undefined);
  const sent = await (admission === undefined
    ? core.store.send(db, messages, { placing, brakes, wakeUp: ride?.wakeUp, apart })
    : core.flow.send(db, messages, placing, admission, brakes)
  ).catch((error: unknown) => {
    if (packs && error instanceof QueueFull) core.payloads.discard(messages.flatMap(keyOfContent));
    throw error;
  });
  const told = ride !== undefined && core.rode(ride);
  const repeated = sent.some(({ duplicate }) => duplicate);
  const stored = repeated ? messages.filter((_, n) => sent[n]?.duplicate === false) : messages;
  if (packs && repeated) {
    const twice = messages.filter((_, n) => sent[n]?.duplicate === true);
    core.payloads.discard(twice.flatMap(keyOfContent));
  }
  if (stored.length > 0) {
    afterCommit(db, () => {
      // What falls due late is found by looking; idle consumers look too rarely for what does so soon.
      const due = headsOf(stored).filter(({ delayMs = 0 }) => delayMs <= SOON_MS);
      core.signal(new Set(due.flatMap(({ toAgent }) => toAgent)), told);
      if (!core.observers.active) return;
      const at = Date.now();
      core.observers.emit(stored.flatMap((message) => eventsOf("sent", message, { at })));
      core.observers.emit(
        messages.flatMap((message, n) => {
          const reason = sent[n]?.deadLettered;
          return reason === undefined ? [] : eventsOf("dead_lettered", message, { at, reason });
        }),
      );
    });
  }
  return sent;
}

/** One for each recipient. */
function eventsOf(
  event: MessageEventName,
  { head, messageId }: EncodedMessage,
  extra: Pick<MessageEvent, "at" | "reason">,
): MessageEvent[] {
  const { fromAgent, messageType, correlationId, taskId } = head;
  return head.toAgent.map((toAgent) =>
    messageEvent(
      event,
      { messageId, fromAgent, toAgent, messageType, correlationId, taskId },
      extra,
    ),
  );
}

/** Whether messages need no look at settings, as long as none are known. */
function isPlain({ toAgent, concurrencyKey }: Head): boolean {
  return concurrencyKey === undefined && !toAgent.some((to) => to.includes(":"));
}

/** The mailbox of a message that is alone, and that one statement stores. */
function onlyMailbox(messages: readonly EncodedMessage[]): string | undefined {
  const [message] = messages;
  if (messages.length !== 1 || message === undefined) return;
  const { toAgent } = message.head;
  return toAgent.length !== 1 || message.ownId || !bearsNoKey(message.head)
    ? undefined
    : toAgent[0];
}

/**
 * Stores many messages, all or none, each made by `encoded` from its place. A long array is made a portion at a time:
 * a hundred thousand messages would be several times what the caller has in hand. Not in a caller's transaction, and
 * not where they are counted together (`whole`).
 */
export async function sendMany(
  core: QueueCore,
  count: number,
  encoded: (n: number) => EncodedMessage,
  { tx, flow, whole }: { tx: unknown; flow: Flow; whole: boolean },
): Promise<Sent[]> {
  const first = whole
    ? Array.from({ length: count }, (_, n) => encoded(n))
    : portionOf(count, 0, encoded);
  const db = await core.db(tx);
  if (count === 0) return [];
  if (first.length === count) return core.send(db, first, { flow });
  const all = await translated(core.dialect, () =>
    transaction(core.dialect, db, async (trx) => {
      const sent = [...(await core.send(trx, first))];
      while (sent.length < count) {
        sent.push(...(await core.send(trx, portionOf(count, sent.length, encoded))));
      }
      return sent;
    }),
  );
  // As after a single statement: when the caller goes on, observers and consumers have heard of it.
  await told();
  return all;
}

/** About what one statement takes, from the message at `begin` on. */
function portionOf(
  count: number,
  begin: number,
  encoded: (n: number) => EncodedMessage,
): EncodedMessage[] {
  const portion: EncodedMessage[] = [];
  let characters = 0;
  for (let n = begin; n < count && portion.length < BATCH.rows; n++) {
    const message = encoded(n);
    portion.push(message);
    characters += message.contentText.length;
    // The next one is mostly as large.
    if (characters + message.contentText.length > BATCH.characters) break;
  }
  return portion;
}

function keyOfContent({ contentEncoding, contentText }: EncodedMessage): string[] {
  return contentEncoding === "ref" ? refOf(contentText) : [];
}
