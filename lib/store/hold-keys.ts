import type { Db, DedupeKey } from "./dialect.ts";
import type { Run } from "./prepared.ts";
import { query } from "./sql.ts";

/**
 * Takes dedupe keys with one statement of the dialect, and asks with the other, where some were not to be had,
 * which messages hold those.
 */
export async function holdKeys(
  db: Db,
  hold: string,
  held: string,
  keys: readonly DedupeKey[],
  often: Run = query,
): Promise<{ key: string; message_id: string }[]> {
  const taken = await often<{ dedupe_key: string }>(db, hold, { items: JSON.stringify(keys) });
  if (taken.length === keys.length) return [];
  const ours = new Set(taken.map((row) => row.dedupe_key));
  const others = keys.map(({ key }) => key).filter((key) => !ours.has(key));
  return query(db, held, { keys: JSON.stringify(others) });
}
