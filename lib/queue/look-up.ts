import type { Db } from "../store/dialect.ts";
import { doomOf } from "../store/envelope-columns.ts";
import { int, type Row } from "../store/sql.ts";
import type { QueueCore } from "./core.ts";
import {
  archivedMessage,
  completed,
  deadLetter,
  liveMessage,
  type StoredMessage,
} from "./stored.ts";

/** The message wherever it is: among the live, the dead or the finished. */
export async function findMessage(
  core: QueueCore,
  db: Db,
  messageId: string,
): Promise<StoredMessage | null> {
  const json = core.store.parseJson;
  const [live] = await core.store.live(db, messageId);
  if (live !== undefined) {
    return completed(core, liveMessage(live, json, await core.store.now(db)), live, true);
  }
  const [dead] = await core.dead.get(db, messageId);
  if (dead !== undefined) return completed(core, deadLetter(dead, json), dead, true);
  const [done] = await core.store.archived(db, messageId);
  return done === undefined ? null : completed(core, archivedMessage(done, json), done, true);
}

/** The row of a claim: of the one with this receipt, or of the one that the agent holds now. */
export async function heldRow(
  core: QueueCore,
  db: Db,
  messageId: string,
  agentId: string,
  receipt: number | undefined,
): Promise<Row | undefined> {
  if (receipt === undefined) return core.store.heldBy(db, messageId, agentId);
  const rows = await core.store.live(db, messageId);
  return rows.find(
    (live) =>
      live.to_agent === agentId && int(live.receipt) === receipt && doomOf(live.worker_id) === null,
  );
}
