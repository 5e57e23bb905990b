import { z } from "zod";
import { checkCron, checkTimeZone, lastCrons, nextCron } from "./cron.ts";
import type { MessageInput } from "./message-input.ts";
import { durationMs, id, instant, parse, plainText, positiveInt } from "./validate.ts";

export const CATCH_UPS = ["latest", "all", "none"] as const;
/** What becomes of due times that passed while no worker ran. */
export type CatchUp = (typeof CATCH_UPS)[number];

/** With catchUp "none", a due time that is later than this many milliseconds is let go. */
const CATCH_UP_GRACE_MS = 60_000;

/** What a schedule sends: a message but for what each firing decides, its id and its time. */
export type ScheduledMessage = Omit<
  MessageInput,
  "messageId" | "delayMs" | "availableAt" | "expiresAt" | "timestamp"
>;

/** When a schedule is due: by a cron expression, or at fixed intervals. */
export type ScheduleTrigger =
  | {
      /**
       * Minute, hour, day of the month, month, day of the week, such as "0 9 * * MON-FRI"; six fields begin with
       * the second; or @hourly, @daily, @weekly, @monthly, @yearly.
       */
      cron: string;
      /** Whose clock the expression means: an IANA name such as "Europe/Rome". Default "UTC". */
      timeZone?: string | undefined;
      everyMs?: undefined;
    }
  | {
      /** Milliseconds from one due time to the next, 1,000 to ten years. The first is that long after it was set, or `startAt`. */
      everyMs: number;
      cron?: undefined;
      timeZone?: undefined;
    };

export interface ScheduleOptions {
  /**
   * What becomes of due times that passed while no worker ran. "latest": one message, for the newest of them.
   * "all": one for each, the newest `maxCatchUp` of them. "none": only the newest, unless it is a minute late or
   * more. Default "latest".
   */
  catchUp?: CatchUp | undefined;
  /** With "all": no more than this many missed due times are made up for, 1 to 1,000. Default 100. */
  maxCatchUp?: number | undefined;
  /** Not due before this instant; intervals count from it. Default: from now on. */
  startAt?: Date | string | number | undefined;
  /** Not due after this instant. Default: no end. */
  endAt?: Date | string | number | undefined;
  /** True: paused from the start; false: not paused any longer. Default: as it is, and not paused when new. */
  paused?: boolean | undefined;
}

/** Its length leaves room for the due time in the message's id. */
export const scheduleName = id.refine((name) => name.length <= 100, {
  message: "expected at most 100 characters",
});

const triggerSchema = z
  .strictObject({
    cron: plainText(255).min(1, "expected a cron expression").optional(),
    timeZone: plainText(64).min(1, "expected the name of a time zone").optional(),
    everyMs: durationMs(1_000).optional(),
  })
  .refine(({ cron, everyMs }) => (cron === undefined) !== (everyMs === undefined), {
    message: "give cron or everyMs, one of them",
  })
  .refine(({ timeZone, everyMs }) => timeZone === undefined || everyMs === undefined, {
    message: "intervals are the same in every time zone: give timeZone with cron only",
    path: ["timeZone"],
  });

export const scheduleOptionsSchema = z
  .strictObject({
    catchUp: z.enum(CATCH_UPS).default("latest"),
    maxCatchUp: positiveInt(1_000).default(100),
    startAt: instant.optional(),
    endAt: instant.optional(),
    paused: z.boolean().optional(),
  })
  .refine(({ startAt = 0, endAt = Number.POSITIVE_INFINITY }) => startAt <= endAt, {
    message: "ends before it starts",
    path: ["endAt"],
  });

export const scheduleListSchema = z.strictObject({
  /** The most to return, 1 to 1,000. Default 100. */
  limit: positiveInt(1_000).default(100),
  /** Continue after this name. */
  after: scheduleName.optional(),
});

export const schedulePauseSchema = z.strictObject({
  /** Shown in the listing. */
  reason: plainText(1_024).optional(),
});

export const previewCount = positiveInt(1_000);

/** When a schedule is due, checked. Exactly one of cron and everyMs is set, and timeZone with cron. */
export interface Timing {
  readonly cron: string | null;
  readonly timeZone: string | null;
  readonly everyMs: number | null;
  readonly startAt: number | null;
  readonly endAt: number | null;
}

