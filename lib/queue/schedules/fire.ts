import type { Knex } from "knex";
import { errorRecord } from "../../errors.ts";
import { type EncodedMessage, encode } from "../../protocol/envelope.ts";
import { firing } from "../../protocol/schedules.ts";
import { type DueSchedule, type ScheduleRow, ScheduleStore } from "../../store/schedules.ts";
import type { QueueCore } from "../core.ts";
import { storedError } from "../retries/failure.ts";

/** What wakes those who fire schedules when one was set: a mailbox to which nobody sends. */
export const SCHEDULES_CHANGED = "!schedules";

export function storeOf({ knex, dialect, options }: QueueCore): ScheduleStore {
  return new ScheduleStore(knex, dialect, options.prefix);
}

/** The id says for which due time it is, so that one can never be sent twice, whatever becomes of the row. */
export function messageOf({ name, message }: Pick<ScheduleRow, "name" | "message">, dueAt: number) {
  const due = new Date(dueAt).toISOString();
  const headers = message.headers as Record<string, string> | undefined;
  return {
    ...message,
    messageId: `${name}@${due}`,
    headers: { ...headers, schedule: name, schedule_due_at: due },
  };
}

/** The same message whichever process sends it, but for the defaults of its queue. */
export function encoded({ options }: QueueCore, message: object): EncodedMessage {
  return encode(message, {
    fromAgent: options.agentId,
    maxAttempts: options.retryPolicy.maxAttempts,
    retryPolicies: options.retryPolicies,
    maxMessageBytes: options.maxMessageBytes,
    maxContentBytes: options.claimCheck?.maxBytes,
    loops: options,
  });
}

export interface FiredSchedules {
  /** Due times that were fired. */
  readonly fired: number;
  /** Milliseconds until the next one is to be looked at; null when there is none. */
  readonly nextInMs: number | null;
}

/** After a failure it is tried again a second later, then two, four, … up to a minute. */
const LONGEST_POSTPONE_MS = 60_000;
/** Another process is at it; its next due time is not known here. */
const LOOK_AFTER_OTHER_MS = 1_000;

/**
 * Fires schedules that are due, at most `limit` of them, each in a transaction of its own: its messages and its
 * next due time are committed together. Any number of processes may do it at once.
 */
export async function fireDueSchedules(core: QueueCore, limit: number): Promise<FiredSchedules> {
  const store = storeOf(core);
  const tried = new Set<string>();
  let fired = 0;
  let nextAt = Number.POSITIVE_INFINITY;
  const expect = (inMs: number) => {
    nextAt = Math.min(nextAt, performance.now() + inMs);
  };
  const look = async (): Promise<DueSchedule[]> => {
    const upcoming = await store.upcoming(limit);
    const due = upcoming.filter(({ dueInMs }) => dueInMs <= 0);
    const later = upcoming[due.length];
    if (later !== undefined) expect(later.dueInMs);
    else if (upcoming.length === limit) expect(0);
    // Not all in one order: processes that come at once would all be after the same one each time.
    return shuffled(due.filter(({ name }) => !tried.has(name)));
  };
  let waiting = await look();
  while (!core.closed) {
    const schedule = waiting.pop();
    if (schedule === undefined) break;
    if (tried.size >= limit) {
      expect(0);
      break;
    }
    tried.add(schedule.name);
    try {
      const done = await store.fire(schedule.name, (trx, row) => send(core, trx, row));
      fired += done?.dues.length ?? 0;
      if (done === undefined) {
        // Another process is at work: what it has done already need not be tried.
        waiting = await look();
        expect(LOOK_AFTER_OTHER_MS);
      } else if (done.next !== null) {
        expect(done.next - done.now);
      }
    } catch (error) {
      expect(await postpone(core, store, schedule, error));
    }
  }
  const wait = nextAt - performance.now();
  return { fired, nextInMs: wait === Number.POSITIVE_INFINITY ? null : Math.max(0, wait) };
}

function shuffled<T>(items: T[]): T[] {
  for (let n = items.length - 1; n > 0; n--) {
    const other = Math.floor(Math.random() * (n + 1));
    [items[n], items[other]] = [items[other] as T, items[n] as T];
  }
  return items;
}

async function send(core: QueueCore, trx: Knex, row: ScheduleRow) {
  const plan = firing(row, row, row.nextRunAt ?? row.now, row.now);
  const messages = plan.dues.map((due) => encoded(core, messageOf(row, due)));
  const sent = messages.length === 0 ? [] : await core.send(trx, messages);
  return { ...plan, messageId: sent.at(-1)?.messageId ?? null };
}

/** What fails holds up no other schedule; the due time stays, so that nothing is lost when the cause is mended. */
async function postpone(
  core: QueueCore,
  store: ScheduleStore,
  schedule: DueSchedule,
  thrown: unknown,
): Promise<number> {
  const { code, message } = errorRecord(thrown);
  const delayMs = Math.min(LONGEST_POSTPONE_MS, 1_000 * 2 ** Math.min(schedule.failures, 10));
  await store.postpone(schedule, storedError({ code, message }), delayMs);
  core.observers.emit([
    {
      type: "error",
      agentId: core.options.agentId,
      errorType: code,
      errorMessage: `schedule ${schedule.name}: ${message}`,
      at: Date.now(),
      data: { schedule: schedule.name, failures: schedule.failures + 1 },
    },
  ]);
  return delayMs;
}
