import { isDeepStrictEqual } from "node:util";
import type { Knex } from "knex";
import { ValidationFailed } from "../../errors.ts";
import { given } from "../../protocol/given.ts";
import {
  checkedTrigger,
  dueAfter,
  firstDue,
  preview,
  previewCount,
  type ScheduledMessage,
  type ScheduleOptions,
  type ScheduleTrigger,
  scheduleListSchema,
  scheduleName,
  scheduleOptionsSchema,
  schedulePauseSchema,
  type Timing,
} from "../../protocol/schedules.ts";
import { parse } from "../../protocol/validate.ts";
import { afterCommit } from "../../store/after-commit.ts";
import type {
  ScheduleChange,
  ScheduleDefinition,
  ScheduleRow,
  ScheduleStore,
} from "../../store/schedules.ts";
import type { Sent } from "../../store/sending.ts";
import type { TxOption } from "../claimed.ts";
import type { QueueCore } from "../core.ts";
import { txOf } from "../settler.ts";
import { encoded, messageOf, SCHEDULES_CHANGED, storeOf } from "./fire.ts";

/** A message that is sent again and again. Instants are milliseconds since the epoch, by the database's clock. */
export interface Schedule extends Omit<ScheduleRow, "message" | "now"> {
  /** What is sent; the firing adds the id and the headers `schedule` and `schedule_due_at`. */
  readonly message: ScheduledMessage;
  /** When it is due next; in the past while it is late. Null while it is paused, and when there is no further time. */
  readonly nextRunAt: number | null;
  /** The last due time that was sent; `lastFiredAt` is when that happened. */
  readonly lastRunAt: number | null;
  /** Due times that were sent, and those that the catch-up policy let go (counted to 1,000 per gap). */
  readonly runs: number;
  readonly skipped: number;
  /** How many firings failed since the last that did not, and why the last one did; it is tried again. */
  readonly failures: number;
  readonly lastError: { readonly code: string; readonly message: string } | null;
}

/** What `set` found and made. */
export type ScheduleOutcome = "created" | "updated" | "unchanged";

/** What the firing gives: nobody else may. */
const GIVEN_BY_FIRING = ["messageId", "delayMs", "availableAt", "expiresAt", "timestamp"];

/** Schedules of messages, stored in SQL and fired by whichever process comes first. */
export class Schedules {
  readonly #core: QueueCore;
  readonly #store: ScheduleStore;

  constructor(core: QueueCore) {
    this.#core = core;
    this.#store = storeOf(core);
  }

