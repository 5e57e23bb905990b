import { createHash } from "node:crypto";
import type { Knex } from "knex";
import { given, noMore } from "../protocol/given.ts";
import type { MessageInput } from "../protocol/message-input.ts";
import { delaySchema, leaseSchema, nackOptionsSchema, reasonSchema } from "../protocol/options.ts";
import { MessageType } from "../protocol/types.ts";
import { parse } from "../protocol/validate.ts";
import type { Sent } from "../store/sending.ts";
import type { ClaimedMessage, Settler, TxOption } from "./claimed.ts";
import type { QueueCore } from "./core.ts";

type Send = (
  message: MessageInput,
  options: TxOption & { causedBy: ClaimedMessage },
) => Promise<Sent>;

/** What claimed messages settle through: checks what the caller gives, and answers in the words of the API. */
export function settlerOf(core: QueueCore, send: Send): Settler {
  /** Replies that were sent per claim: the second one of a run is another message. */
  const replies = new WeakMap<ClaimedMessage, number>();
  return {
    ack: async (claims, options) => {
      const outcomes = await core.ack(await core.db(txOf(options)), claims);
      return outcomes.map((outcome) => (outcome === "done" ? "acked" : outcome));
    },
    nack: async (claim, error, asked) => {
      const { tx, ...rest } = given(asked);
      const options = parse(nackOptionsSchema, rest, "options");
      return core.nack(await core.db(tx), claim, error, options);
    },
    defer: async (claim, delayMs, options) => {
      const delay = parse(delaySchema, delayMs, "delayMs");
      const db = await core.db(txOf(options));
      const [outcome = "gone"] = await core.release(db, [claim], delay, "deferred");
      return outcome === "done" ? "deferred" : outcome;
    },
    extend: async (claim, leaseMs) => {
      const length = parse(leaseSchema, leaseMs, "leaseMs");
      await core.db();
      const [outcome = "gone"] = await core.extend([{ claim }], length);
      return outcome === "done" ? "extended" : outcome;
    },
    deadLetter: async (claim, reason, error, options) => {
      const checked = parse(reasonSchema, reason, "reason");
      const outcome = await core.bury(await core.db(txOf(options)), claim, checked, error);
      return outcome === "done" ? "dead_lettered" : outcome;
    },
    reply: async (claim, content, options) => {
      const { tx, ...envelope } = given(options);
      const nth = (replies.get(claim) ?? 0) + 1;
      const task = claim.messageType === MessageType.TASK_ASSIGNMENT;
      const sent = await send(
        {
          messageId: replyId(claim.messageId, nth),
          messageType: task ? MessageType.TASK_RESPONSE : MessageType.RESPONSE,
          correlationId: claim.correlationId ?? claim.messageId,
          causationId: claim.messageId,
          contextId: claim.contextId ?? undefined,
          taskId: claim.taskId ?? undefined,
          ...envelope,
          fromAgent: claim.toAgent,
          toAgent: claim.replyTo ?? claim.fromAgent,
          content,
        },
        { tx, causedBy: claim },
      );
      replies.set(claim, nth);
      return sent;
    },
  };
}

/** The transaction of a call that takes no other option. */
export function txOf(options: TxOption): Knex.Transaction | undefined {
  const { tx, ...rest } = given(options);
  noMore(rest);
  return tx;
}

/** `response-<id>`, `response-<id>-2`, …; hashed where that would be too long for an id. */
function replyId(messageId: string, nth: number): string {
  const plain = `response-${messageId}${nth === 1 ? "" : `-${nth}`}`;
  return plain.length <= 128
    ? plain
    : `response-${createHash("sha256").update(plain).digest("hex")}`;
}
