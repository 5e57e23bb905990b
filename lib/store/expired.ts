import type { Knex } from "knex";
import type { Dialect } from "./dialect.ts";
import { DOOM_PREFIX, TOLD } from "./envelope-columns.ts";
import { int, type Row } from "./sql.ts";

/** Expired messages are one cause, whatever they were about. */
export const EXPIRED_FINGERPRINT = "expired";

/** How long an expired message of a key stays with whoever was about to bury it, in milliseconds. */
const CONDEMNED_MS = 3_000;

/**
 * Leases expired messages of keys that nobody holds to their end, like any other that is doomed: whoever dies after
 * that leaves a lease that passes. Returns them with the receipts that they have now.
 */
export async function condemnExpired(
  knex: Knex,
  { now }: Dialect,
  messages: string,
  limit: number,
): Promise<Row[]> {
  const unheld = `expires_at <= ${now} AND (worker_id IS NULL OR visible_at <= ${now})`;
  const found = (await knex(messages)
    .select([...TOLD, "receipt", "state", "ordering_key", "concurrency_key"])
    .whereRaw(`expires_at IS NOT NULL AND ${unheld}`)
    .whereRaw("(ordering_key IS NOT NULL OR concurrency_key IS NOT NULL)")
    .orderBy("expires_at")
    .limit(limit)) as Row[];
  const condemned: Row[] = [];
  for (const row of found) {
    const receipt = int(row.receipt) + 1;
    const taken = await knex(messages)
      .where({ seq: int(row.seq), receipt: receipt - 1 })
      .whereRaw(unheld)
      .update({
        worker_id: `${DOOM_PREFIX}expired`,
        receipt,
        visible_at: knex.raw(`${now} + ${CONDEMNED_MS}`),
      });
    if (taken > 0) condemned.push({ ...row, receipt });
  }
  return condemned;
}
