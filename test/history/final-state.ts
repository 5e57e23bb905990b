import type { Knex } from "knex";
import type { Effect, FinalMessage } from "./types.ts";

type Row = Record<string, unknown>;

/** Where every message lies now: live, finished or dead. */
export async function finalState(knex: Knex): Promise<FinalMessage[]> {
  const read = async (place: FinalMessage["place"], table: string) =>
    ((await knex(table).select("*")) as Row[]).map((row) => ({
      place,
      seq: Number(row.seq),
      messageId: String(row.message_id),
      mailbox: String(row.to_agent),
      messageType: String(row.message_type),
      attempt: Number(row.attempt),
      maxAttempts: number(row.max_attempts),
      receipt: number(row.receipt),
      outcome: text(row.outcome),
      reason: text(row.reason),
      redriven: number(row.redriven),
    }));
  return [
    ...(await read("live", "outbox_messages")),
    ...(await read("archive", "outbox_archive")),
    ...(await read("dead", "outbox_dead_letters")),
  ];
}

/** What handlers write in the transaction that acknowledges. */
export async function createEffects(knex: Knex): Promise<void> {
  await knex.schema.createTable("history_effects", (table) => {
    table.bigInteger("seq");
    table.bigInteger("receipt");
    table.string("message_id", 128);
    table.string("mailbox", 128);
  });
}

export async function readEffects(knex: Knex): Promise<Effect[]> {
  return ((await knex("history_effects").select("*")) as Row[]).map((row) => ({
    seq: Number(row.seq),
    receipt: Number(row.receipt),
    messageId: String(row.message_id),
    mailbox: String(row.mailbox),
  }));
}

export function number(value: unknown): number | null {
  return value === null || value === undefined ? null : Number(value);
}

export function text(value: unknown): string | null {
  return value === null || value === undefined ? null : String(value);
}
