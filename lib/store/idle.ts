import type { Db, Dialect } from "./dialect.ts";
import { int, intOrNull, type Row, translated } from "./sql.ts";

/** Messages in flight that one look counts. With more the mailbox is not idle, and is looked into as ever. */
const LOOKED_AT = 100;

/**
 * Milliseconds until a claim might find something in this mailbox, 0 when it might now: a message falls due, or
 * the lease of one in flight passes. Null when nothing is known to come: whatever is sent, wakes. One cheap read.
 */
export async function nothingForMs(
  db: Db,
  dialect: Dialect,
  prefix: string,
  agentId: string,
): Promise<number | null> {
  const messages = `${prefix}messages`;
  const ready = db(messages)
    .select("visible_at")
    .where({ to_agent: agentId })
    // Literals, so that the indexes of the ready and of the scheduled ones may be used.
    .whereRaw("state = 0")
    .orderBy(["lane", "rank", "seq"])
    .limit(LOOKED_AT)
    .as("x");
  const due = db(messages)
    .min("due_at")
    .where({ to_agent: agentId })
    .whereRaw("state = 1")
    .as("due");
  const row = await translated(dialect, async () => {
    return (await db
      .from(ready)
      .min({ free: "x.visible_at" })
      .count({ found: "*" })
      .select(due, db.raw(`${dialect.now} AS now`))
      .first()) as unknown as Row;
  });
  const now = int(row.now);
  const soon = [intOrNull(row.free), intOrNull(row.due)]
    .filter((at) => at !== null)
    .map((at) => Math.max(0, at - now));
  // What lies behind them only a claim can tell.
  if (int(row.found) === LOOKED_AT) return 0;
  return soon.length === 0 ? null : Math.min(...soon);
}
