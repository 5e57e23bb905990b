import { errorRecord } from "../../errors.ts";
import { LagStore } from "../../store/lag.ts";
import type { QueueCore } from "../core.ts";
import { CONVERSATION_MS, positive, STEPS, type UpkeepCounts, type UpkeepStep } from "./steps.ts";

export type { UpkeepCounts, UpkeepStep } from "./steps.ts";

/**
 * By how many milliseconds the oldest of what is to be done is overdue; 0: nothing is. Null: not told of one mailbox
 * alone.
 */
export interface UpkeepLag {
  /** Expired, and not moved to the dead letters yet. */
  expiredMs: number | null;
  /** Due, and not made ready yet; of the first 100 mailboxes with scheduled messages. */
  dueMs: number;
  /** Its lease has passed, and nobody claimed it again; of the first 10,000 ready messages. */
  leaseMs: number;
  /** A schedule that was not fired. */
  schedulesMs: number | null;
  /** Kept longer than they are to be kept. */
  archiveMs: number | null;
  dedupeMs: number | null;
  inboxMs: number | null;
  deadLettersMs: number | null;
  conversationsMs: number | null;
}

/** A step that failed; the others were taken all the same. */
export interface UpkeepFailure {
  readonly step: UpkeepStep;
  readonly code: string;
  readonly message: string;
}

/** What the steps of one round did. */
interface Steps extends UpkeepCounts {
  /** Some step did not get to its end: a further round has something to do, or to look at. */
  more: boolean;
  failed: UpkeepFailure[];
}

interface RoundOptions {
  /** Only these steps. Default: all. */
  readonly steps?: readonly UpkeepStep[] | undefined;
  /** Asked between two steps. */
  readonly stopped?: (() => boolean) | undefined;
}

interface Round {
  readonly report: Steps;
  /** Steps that did as much as they may at once. */
  readonly unfinished: UpkeepStep[];
  /** Steps that did something, soon will, or failed. */
  readonly busy: UpkeepStep[];
  /** What was thrown first, where every step failed. */
  readonly error: unknown;
}

export const ALL_STEPS = Object.keys(STEPS) as readonly UpkeepStep[];

/** The last failure of each step, so that each is told of once and not every five seconds. */
const told = new WeakMap<QueueCore, Map<UpkeepStep, string>>();

/** One bounded round. Any process may run it at any time beside any other: each row goes once. */
export async function upkeepRound(
  core: QueueCore,
  { steps = ALL_STEPS, stopped = () => false }: RoundOptions = {},
): Promise<Round> {
  core.payloads.sweepInTurn();
  const report: Steps = { ...NOTHING, more: false, failed: [] };
  const unfinished: UpkeepStep[] = [];
  const busy: UpkeepStep[] = [];
  const errors: unknown[] = [];
  let taken = 0;
  for (const step of steps) {
    if (core.closed || stopped()) break;
    taken += 1;
    try {
      const result = await STEPS[step](core);
      if (result === undefined) {
        taken -= 1;
        continue;
      }
      const { counts, more, busy: soon = false } = result;
      for (const [name, count] of Object.entries(counts)) {
        report[name as keyof UpkeepCounts] += count;
      }
      if (more) report.more = true;
      const did = Object.values(counts).some((count) => count > 0);
      if (did || soon) busy.push(step);
      if (more && did) unfinished.push(step);
      told.get(core)?.delete(step);
    } catch (error) {
      errors.push(error);
      busy.push(step);
      const { code, message } = errorRecord(error);
      report.failed.push({ step, code, message });
      tell(core, step, code, message);
    }
  }
  const [error] = taken > 0 && errors.length === taken ? errors : [];
  return { report, unfinished, busy, error };
}

/** What one round did, and how far upkeep is behind after it; null where that could not be told. */
export interface UpkeepReport extends Steps {
  lag: UpkeepLag | null;
}

export async function upkeep(core: QueueCore): Promise<UpkeepReport> {
  const { report, error } = await upkeepRound(core);
  // Nothing could be done at all: that is no report but a failure.
  if (error !== undefined) throw error;
  const lag = async () => upkeepLag(core, await core.upkeep.lapsedMs());
  return { ...report, lag: await lag().catch(() => null) };
}

export async function upkeepLag(core: QueueCore, leaseMs: number): Promise<UpkeepLag> {
  const { knex, dialect, options } = core;
  const overdue = await new LagStore(knex, dialect, options.prefix).overdue({
    archive: positive(options.archiveRetentionMs),
    deadLetters: positive(options.deadLetterRetentionMs),
    inbox: positive(options.inboxRetentionMs),
    conversations: CONVERSATION_MS,
  });
  return {
    expiredMs: overdue.expired,
    dueMs: overdue.due,
    leaseMs,
    schedulesMs: overdue.schedules,
    archiveMs: overdue.archive,
    dedupeMs: overdue.dedupe,
    inboxMs: overdue.inbox,
    deadLettersMs: overdue.deadLetters,
    conversationsMs: overdue.conversations,
  };
}

/** What of it can be told of one mailbox. */
export async function mailboxLag(
  core: QueueCore,
  agentId: string,
  leaseMs: number,
): Promise<UpkeepLag> {
  const { knex, dialect, options } = core;
  const dueMs = await new LagStore(knex, dialect, options.prefix).dueOf(agentId);
  const rest = { expiredMs: null, schedulesMs: null, archiveMs: null, dedupeMs: null };
  return {
    ...rest,
    ...{ inboxMs: null, deadLettersMs: null, conversationsMs: null, dueMs, leaseMs },
  };
}

function tell(core: QueueCore, step: UpkeepStep, code: string, message: string): void {
  const known = told.get(core) ?? new Map<UpkeepStep, string>();
  told.set(core, known);
  if (known.get(step) === code) return;
  known.set(step, code);
  core.observers.emit([
    {
      type: "error",
      agentId: core.options.agentId,
      errorType: code,
      errorMessage: `upkeep of ${step}: ${message}`,
      at: Date.now(),
      data: { during: "upkeep", step },
    },
  ]);
}

const NOTHING: UpkeepCounts = {
  expired: 0,
  promoted: 0,
  archivePurged: 0,
  dedupePurged: 0,
  inboxPurged: 0,
  deadLettersPurged: 0,
  conversationsPurged: 0,
  consumersPurged: 0,
  keysRepaired: 0,
  turnsForgotten: 0,
  slotsFreed: 0,
  limitsForgotten: 0,
  schedulesFired: 0,
  vacuumed: 0,
};
