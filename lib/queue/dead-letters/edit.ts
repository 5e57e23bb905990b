import { AgentCommunicationError, ValidationFailed } from "../../errors.ts";
import {
  type DeadLetterChanges,
  type DeadLetterEdit,
  type DeadLetterEditOptions,
  deadLetterChangesSchema,
  deadLetterEditSchema,
} from "../../protocol/dead-letters.ts";
import type { Headers } from "../../protocol/message-input.ts";

import { ownRetry, retryDocument } from "../../protocol/retry.ts";
import { kindOf, normalType } from "../../protocol/types.ts";
import { id, jsonDocument, parse } from "../../protocol/validate.ts";
import type { Row } from "../../store/sql.ts";
import type { QueueCore } from "../core.ts";
import { fieldsOf } from "../events.ts";
import { completed, type DeadLetter, deadLetter } from "../stored.ts";

export interface DeadLetterEdited {
  messageId: string;
  /** As it is now; null once it was sent again. */
  deadLetter: DeadLetter | null;
  replayed: boolean;
}

/** Columns whose values are taken as they are. */
const PLAIN = {
  kind: "kind",
  priority: "priority",
  maxAttempts: "max_attempts",
  subject: "subject",
  replyTo: "reply_to",
  correlationId: "correlation_id",
  causationId: "causation_id",
  contextId: "context_id",
  taskId: "task_id",
} as const;

export async function editDeadLetter(
  core: QueueCore,
  messageId: string,
  changes: DeadLetterChanges,
  options: DeadLetterEditOptions,
): Promise<DeadLetterEdited> {
  const message = parse(id, messageId, "messageId");
  const wanted = parse(deadLetterChangesSchema, changes, "changes");
  const chosen = parse(deadLetterEditSchema, options, "options");
  const { maxMessageBytes } = core.options;
  const { content, headers, messageType, ...rest } = wanted;
  const fixed: Row = {};
  if (content !== undefined) {
    fixed.content = jsonDocument(content, "changes.content", maxMessageBytes);
    // It stands for itself now, whatever stood for the old one.
    fixed.content_encoding = null;
  }
  if (messageType !== undefined) {
    const type = normalType(messageType);
    fixed.message_type = type.messageType;
    fixed.original_type = type.originalType;
    fixed.kind = kindOf(type.messageType);
  }
  for (const [name, column] of Object.entries(PLAIN)) {
    const value = rest[name as keyof typeof PLAIN];
    if (value !== undefined) fixed[column] = value;
  }
  const db = await core.db();
  const { agentId, sequence, replay, toAgent, delayMs } = chosen;
  const found = await core.dead.edit(
    { messageId: message, agentId, sequence },
    (row, now) => {
      const merged = mergedHeaders(core.store.parseJson(row.headers), headers, chosen, now);
      const { policy } = ownRetry(core.store.parseJson(row.retry));
      return {
        ...fixed,
        headers: jsonDocument(merged, "changes.headers", maxMessageBytes),
        // The number that a person gives is kept, as one that the sender gives.
        ...(rest.maxAttempts === undefined
          ? {}
          : { retry: retryDocument({ policy, fixed: true }) }),
      };
    },
    replay ? { toAgent, delayMs } : undefined,
  );
  const [row] = found;
  if (row === undefined) throw gone(message, chosen);
  if (found.length > 1) {
    throw new ValidationFailed(
      `options.agentId: there are several dead letters ${message}: say which is meant, by its mailbox or its sequence`,
      { details: { messageId: message } },
    );
  }
  if (!replay) {
    const letter = await completed(core, deadLetter(row, core.store.parseJson), row, true);
    return { messageId: message, deadLetter: letter, replayed: false };
  }
  const fields = fieldsOf(row as Parameters<typeof fieldsOf>[0]);
  const told = { ...fields, toAgent: toAgent ?? fields.toAgent };
  core.tell(db, "replayed", [told], "edited");
  if (delayMs === 0) core.signal(new Set([told.toAgent]));
  return { messageId: message, deadLetter: null, replayed: true };
}

function mergedHeaders(
  old: unknown,
  changes: Readonly<Record<string, Headers[string] | null>> | undefined,
  { by }: DeadLetterEdit,
  now: number,
): Headers {
  const merged: Record<string, Headers[string] | null> = {
    ...((old as Headers | null) ?? {}),
    ...changes,
    "x-edited-at": new Date(now).toISOString(),
    ...(by === undefined ? {} : { "x-edited-by": by }),
  };
  return Object.fromEntries(
    Object.entries(merged).filter((entry): entry is [string, Headers[string]] => entry[1] !== null),
  );
}

function gone(messageId: string, { sequence }: DeadLetterEdit): AgentCommunicationError {
  const which = sequence === undefined ? messageId : `${messageId} of sequence ${sequence}`;
  return new AgentCommunicationError(
    "UNKNOWN_MESSAGE",
    `there is no dead letter ${which}: it never failed, or was redriven or discarded meanwhile`,
    {
      details: { messageId, sequence },
      recoverySuggestion: `\`agent-outbox why ${messageId}\` tells where it is.`,
    },
  );
}
