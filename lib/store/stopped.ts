import { randomUUID } from "node:crypto";
import type { EncodedMessage } from "../protocol/envelope.ts";
import type { BrakeReason } from "../protocol/loops.ts";
import type { Db, Dialect, NewMessage } from "./dialect.ts";
import { DOOM_PREFIX } from "./envelope-columns.ts";
import { int, type Row } from "./sql.ts";

/** Why a message becomes a dead letter at once. */
export interface Stop {
  readonly reason: BrakeReason;
  /** JSON text. */
  readonly error: string;
  readonly fingerprint: string;
}

/** Keeps messages from being delivered. */
export interface Brakes {
  /** Which of the messages that are about to be stored become dead letters, in the transaction that stores them. */
  stop(trx: Db, messages: readonly EncodedMessage[]): Promise<ReadonlyMap<EncodedMessage, Stop>>;
}

/** Rows per statement. */
const STEP = 500;

/**
 * Stores messages as dead letters. They get their place in the sequence from the live table, and leave it in the same
 * transaction, so that nobody ever sees them there: a dead letter is redriven and counted by its sequence.
 */
export async function storeStopped(
  dialect: Dialect,
  prefix: string,
  trx: Db,
  stopped: readonly { readonly row: NewMessage; readonly stop: Stop }[],
): Promise<void> {
  const messages = `${prefix}messages`;
  for (let n = 0; n < stopped.length; n += STEP) {
    const some = stopped.slice(n, n + STEP);
    // Tells the new rows from others of the same id.
    const lane = DOOM_PREFIX + randomUUID();
    await dialect.insertMessages(
      trx,
      some.map(({ row }) => ({ ...row, lane })),
    );
    const ids = [...new Set(some.map(({ row }) => row.message_id))];
    const rows = (await trx(messages)
      .select("seq", "message_id", "from_agent", "to_agent")
      .whereIn("message_id", ids)
      .where({ lane })) as Row[];
    const seqs = rows.map(({ seq }) => int(seq));
    await trx(messages)
      .whereIn("seq", seqs)
      .update({ worker_id: `${DOOM_PREFIX}stopped` });
    await dialect.bury(
      trx,
      rows.map((row) => ({ seq: int(row.seq), receipt: 0, ...stopOf(row, some) })),
    );
    // Nobody has had it.
    await trx(`${prefix}dead_letters`).whereIn("seq", seqs).update({ worker_id: null });
  }
}

function stopOf(
  row: Row,
  stopped: readonly { readonly row: NewMessage; readonly stop: Stop }[],
): Stop {
  const found = stopped.find(
    (one) =>
      one.row.message_id === row.message_id &&
      one.row.from_agent === row.from_agent &&
      one.row.to_agent === row.to_agent,
  );
  if (found === undefined) throw new Error("a message was stored that nobody sent");
  return found.stop;
}