  /**
   * Makes a schedule, or changes the one of this name; repeating it changes nothing. The next due time stays
   * where it is unless the trigger, startAt or endAt change; then what lies before now is not made up for.
   *
   * @throws ValidationFailed, PayloadTooLarge; nothing is stored then
   */
  async set(
    name: string,
    trigger: ScheduleTrigger,
    message: ScheduledMessage,
    options: ScheduleOptions & TxOption = {},
  ): Promise<Schedule & { readonly outcome: ScheduleOutcome }> {
    const { tx, ...rest } = given(options);
    const checkedName = parse(scheduleName, name, "name");
    const { paused, startAt, endAt, ...policy } = parse(scheduleOptionsSchema, rest, "options");
    const definition: ScheduleDefinition = {
      ...checkedTrigger(trigger),
      startAt: startAt ?? null,
      endAt: endAt ?? null,
      message: this.#checked(checkedName, message),
      ...policy,
    };
    let outcome: ScheduleOutcome = "created";
    const schedule = await this.#change(checkedName, tx, (row, now) => {
      outcome = row === undefined ? "created" : "updated";
      if (row === undefined) {
        const nextRunAt = firstDue(definition, now);
        return { definition, nextRunAt, paused: paused === true ? { reason: null } : undefined };
      }
      const wasPaused = row.pausedAt !== null;
      if (sameDefinition(row, definition) && (paused ?? wasPaused) === wasPaused) {
        outcome = "unchanged";
        return undefined;
      }
      const resumed = wasPaused && paused === false;
      return {
        definition,
        nextRunAt: sameTiming(row, definition)
          ? resumed
            ? nextAfter(row, now)
            : row.nextRunAt
          : firstDue(definition, now),
        paused: paused === true ? { reason: row.pauseReason } : paused,
      };
    });
    return { ...schedule, outcome };
  }

  /** The schedules by name; `limit` 100 unless told, `after` a name to page on. */
  async list(options: { limit?: number; after?: string } = {}): Promise<Schedule[]> {
    const { limit, after } = parse(scheduleListSchema, options, "options");
    await this.#core.db();
    return (await this.#store.list(limit, after ?? "")).map(scheduleOf);
  }

  async get(name: string, options: TxOption = {}): Promise<Schedule | null> {
    const row = await this.#row(name, options);
    return row === undefined ? null : scheduleOf(row);
  }

  /** The next `count` due times after now (1 to 1,000, default 5), as if it were not paused. */
  async nextRuns(name: string, count = 5): Promise<number[]> {
    const most = parse(previewCount, count, "count");
    const row = await this.#known(name);
    return row.nextRunAt === null ? [] : preview(row, row.nextRunAt, row.now, most);
  }

  /** Fires no more until `resume`. What falls due meanwhile is not made up for. */
  async pause(name: string, options: { reason?: string } & TxOption = {}): Promise<Schedule> {
    const { tx, ...rest } = given(options);
    const { reason } = parse(schedulePauseSchema, rest, "options");
    return this.#change(name, tx, (row) => ({
      nextRunAt: found(row, name).nextRunAt,
      paused: { reason: reason ?? null },
    }));
  }

  /** Fires again, from the next due time after now on. */
  async resume(name: string, options: TxOption = {}): Promise<Schedule> {
    return this.#change(name, txOf(options), (row, now) =>
      found(row, name).pausedAt === null
        ? undefined
        : { nextRunAt: nextAfter(found(row, name), now), paused: false },
    );
  }

  /** Deletes it; what it has sent stays. False when there was none. */
  async remove(name: string, options: TxOption = {}): Promise<boolean> {
    const checked = parse(scheduleName, name, "name");
    return this.#store.remove(await this.#core.db(txOf(options)), checked);
  }

  /** Sends its message now, besides its due times, also while it is paused. */
  async runNow(name: string, options: TxOption = {}): Promise<Sent> {
    const db = await this.#core.db(txOf(options));
    const row = found(await this.#store.get(db, parse(scheduleName, name, "name")), name);
    const message = { ...messageOf(row, row.now), messageId: undefined };
    const [sent] = await this.#core.send(db, [encoded(this.#core, message)]);
    return sent as Sent;
  }

  async #row(name: string, options: TxOption = {}): Promise<ScheduleRow | undefined> {
    const checked = parse(scheduleName, name, "name");
    return this.#store.get(await this.#core.db(txOf(options)), checked);
  }

  async #known(name: string): Promise<ScheduleRow> {
    return found(await this.#row(name), name);
  }

  async #change(
    name: string,
    tx: Knex.Transaction | undefined,
    decide: (row: ScheduleRow | undefined, now: number) => ScheduleChange | undefined,
  ): Promise<Schedule> {
    const db = await this.#core.db(tx);
    const row = await this.#store.change(db, parse(scheduleName, name, "name"), decide);
    // It may be due before those who fire would look again.
    afterCommit(db, () => this.#core.signal(new Set([SCHEDULES_CHANGED])));
    return scheduleOf(row);
  }

  /** The message as it is stored: complete, whoever fires it, and known to be one that can be sent. */
  #checked(name: string, message: unknown): ScheduleDefinition["message"] {
    if (message === null || typeof message !== "object" || Array.isArray(message)) {
      throw new ValidationFailed("message: expected an object");
    }
    const fields = message as Record<string, unknown>;
    const refused = GIVEN_BY_FIRING.find((field) => fields[field] !== undefined);
    if (refused !== undefined) {
      throw new ValidationFailed(`message.${refused}: is given by each firing`, {
        recoverySuggestion: `Leave ${refused} out; for a message that expires give ttlMs.`,
      });
    }
    const complete = { fromAgent: this.#core.options.agentId, ...fields };
    encoded(this.#core, messageOf({ name, message: complete }, 0));
    return JSON.parse(JSON.stringify(complete)) as ScheduleDefinition["message"];
  }
}

function scheduleOf({ now: _, ...row }: ScheduleRow): Schedule {
  return {
    ...row,
    message: row.message as unknown as ScheduledMessage,
    nextRunAt: row.pausedAt === null ? row.nextRunAt : null,
  };
}

function found(row: ScheduleRow | undefined, name: string): ScheduleRow {
  if (row !== undefined) return row;
  throw new ValidationFailed(`there is no schedule ${JSON.stringify(name)}`, {
    recoverySuggestion: "Check its name with `agent-outbox schedules ls`.",
  });
}

const TIMING = ["cron", "timeZone", "everyMs", "startAt", "endAt"] as const;

function sameTiming(a: Timing, b: Timing): boolean {
  return TIMING.every((field) => a[field] === b[field]);
}

function sameDefinition(a: ScheduleDefinition, b: ScheduleDefinition): boolean {
  return (
    sameTiming(a, b) &&
    a.catchUp === b.catchUp &&
    a.maxCatchUp === b.maxCatchUp &&
    isDeepStrictEqual(a.message, b.message)
  );
}

function nextAfter(row: ScheduleRow, now: number): number | null {
  return row.nextRunAt === null ? null : dueAfter(row, row.nextRunAt, now);
}
