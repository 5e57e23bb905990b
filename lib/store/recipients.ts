import type { Db, Dialect } from "./dialect.ts";
import { type Row, translated } from "./sql.ts";

/** Agents of one statement. */
const PAGE = 1_000;

interface PresentPage {
  /** Only of this role. */
  readonly role?: string | undefined;
  /** Continue after this id. */
  readonly after: string;
  readonly limit: number;
}

/** Ids of agents that are there to listen (neither offline nor marked as lost), in their order. */
export async function presentPage(
  db: Db,
  prefix: string,
  { role, after, limit }: PresentPage,
): Promise<string[]> {
  const agents = db(`${prefix}agents`)
    .select("agent_id")
    .whereRaw("lost_at IS NULL AND status NOT IN ('offline', 'removed')")
    .where("agent_id", ">", after)
    .orderBy("agent_id")
    .limit(limit);
  if (role !== undefined) agents.where({ role });
  return ((await agents) as Row[]).map((row) => String(row.agent_id));
}

/** All of them, of one role or of every role. */
export async function present(
  db: Db,
  dialect: Dialect,
  prefix: string,
  role?: string,
): Promise<string[]> {
  return translated(dialect, async () => {
    const found: string[] = [];
    for (;;) {
      const page = await presentPage(db, prefix, {
        ...{ role, after: found.at(-1) ?? "", limit: PAGE },
      });
      found.push(...page);
      if (page.length < PAGE) return found;
    }
  });
}