/** @throws ValidationFailed saying which field of the expression is wrong, or which zone was meant */
export function checkedTrigger(value: unknown): Pick<Timing, "cron" | "timeZone" | "everyMs"> {
  const { cron, timeZone, everyMs } = parse(triggerSchema, value, "trigger");
  if (cron === undefined) return { cron: null, timeZone: null, everyMs: everyMs ?? null };
  const zone = timeZone ?? "UTC";
  checkTimeZone(zone, "trigger.timeZone");
  checkCron(cron, "trigger.cron");
  return { cron: cron.trim(), timeZone: zone, everyMs: null };
}

/** The first due time after an instant; null when there is none. `anchor` is any due time of an interval. */
export function dueAfter(timing: Timing, anchor: number, afterMs: number): number | null {
  const { cron, timeZone, everyMs, startAt, endAt } = timing;
  const from = Math.max(afterMs, (startAt ?? 0) - 1);
  const next =
    cron === null
      ? anchor + Math.max(0, Math.floor((from - anchor) / (everyMs ?? 1)) + 1) * (everyMs ?? 1)
      : nextCron(cron, timeZone ?? "UTC", from);
  return next === null || next > (endAt ?? Number.POSITIVE_INFINITY) ? null : next;
}

/** The first due time of a schedule that is set now. What lies before now is not made up for. */
export function firstDue(timing: Timing, now: number): number | null {
  const { startAt, everyMs } = timing;
  return dueAfter(timing, startAt ?? now + (everyMs ?? 0), now);
}

/** Up to `count` due times after now, for people to look at. */
export function preview(timing: Timing, anchor: number, now: number, count: number): number[] {
  const dues: number[] = [];
  for (let at = now; dues.length < count; ) {
    const next = dueAfter(timing, anchor, at);
    if (next === null) break;
    dues.push(next);
    at = next;
  }
  return dues;
}

/** What is to be done about a schedule that is due. */
export interface Firing {
  /** The due times to send a message for, the oldest first. */
  readonly dues: readonly number[];
  /** Due times that passed and get none; counted to SKIPPED_COUNTED. */
  readonly skipped: number;
  /** The next due time; in the past when more are to be made up for. Null: there is none. */
  readonly next: number | null;
}

/** Messages of one step, so that no transaction gets long. */
const MOST_AT_ONCE = 100;
/** Further let-go due times are not counted: their number must not cost anything. */
const SKIPPED_COUNTED = 1_000;

/** Decides which due times from `due` to now are sent, by the schedule's policy. */
export function firing(
  timing: Timing,
  policy: { readonly catchUp: CatchUp; readonly maxCatchUp: number },
  due: number,
  now: number,
): Firing {
  const until = Math.min(now, timing.endAt ?? Number.POSITIVE_INFINITY);
  const wanted = policy.catchUp === "all" ? policy.maxCatchUp : 1;
  const recent = lastDues(timing, due, until, wanted);
  const kept =
    policy.catchUp === "none" ? recent.filter((at) => now - at < CATCH_UP_GRACE_MS) : recent;
  const dues = kept.slice(0, MOST_AT_ONCE);
  // What is kept and does not fit is due already, and goes with the next step.
  const next = kept[MOST_AT_ONCE] ?? dueAfter(timing, due, now);
  return { dues, skipped: skippedBefore(timing, due, kept[0] ?? until + 1), next };
}

/** The last due times from `due` to `until`, at most so many; the oldest first. */
function lastDues(timing: Timing, due: number, until: number, most: number): number[] {
  const { cron, timeZone, everyMs } = timing;
  if (cron !== null) {
    return lastCrons(cron, timeZone ?? "UTC", until, most).filter((at) => at >= due);
  }
  const step = everyMs ?? 1;
  const count = Math.floor((until - due) / step) + 1;
  const first = Math.max(0, count - most);
  return Array.from({ length: Math.max(0, count - first) }, (_, n) => due + (first + n) * step);
}

function skippedBefore(timing: Timing, due: number, firstKept: number): number {
  let skipped = 0;
  let at: number | null = due;
  while (at !== null && at < firstKept && skipped < SKIPPED_COUNTED) {
    skipped++;
    at = dueAfter(timing, due, at);
  }
  return skipped;
}
