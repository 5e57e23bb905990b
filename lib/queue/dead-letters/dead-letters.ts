import type { ErrorRecord } from "../../errors.ts";
import {
  type DeadLetterChanges,
  type DeadLetterEditOptions,
  type DeadLetterFilterInput,
  type DeadLetterGroupsOptions,
  type DeadLetterProgress,
  type DiscardOptions,
  deadLetterFilterSchema,
  deadLetterGroupsSchema,
  deadLetterListSchema,
  discardSchema,
  type RedriveOptions,
  redriveSchema,
} from "../../protocol/dead-letters.ts";
import { given } from "../../protocol/given.ts";
import { id, parse } from "../../protocol/validate.ts";
import type { DeadLetterFilter } from "../../store/dead-letter-walk.ts";
import type { DeadLetterStep } from "../../store/dead-letters.ts";
import { int, type Row } from "../../store/sql.ts";
import type { QueueCore } from "../core.ts";
import { fieldsOf } from "../events.ts";
import { completed, type DeadLetter, deadLetter } from "../stored.ts";
import { type DeadLetterEdited, editDeadLetter } from "./edit.ts";

/** How many of those that would go a dry run shows. */
const SAMPLE = 10;

/** Dead letters with one cause: the same type, error code and error text but for numbers and quotations. */
export interface DeadLetterGroup {
  fingerprint: string;
  count: number;
  /** Of the newest of them; so are the next four. */
  reason: string;
  messageType: string;
  errorCode: string | null;
  errorMessage: string | null;
  newestMessageId: string;
  /** The five that have most of them. */
  mailboxes: { agentId: string; count: number }[];
  earliestFailedAt: number;
  latestFailedAt: number;
}

export interface DeadLetterGroups {
  /** The greatest first. */
  groups: DeadLetterGroup[];
  /** True when there are more than 10,000: the counts are those of the newest 10,000. */
  capped: boolean;
}

interface BulkResult {
  dryRun: boolean;
  /** How many were found, at most the limit. Less those that someone else took first, they are done. */
  matched: number;
  /** True when the signal ended it before all were done. */
  stopped: boolean;
  /** With a dry run, the first ten of those that would go. */
  sample: DeadLetter[];
}

export interface RedriveResult extends BulkResult {
  redriven: number;
  messageIds: string[];
  /** How long after the end of the call the last of them becomes ready, where a rate or a delay was given. */
  lastDelayMs: number;
}

export interface DiscardResult extends BulkResult {
  discarded: number;
}

/** The dead letters of all mailboxes. */
export class DeadLetters {
  readonly #core: QueueCore;

  constructor(core: QueueCore) {
    this.#core = core;
  }

  /** Those that match, oldest first; `limit` 50 unless told, `afterSeq` to page on. */
  async list(
    filter: DeadLetterFilterInput & { limit?: number; afterSeq?: number } = {},
  ): Promise<DeadLetter[]> {
    const { limit, afterSeq, ...rest } = parse(deadLetterListSchema, filter, "filter");
    await this.#core.db();
    return this.#letters(rest, limit, afterSeq);
  }

