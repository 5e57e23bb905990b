import type { WorkSettings } from "../../protocol/work-options.ts";
import type { ClaimedRow } from "../../store/dialect.ts";
import { nothingForMs } from "../../store/idle.ts";
import type { Settler } from "../claimed.ts";
import type { QueueCore } from "../core.ts";
import { BUSY_WINDOW_MS } from "../wake/notify.ts";
import { bytesOf, ClaimSizes, sum } from "./claim-sizes.ts";
import type { Crew } from "./crew.ts";
import { Bell, Pace, within } from "./pace.ts";
import type { Reports } from "./reports.ts";
import { type Extender, Run } from "./run.ts";
import type { Runs } from "./runs.ts";

/** What can start within this many milliseconds may be claimed ahead. */
const SOON_MS = 100;
/** What was claimed ahead and has not started after this is given back for others. */
const LONGEST_AHEAD_MS = 1_000;
/** Looks take no more than a part of the time: a claim knows where to begin, a look does not. */
const LOOKS_SHARE = 10;
/** How often an idle worker looks that hears of what is sent: what it does not hear of is lost wake-ups. */
const REST_MS = 4_000;

export interface IntakeOptions {
  readonly core: QueueCore;
  readonly settler: Settler;
  readonly agentId: string;
  readonly workerId: string;
  readonly settings: WorkSettings;
  readonly crew: Crew;
  readonly leases: Extender;
  /** Those in the worker's hands, until their ends are written down. */
  readonly runs: Runs;
  readonly reports: Reports;
}

interface Begun {
  readonly sentAt: number;
  readonly rows: Promise<ClaimedRow[]>;
  /** How many would be started soon, and how many of these were asked for. */
  readonly wanted: number;
  readonly asked: number;
}

/** How many messages so many handlers start soon. */
function soonOf(concurrency: number, averageMs: number): number {
  return Math.floor((concurrency * SOON_MS) / Math.max(averageMs, 0.01));
}

/** Looks into the mailbox, as often as is worth it, and claims what the crew can start soon. */
export class Intake {
  readonly #options: IntakeOptions;
  readonly #pace: Pace;
  readonly #sizes: ClaimSizes;
  readonly #bell = new Bell();
  #aheadSince = 0;
  /** Until then a claim is cheaper than a look. */
  #claimUntil = 0;
  /** Told of news while a look is under way. */
  #onNews: (() => void) | undefined;
  /** A claim that is under way while handlers of the last one are called. */
  #begun: Begun | undefined;
  #stopped = false;
  #done: Promise<void> = Promise.resolve();

  constructor(options: IntakeOptions) {
    const { core, settings } = options;
    this.#options = options;
    this.#pace = new Pace(settings.pollMs);
    this.#sizes = new ClaimSizes(settings.maxClaimedBytes, core.options.maxMessageBytes);
  }

  start(): void {
    this.#done = this.#work();
  }

  /** Resolves when no claim is under way any more, and what came late was given back. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#bell.ring();
    await this.#done;
  }

  /** The mailbox may have got something. `more`: and what comes next is not told of at once. */
  wake(more: boolean): void {
    if (more) this.#pace.untold(performance.now(), 2 * BUSY_WINDOW_MS);
    this.#pace.wake();
    this.#onNews?.();
    this.#bell.ring();
  }

  dueAfter(ms: number): void {
    this.#pace.expect(performance.now() + ms);
    this.#bell.ring();
  }

  /** The crew may have room. */
  changed(): void {
    this.#bell.ring();
  }

