import { countScheduled, dueOf, nextScheduled } from "../../store/due.ts";
import type { Limit } from "../../store/gate-rows.ts";
import { GateSettings } from "../../store/gate-settings.ts";
import { EVERY_MAILBOX } from "../../store/gates.ts";
import { type Kept, PurgeStore } from "../../store/purges.ts";
import { transaction, translated } from "../../store/sql.ts";
import { type KeyCursor, type SlotCursor, TidyStore } from "../../store/tidy.ts";
import type { QueueCore } from "../core.ts";
import { fireDueSchedules } from "../schedules/fire.ts";
import { vacuumTables } from "./vacuum.ts";

/** What upkeep does, each by itself. */
export interface UpkeepCounts {
  /** Expired messages that were moved to the dead letters. */
  expired: number;
  /** Due messages that no claim had made ready within a second; about, where several processes are at it. */
  promoted: number;
  /** Finished messages that were kept for `archiveRetentionMs`. */
  archivePurged: number;
  /** Dedupe keys whose window has passed. */
  dedupePurged: number;
  /** Notes of processed messages that were kept for `inboxRetentionMs`. */
  inboxPurged: number;
  /** Dead letters that were kept for `deadLetterRetentionMs`. */
  deadLettersPurged: number;
  /** Counts of conversations in which nothing was sent for a week. */
  conversationsPurged: number;
  /** Consumers that were not seen for a day. */
  consumersPurged: number;
  /** Messages that were let through because nothing of their key could move on by itself. */
  keysRepaired: number;
  /** Contexts that have no turn to wait for any more. */
  turnsForgotten: number;
  /** Slots of messages that are no more, or in other hands. */
  slotsFreed: number;
  /** Limits that were removed a day ago. */
  limitsForgotten: number;
  /** Due times of schedules that were fired. */
  schedulesFired: number;
  /** Tables in which the place of finished rows was made free again; PostgreSQL only. */
  vacuumed: number;
}

export type UpkeepStep =
  | "expired"
  | "due"
  | "archive"
  | "dedupe"
  | "inbox"
  | "dead_letters"
  | "conversations"
  | "consumers"
  | "keys"
  | "slots"
  | "limits"
  | "schedules"
  | "vacuum";

export interface StepResult {
  readonly counts: Partial<UpkeepCounts>;
  /** There is more to do, or to look at, now. */
  readonly more: boolean;
  /** Nothing was to be done, but soon will be. */
  readonly busy?: boolean;
}

/** Rows per step and table: small enough to hold no lock for long, also on SQL Server. */
const STEP = 500;
/** Schedules per step: each is a transaction of its own. */
const SCHEDULES = 100;
/** Mailboxes with scheduled messages that one step looks at. */
const MAILBOXES = 50;
/** What claims promote is promoted by them: a consumer looks more often than this. */
const OVERDUE_MS = 1_000;
const DAY_MS = 86_400_000;
/** A conversation in which nothing was sent for so long begins anew. */
export const CONVERSATION_MS = 7 * DAY_MS;

const FIRST_KEY: KeyCursor = { to_agent: "", kind: "", name: "" };
const FIRST_SLOT: SlotCursor = { name: "", seq: 0 };

/** Where this process's walks go on, so that each step looks at other rows than the one before. */
interface Cursors {
  mailbox: string;
  key: KeyCursor;
  slot: SlotCursor;
}

const cursors = new WeakMap<QueueCore, Cursors>();

function cursorsOf(core: QueueCore): Cursors {
  const known = cursors.get(core) ?? { mailbox: "", key: FIRST_KEY, slot: FIRST_SLOT };
  cursors.set(core, known);
  return known;
}

const tidyOf = ({ knex, dialect, options }: QueueCore) =>
  new TidyStore(knex, dialect, options.prefix);

type Step = (core: QueueCore) => Promise<StepResult | undefined>;

/** Every step, in the order in which they are taken. Undefined: the database was not even asked. */
export const STEPS: Readonly<Record<UpkeepStep, Step>> = {
  expired: async (core) => full("expired", await core.buryExpired(STEP)),
  due,
  archive: (core) =>
    purged(core, "archivePurged", "archive", positive(core.options.archiveRetentionMs), true),
  dedupe: (core) => purged(core, "dedupePurged", "dedupe", 0),
  inbox: (core) => purged(core, "inboxPurged", "inbox", positive(core.options.inboxRetentionMs)),
  dead_letters: deadLetters,
  conversations: (core) => purged(core, "conversationsPurged", "conversations", CONVERSATION_MS),
  consumers: (core) => purged(core, "consumersPurged", "consumers", DAY_MS),
  keys,
  slots,
  limits,
  schedules: async (core) => {
    const { fired, nextInMs } = await fireDueSchedules(core, SCHEDULES);
    return { counts: { schedulesFired: fired }, more: fired > 0 && nextInMs === 0 };
  },
  vacuum: async (core) => {
    const done = await vacuumTables(core);
    if (done === undefined) return undefined;
    return { counts: { vacuumed: done.count }, more: false, busy: done.growing };
  },
};

/** Undefined for what is kept for ever. */
export function positive(retentionMs: number): number | undefined {
  return retentionMs > 0 ? retentionMs : undefined;
}

function full(name: keyof UpkeepCounts, count: number): StepResult {
  return { counts: { [name]: count }, more: count >= STEP };
}

