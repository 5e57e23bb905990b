import type { QueueCore } from "./core.ts";
import { fireDueSchedules } from "./schedule-fire.ts";

/** What one round of upkeep did. */
export interface UpkeepReport {
  expired: number;
  archivePurged: number;
  dedupePurged: number;
  /** Due times of schedules that were fired. */
  schedulesFired: number;
}

/** Rows per step and table: small enough to hold no lock for long, also on SQL Server. */
const STEP = 500;

/** Schedules per step: each is a transaction of its own. */
const SCHEDULES = 100;

/** One bounded round. Any process may run it at any time beside any other: each row goes once. */
export async function upkeep(
  core: QueueCore,
  { schedules = true }: { schedules?: boolean } = {},
): Promise<UpkeepReport> {
  const { archiveRetentionMs } = core.options;
  core.payloads.sweepInTurn();
  return {
    expired: await core.buryExpired(STEP),
    archivePurged:
      archiveRetentionMs > 0
        ? await core.upkeep.purgeArchive(archiveRetentionMs, STEP, (rows) =>
            core.payloads.releaseRows(core.knex, rows),
          )
        : 0,
    dedupePurged: await core.upkeep.purgeDedupe(STEP),
    schedulesFired: schedules ? (await fireDueSchedules(core, SCHEDULES)).fired : 0,
  };
}
