import type { Db, Dialect } from "./dialect.ts";
import { int, type Row } from "./sql.ts";

/** A mailbox with scheduled messages. */
export interface Scheduled {
  readonly agentId: string;
  /** For how long the first of them is due; below zero: it is not. */
  readonly overdueMs: number;
}

/** The next mailbox after this one that has scheduled messages: one step into the index, whatever lies in it. */
export async function nextScheduled(
  db: Db,
  dialect: Dialect,
  prefix: string,
  after: string,
): Promise<Scheduled | undefined> {
  const row = (await db(`${prefix}messages`)
    .select("to_agent", "due_at", db.raw(`${dialect.now} AS now`))
    // A literal, so that the index of the scheduled ones may be used.
    .whereRaw("state = 1")
    .where("to_agent", ">", after)
    .orderBy(["to_agent", "due_at"])
    .first()) as Row | undefined;
  if (row === undefined) return undefined;
  return { agentId: String(row.to_agent), overdueMs: int(row.now) - int(row.due_at) };
}

/** The first messages of a mailbox that are due and not ready yet. */
export async function dueOf(
  db: Db,
  dialect: Dialect,
  prefix: string,
  agentId: string,
  limit: number,
): Promise<number[]> {
  const rows = (await db(`${prefix}messages`)
    .select("seq")
    .where({ to_agent: agentId })
    .whereRaw(`state = 1 AND due_at <= ${dialect.now}`)
    .orderBy("due_at")
    .limit(limit)) as Row[];
  return rows.map(({ seq }) => int(seq));
}

/** How many of these are scheduled still. */
export async function countScheduled(
  db: Db,
  prefix: string,
  seqs: readonly number[],
): Promise<number> {
  const row = (await db(`${prefix}messages`)
    .whereIn("seq", [...seqs])
    // Not state = 1: old statistics make PostgreSQL read the whole index of the scheduled ones for it.
    .whereRaw("state >= 1 AND state <= 1")
    .count({ total: "*" })
    .first()) as unknown as Row;
  return int(row.total);
}
