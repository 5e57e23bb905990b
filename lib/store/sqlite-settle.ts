import type { ClaimKey, Db, Dialect } from "./dialect.ts";
import { ENVELOPE, list } from "./envelope-columns.ts";
import { seqs } from "./rows.ts";
import { query, retried, transaction } from "./sql.ts";
import { isOwn } from "./sqlite-begin.ts";
import { direct, ownTransaction, type RunWithin } from "./sqlite-direct.ts";

/** Sequence and receipt of each claim as one JSON document, whose keys and values need no second look. */
const receiptsAsJson = (claims: readonly ClaimKey[]): string =>
  `{${claims.map(({ seq, receipt }) => `"${seq}":${receipt}`).join()}}`;

/**
 * Differs from PostgreSQL: no writing CTE, so what a statement there returns is copied first and deleted then, inside
 * one transaction that holds the file's only write lock: what was copied is what is deleted.
 */
export function sqliteComplete(
  prefix: string,
  now: string,
  dialect: () => Dialect,
): Dialect["complete"] {
  const messages = `${prefix}messages`;
  const valid = `
    FROM json_each(:receipts) j CROSS JOIN ${messages} m
    WHERE m.seq = CAST(j.key AS INTEGER) AND m.receipt = j.value AND m.worker_id IS NOT NULL`;

  const ARCHIVE = `
    INSERT INTO ${prefix}archive (seq, ${list(ENVELOPE)}, outcome, worker_id, attempt, finished_at)
    SELECT m.seq, ${list(ENVELOPE, "m")}, 'processed', m.worker_id, m.attempt, ${now} ${valid}
    RETURNING seq`;
  const COMPLETE = `DELETE FROM ${messages} WHERE seq IN (SELECT m.seq ${valid}) RETURNING seq`;
  const DELETE_SEQS = `DELETE FROM ${messages} WHERE seq IN (SELECT value FROM json_each(:seqs))`;

  return async (db: Db, claims: readonly ClaimKey[], keep: boolean) => {
    const receipts = receiptsAsJson(claims);
    if (!keep) return seqs(await direct(db, COMPLETE, { receipts }));
    const move = async (run: RunWithin): Promise<number[]> => {
      const done = seqs(await run(ARCHIVE, { receipts }));
      await run(DELETE_SEQS, { seqs: JSON.stringify(done) });
      return done;
    };
    return isOwn(db)
      ? retried(dialect(), () => ownTransaction(db, move))
      : transaction(dialect(), db, (trx) => move((text, bindings) => query(trx, text, bindings)));
  };
}