  async #letters(filter: DeadLetterFilter, limit: number, afterSeq = 0): Promise<DeadLetter[]> {
    const rows = await this.#core.dead.list(filter, limit, afterSeq);
    return Promise.all(rows.map((row) => this.#letter(row, false)));
  }

  #letter(row: Row, fetch: boolean): Promise<DeadLetter> {
    return completed(this.#core, deadLetter(row, this.#core.store.parseJson), row, fetch);
  }

  /** One dead letter by its message's id, or null. */
  async get(messageId: string): Promise<DeadLetter | null> {
    const message = parse(id, messageId, "messageId");
    const [row] = await this.#core.dead.get(await this.#core.db(), message);
    return row === undefined ? null : this.#letter(row, true);
  }

  /** What fails, by its cause: see DeadLetterGroup. */
  async groups(
    filter: DeadLetterFilterInput = {},
    options: DeadLetterGroupsOptions = {},
  ): Promise<DeadLetterGroups> {
    const meant = parse(deadLetterFilterSchema, filter, "filter");
    const { limit } = parse(deadLetterGroupsSchema, options, "options");
    await this.#core.db();
    const { groups, capped } = await this.#core.dead.groups(meant, limit);
    return {
      groups: groups.map((row) => {
        const error = this.#core.store.parseJson(row.last_error) as ErrorRecord | null;
        return {
          fingerprint: String(row.fingerprint),
          count: int(row.total),
          reason: String(row.reason),
          messageType: String(row.message_type),
          errorCode: error?.code ?? null,
          errorMessage: error?.message ?? null,
          newestMessageId: String(row.message_id),
          mailboxes: row.mailboxes,
          earliestFailedAt: int(row.earliest),
          latestFailedAt: int(row.latest),
        };
      }),
      capped,
    };
  }

  /**
   * Sends dead letters again, as new with all their runs before them and without an expiry. Options may stand in
   * the filter too. Two operators who do it at once send nothing twice. With `perSecond`, the messages themselves
   * are scheduled one after the other, so that the rate holds although the caller ends; two calls at once have
   * their rates added up.
   */
  async redrive(
    filter: DeadLetterFilterInput & RedriveOptions,
    options: RedriveOptions = {},
  ): Promise<RedriveResult> {
    const { limit, toAgent, delayMs, perSecond, dryRun, signal, onProgress, ...meant } = parse(
      redriveSchema,
      { ...given(filter), ...given(options) },
      "filter",
    );
    const db = await this.#core.db();
    const done = { redriven: 0, messageIds: [] as string[], lastDelayMs: 0 };
    if (dryRun) return { ...done, ...(await this.#dryRun(meant, limit)) };
    const steps = this.#core.dead.redrive(meant, { limit, toAgent, delayMs, perSecond });
    const spread = (n: number) => Math.floor((n * 1_000) / (perSecond ?? Number.POSITIVE_INFINITY));
    const bulk = await run(steps, { signal, onProgress }, (rows) => {
      const fields = rows.map((row) => ({
        ...fieldsOf(row as Parameters<typeof fieldsOf>[0]),
        ...(toAgent === undefined ? {} : { toAgent }),
      }));
      this.#core.tell(db, "replayed", fields);
      const due = fields.filter((_, n) => delayMs + spread(done.redriven + n) === 0);
      this.#core.signal(new Set(due.map((message) => message.toAgent)));
      done.redriven += rows.length;
      for (const { messageId } of fields) done.messageIds.push(messageId);
      if (done.redriven > 0) done.lastDelayMs = delayMs + spread(done.redriven - 1);
    });
    return { ...done, ...bulk };
  }

  /**
   * Deletes dead letters for good; observers are told that each was `cancelled`, with the reason `discarded`.
   * Options may stand in the filter too.
   */
  async discard(
    filter: DeadLetterFilterInput & DiscardOptions,
    options: DiscardOptions = {},
  ): Promise<DiscardResult> {
    const { limit, dryRun, signal, onProgress, ...meant } = parse(
      discardSchema,
      { ...given(filter), ...given(options) },
      "filter",
    );
    const db = await this.#core.db();
    if (dryRun) return { discarded: 0, ...(await this.#dryRun(meant, limit)) };
    let discarded = 0;
    const steps = this.#core.dead.discard(meant, limit);
    const bulk = await run(steps, { signal, onProgress }, (rows) => {
      const fields = rows.map((row) => fieldsOf(row as Parameters<typeof fieldsOf>[0]));
      this.#core.tell(db, "cancelled", fields, "discarded");
      this.#core.payloads.releaseRows(db, rows);
      discarded += rows.length;
    });
    return { discarded, ...bulk };
  }

  /** `discard` under its shorter contract: how many were deleted. */
  async purge(
    filter: DeadLetterFilterInput & Pick<DiscardOptions, "limit">,
  ): Promise<{ purged: number }> {
    return { purged: (await this.discard(filter)).discarded };
  }

  /**
   * Corrects a dead letter: what is named in `changes` replaces what was there (null takes it away, headers are
   * merged), checked like a message that is sent. The header `x-edited-at` says when, `x-edited-by` who. With
   * `replay` it is sent again in the same transaction.
   *
   * @throws ValidationFailed; PayloadTooLarge; UNKNOWN_MESSAGE where it is no dead letter (any more): redriven or
   *   discarded by someone else in the meantime
   */
  async edit(
    messageId: string,
    changes: DeadLetterChanges,
    options: DeadLetterEditOptions = {},
  ): Promise<DeadLetterEdited> {
    return editDeadLetter(this.#core, messageId, changes, options);
  }

  async #dryRun(meant: DeadLetterFilter, limit: number): Promise<BulkResult> {
    return {
      dryRun: true,
      matched: await this.#core.dead.count(meant, limit),
      stopped: false,
      sample: await this.#letters(meant, Math.min(SAMPLE, limit)),
    };
  }
}

/** Runs the steps one by one; each is committed before the next begins. */
async function run(
  steps: AsyncGenerator<DeadLetterStep>,
  options: {
    signal: AbortSignal | undefined;
    onProgress: ((progress: DeadLetterProgress) => void) | undefined;
  },
  each: (rows: DeadLetterStep["rows"]) => void,
): Promise<BulkResult> {
  let [matched, done] = [0, 0];
  // Asked before each step, the first included: whoever gave up before the call wants nothing done.
  const stopped = () => options.signal?.aborted === true;
  while (!stopped()) {
    const step = await steps.next();
    if (step.done === true) return { dryRun: false, matched, stopped: false, sample: [] };
    matched += step.value.matched;
    done += step.value.rows.length;
    each(step.value.rows);
    options.onProgress?.({ matched, done });
  }
  return { dryRun: false, matched, stopped: true, sample: [] };
}
