import type { Knex } from "knex";
import type { MessageQueueManager } from "../../lib/index.ts";
import { dialectFor } from "../../lib/store/dialects.ts";
import type { TestDatabase } from "../support/databases.ts";
import { elapse, note } from "../support/queue.ts";

/** Makes that many dead letters of a mailbox, the quickest way there is: they expire. Returns their ids in order. */
export async function bulkDead(
  queue: MessageQueueManager,
  database: TestDatabase,
  to: string,
  count: number,
): Promise<string[]> {
  const batch = Array.from({ length: count }, (_, n) => ({ ...note(to, { n }), ttlMs: 1 }));
  const sent = await queue.sendMessages(batch);
  await elapse(database.knex(), 10_000);
  const dialect = dialectFor(database.dialect, "outbox_");
  while ((await dialect.buryExpired(database.knex(), 500)).length > 0);
  return sent.map(({ messageId }) => messageId);
}

/** One dead letter with an error of its own. */
export async function deadWith(
  queue: MessageQueueManager,
  to: string,
  error: Error,
  options: { messageType?: string; fromAgent?: string; reason?: string; content?: object } = {},
): Promise<string> {
  const { reason = "rejected", ...message } = options;
  const { messageId } = await queue.sendMessage({ ...note(to), ...message });
  const [claim] = await queue.getMessages(to, { limit: 1 });
  await claim?.deadLetter(reason, { error });
  return messageId;
}

/** The ids of all live messages of a mailbox, leased and scheduled ones too. */
export async function liveIds(knex: Knex, to: string): Promise<string[]> {
  const rows: { message_id: string }[] = await knex("outbox_messages")
    .select("message_id")
    .where({ to_agent: to })
    .orderBy("seq");
  return rows.map(({ message_id }) => message_id);
}

export async function deadIds(knex: Knex, to: string): Promise<string[]> {
  const rows: { message_id: string }[] = await knex("outbox_dead_letters")
    .select("message_id")
    .where({ to_agent: to })
    .orderBy("seq");
  return rows.map(({ message_id }) => message_id);
}
