import type { Db, Dialect } from "./dialect.ts";
import { parseText } from "./rows.ts";
import { type Row, translated } from "./sql.ts";

/** The retry document of a mailbox, else of the row that speaks for all mailboxes; null where neither has one. */
export async function mailboxRetry(
  dialect: Dialect,
  db: Db,
  table: string,
  agentId: string,
): Promise<unknown> {
  return translated(dialect, async () => {
    const rows = (await db(table)
      .select("agent_id", "retry")
      .whereIn("agent_id", [agentId, ""])
      .whereNotNull("retry")) as Row[];
    const own = rows.find((row) => row.agent_id === agentId) ?? rows[0];
    return own === undefined ? null : parseText(own.retry);
  });
}
