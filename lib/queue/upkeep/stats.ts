import type { Db } from "../../store/dialect.ts";
import type { QueueCore } from "../core.ts";
import { consumersOf } from "./presence.ts";
import { mailboxLag, type UpkeepLag, upkeepLag } from "./upkeep.ts";

/** What `getQueueStats` tells of one mailbox, or of all together. */
export interface QueueStats {
  /** Ready to be handed out. */
  pending: number;
  scheduled: number;
  /** Behind the head of their ordering key. */
  blocked: number;
  leased: number;
  dead: number;
  /** True where a number stands for "at least 10,000": counting stops there, so that its cost is bounded. */
  capped: boolean;
  /** Of the pending ones that were counted; null when nothing is pending. */
  oldestAgeMs: number | null;
  /** Processed in the last minute, from the archive; 0 when it is switched off. */
  messagesPerMinute: number;
  paused: boolean;
  /** Who consumes and was seen within the last 45 seconds; at most 1,000 are counted. */
  consumers: number;
  /** How far upkeep is behind. */
  lag: UpkeepLag;
}

export async function queueStats(
  core: QueueCore,
  db: Db,
  agentId: string | null,
): Promise<QueueStats> {
  const { oldestCreatedAt, lapsedMs, ...depth } = await core.upkeep.depth(agentId);
  const now = await core.store.now();
  return {
    ...depth,
    oldestAgeMs: oldestCreatedAt === null ? null : Math.max(0, now - oldestCreatedAt),
    messagesPerMinute: await core.upkeep.throughput(agentId),
    consumers: (await consumersOf(core, agentId)).filter(({ live }) => live).length,
    lag: await (agentId === null ? upkeepLag(core, lapsedMs) : mailboxLag(core, agentId, lapsedMs)),
    paused: agentId !== null && (await core.upkeep.paused(db, agentId)) !== null,
  };
}