async function purged(
  core: QueueCore,
  name: keyof UpkeepCounts,
  kept: Kept,
  retentionMs: number | undefined,
  contents = false,
): Promise<StepResult> {
  if (retentionMs === undefined) return full(name, 0);
  const store = new PurgeStore(core.knex, core.dialect, core.options.prefix);
  const gone = contents
    ? (rows: Record<string, unknown>[]) => core.payloads.releaseRows(core.knex, rows)
    : undefined;
  return full(name, await store.purge(kept, retentionMs, STEP, gone));
}

async function deadLetters(core: QueueCore): Promise<StepResult> {
  const retentionMs = positive(core.options.deadLetterRetentionMs);
  if (retentionMs === undefined) return full("deadLettersPurged", 0);
  const count = await core.dead.purgeOld(retentionMs, STEP, (rows) =>
    core.payloads.releaseRows(core.knex, rows),
  );
  return full("deadLettersPurged", count);
}

/** Claims make due messages ready; where nobody claims, this does, so that what waits is seen to wait. */
async function due(core: QueueCore): Promise<StepResult> {
  const { knex, dialect, options } = core;
  const at = cursorsOf(core);
  let promoted = 0;
  for (let n = 0; n < MAILBOXES && promoted < STEP; n++) {
    const next = await translated(dialect, () =>
      nextScheduled(knex, dialect, options.prefix, at.mailbox),
    );
    if (next === undefined) {
      at.mailbox = "";
      return { counts: { promoted }, more: false };
    }
    const { agentId, overdueMs } = next;
    if (overdueMs > OVERDUE_MS) {
      const made = await translated(dialect, async () => {
        const waiting = await dueOf(knex, dialect, options.prefix, agentId, 2 * STEP);
        await transaction(dialect, knex, (trx) => dialect.gates.promote(trx, agentId));
        await core.gates.promoteShares(agentId);
        return waiting.length - (await countScheduled(knex, options.prefix, waiting));
      });
      if (made > 0) core.signal(new Set([agentId]));
      promoted += made;
      // It has more than one step could promote: the next one goes on here.
      if (made >= STEP) return { counts: { promoted }, more: true };
    }
    at.mailbox = agentId;
  }
  return { counts: { promoted }, more: true };
}

/** Keys that nobody's end will open: an outsider's DELETE can leave such behind. */
async function keys(core: QueueCore): Promise<StepResult> {
  const tidy = tidyOf(core);
  const at = cursorsOf(core);
  const seen = await tidy.keys(at.key);
  const last = seen.keys.at(-1);
  at.key = seen.more && last !== undefined ? last : FIRST_KEY;
  const idle = seen.keys.filter((key) => key.idle);
  const still = idle.filter(({ kind }) => !kind.startsWith("turn"));
  const opened = still.length === 0 ? [] : await tidy.openIdle(still);
  const shares = seen.keys.filter(({ kind, idle: still }) => kind === "share" && !still);
  if (shares.length > 0) await tidy.closeSurplus(shares);
  const halted = seen.keys.flatMap(({ haltedByNothing }) => haltedByNothing ?? []);
  if (halted.length > 0) await tidy.freeHalted(halted);
  const agents = seen.keys.flatMap((key) => (key.haltedByNothing === null ? [] : key.to_agent));
  if (opened.length + agents.length > 0) core.signal(new Set([...opened, ...agents]));
  await core.flow.forget(seen.keys.filter(({ kind }) => kind === "window" || kind === "depth"));
  const turns = idle.filter(({ kind }) => kind.startsWith("turn"));
  return {
    counts: {
      keysRepaired: opened.length + halted.length,
      turnsForgotten: turns.length === 0 ? 0 : await tidy.forgetTurns(turns),
    },
    more: seen.more,
  };
}

async function slots(core: QueueCore): Promise<StepResult> {
  const at = cursorsOf(core);
  const { freed, last, more } = await tidyOf(core).freeOrphans(at.slot);
  at.slot = more && last !== undefined ? last : FIRST_SLOT;
  return { counts: { slotsFreed: freed }, more };
}

/**
 * Forgets a removed limit when its lane is empty; then claims need not go through its gate any more. Those that have
 * to and do not are led back to it.
 */
async function limits(core: QueueCore): Promise<StepResult> {
  const tidy = tidyOf(core);
  const settings = new GateSettings(core.knex, core.dialect, core.options.prefix);
  const { removed, others } = await tidy.removedLimits(DAY_MS);
  let forgotten = 0;
  for (const limit of removed) {
    const moved = await emptied(tidy, limit, others);
    if (moved >= STEP) return { counts: { limitsForgotten: forgotten }, more: true };
    await settings.forgetLimit(limit.name);
    await settings.regate(limit.agentId ?? EVERY_MAILBOX);
    forgotten += 1;
  }
  const ungated = await tidy.ungated();
  for (const agentId of ungated) {
    await transaction(core.dialect, core.knex, (trx) => settings.gate(trx, agentId));
  }
  if (forgotten + ungated.length > 0) core.gates.known.forget();
  return { counts: { limitsForgotten: forgotten }, more: false };
}

/** Messages of mailboxes that have another limit of the type stay in its lane. */
async function emptied(tidy: TidyStore, limit: Limit, others: readonly Limit[]) {
  const { messageType, agentId } = limit;
  if (messageType === undefined) return 0;
  const same = others.filter((other) => other.messageType === messageType);
  const covered = same.some((other) => other.agentId === undefined || other.agentId === agentId);
  if (covered) return 0;
  const except = same.flatMap((other) => other.agentId ?? []);
  return tidy.emptyLane(messageType, agentId, agentId === undefined ? except : []);
}