  async #work(): Promise<void> {
    const { crew, runs } = this.#options;
    while (!this.#stopped) {
      const wanted = this.#begun?.wanted ?? this.#wanted();
      const room = this.#begun?.asked ?? this.#sizes.room(wanted, runs.bytes);
      const dueInMs = room > 0 ? this.#pace.dueInMs(performance.now()) : Number.POSITIVE_INFINITY;
      try {
        if (this.#begun !== undefined) await this.#claim(wanted);
        else if (dueInMs === 0) await this.#look(wanted);
        else await this.#bell.wait(Math.min(dueInMs, this.#patienceMs()));
        if (this.#patienceMs() === 0) await crew.giveBackWaiting(LONGEST_AHEAD_MS);
      } catch (error) {
        this.#failed(error);
      }
    }
    const { rows, sentAt } = this.#begun ?? {};
    if (rows === undefined || sentAt === undefined) return;
    const patience = Math.max(5_000, this.#options.settings.leaseMs);
    await within(patience, "a claim", this.#returnLate(rows, sentAt)).catch(() => undefined);
  }

  #failed(error: unknown): void {
    this.#pace.failed(performance.now());
    const { failures } = this.#pace;
    // Told at the first failure and then ever more rarely.
    if ((failures & (failures - 1)) === 0) this.#options.reports.tell(error, "claim");
  }

  /** How many messages the crew could start soon. */
  #wanted(): number {
    const { crew, settings } = this.#options;
    const { concurrency, batchSize } = settings;
    // Handlers that are faster than the database can note their ends are held up here.
    if (crew.settling > concurrency + 2 * batchSize) return 0;
    const free = concurrency - crew.running;
    const ahead = this.#ahead();
    // Ahead only in worthwhile portions: not one claim for each message that starts.
    if (free <= 0 && crew.waiting > ahead / 2) return 0;
    return Math.min(batchSize, Math.max(0, free + ahead - crew.waiting));
  }

  /** How many messages may wait for a handler, so that they start soon. */
  #ahead(): number {
    const { crew, settings } = this.#options;
    const { concurrency, batchSize } = settings;
    if (crew.averageMs === undefined) return 0;
    return Math.min(batchSize, this.#sizes.ahead, soonOf(concurrency, crew.averageMs));
  }

  /** Milliseconds until what was claimed ahead is given back. */
  #patienceMs(): number {
    if (this.#options.crew.waiting === 0) return Number.POSITIVE_INFINITY;
    return Math.max(0, this.#aheadSince + LONGEST_AHEAD_MS - performance.now());
  }

  /** Claims, but in a mailbox that was empty for a while only when something is there. */
  async #look(wanted: number): Promise<void> {
    const began = performance.now();
    if (!this.#pace.idle || began < this.#claimUntil) return this.#claim(wanted);
    const { core, agentId, settings } = this.#options;
    // Under a transaction that is held open a look reads the entries of all that has ended since.
    if (core.store.walksFar(agentId, settings.messageTypes ?? null)) return this.#claim(wanted);
    await core.db();
    this.#pace.looking(began);
    const asked = nothingForMs(core.knex, core.dialect, core.options.prefix, agentId);
    const ms = await this.#orNews(within(Math.max(5_000, settings.leaseMs), "a look", asked));
    const now = performance.now();
    this.#claimUntil = now + LOOKS_SHARE * (now - began);
    if (ms === 0) return this.#claim(wanted);
    if (ms !== null) this.#pace.expect(now + ms);
    this.#pace.rest(now, core.hears ? Math.max(REST_MS, settings.pollMs.max) : settings.pollMs.max);
  }

  /** What a look says; as soon as there are news, that there may be something: nobody waits for the look then. */
  async #orNews(look: Promise<number | null>): Promise<number | null> {
    const news = new Promise<number>((resolve) => {
      this.#onNews = () => resolve(0);
    });
    look.catch(() => undefined);
    try {
      return await Promise.race([look, news]);
    } finally {
      this.#onNews = undefined;
    }
  }

  async #claim(wanted: number): Promise<void> {
    const { core, crew, runs: held } = this.#options;
    const { leaseMs } = this.#options.settings;
    const { sentAt, rows: claiming, asked } = this.#begun ?? this.#begin(wanted, held.bytes);
    this.#begun = undefined;
    let rows: ClaimedRow[];
    try {
      rows = await within(Math.max(5_000, leaseMs), "a claim", claiming);
    } catch (error) {
      // The answer may still come, when nobody waits for it any more.
      void this.#returnLate(claiming, sentAt);
      throw error;
    }
    const now = performance.now();
    if (rows.length === 0) return this.#pace.empty(now, core.hears);
    this.#pace.found(now, rows.length >= asked, core.hears);
    const sizes = rows.map(bytesOf);
    this.#sizes.saw(sizes, now);
    const kept = this.#sizes.kept(sizes, held.bytes);
    const next = Math.max(wanted, this.#ahead());
    if (rows.length >= asked && this.#keepsUp(next, sizes)) {
      // The database works on the next ones while the handlers of these are called: a turn, and it has been asked.
      this.#begun = this.#begin(next, held.bytes + sum(sizes));
      await new Promise(setImmediate);
    }
    const runs = this.#runsOf(rows, sentAt, sizes);
    // Too late to start: stopped meanwhile, or the answer (or this process) slept longer than the lease.
    if (this.#stopped || now - sentAt >= leaseMs) return crew.giveBack(runs);
    if (crew.waiting === 0) this.#aheadSince = now;
    const over = runs.splice(kept);
    crew.take(runs);
    if (over.length > 0) await crew.giveBack(over);
  }

  #begin(wanted: number, heldBytes: number): Begun {
    const sentAt = performance.now();
    const asked = this.#sizes.room(wanted, heldBytes, sentAt);
    this.#pace.looking(sentAt);
    const rows = this.#rows(asked);
    // Whoever waits for it hears of it.
    rows.catch(() => undefined);
    return { sentAt, rows, wanted, asked };
  }

  /** Whether handlers are so quick that these and as many more could all start soon, and that there is room for them. */
  #keepsUp(wanted: number, sizes: readonly number[]): boolean {
    const { crew, runs, settings } = this.#options;
    if (this.#stopped || crew.averageMs === undefined) return false;
    const { concurrency, batchSize } = settings;
    const more = this.#sizes.room(wanted, runs.bytes + sum(sizes));
    const soon = Math.min(soonOf(concurrency, crew.averageMs), concurrency + this.#sizes.ahead);
    return (
      more >= sizes.length &&
      crew.settling <= concurrency + batchSize &&
      crew.waiting + sizes.length + more <= soon
    );
  }

  #runsOf(
    rows: readonly ClaimedRow[],
    sentAt: number,
    sizes: readonly number[] = rows.map(bytesOf),
  ): Run[] {
    const { core, settler, leases } = this.#options;
    return rows.map((row, n) => {
      const run = new Run(core, settler, leases, row, sentAt);
      run.bytes = sizes[n] ?? 0;
      return run;
    });
  }

  /** Resolves when what came too late is given back. */
  #returnLate(claiming: Promise<readonly ClaimedRow[]>, sentAt: number): Promise<void> {
    return claiming.then(
      (late) => this.#options.crew.giveBack(this.#runsOf(late, sentAt)),
      () => undefined,
    );
  }

  async #rows(limit: number): Promise<ClaimedRow[]> {
    const { core, agentId, workerId, settings } = this.#options;
    await core.db();
    return core.claim({
      agentId,
      workerId,
      limit,
      leaseMs: settings.leaseMs,
      messageTypes: settings.messageTypes ?? null,
      onHeldBack: (forMs) => this.dueAfter(forMs),
    });
  }
}
