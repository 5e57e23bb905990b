import type { ConsumerKey } from "../../store/consumers.ts";
import type { QueueCore } from "../core.ts";
import { watchSchedules } from "../schedules/watch.ts";
import { attend } from "../upkeep/presence.ts";
import { ALL_STEPS, type UpkeepStep, upkeepRound } from "../upkeep/upkeep.ts";
import { within } from "./pace.ts";

const EVERY_MS = 5_000;
/** A step that finds nothing to do is taken ever more rarely, down to this. */
const IDLE_MS = 30_000;
/** A load that begins leaves dead rows from its first second on, and a table that has grown stays so. */
const IDLE_VACUUM_MS = 15_000;
/** Of what grows slowly, and of what only an outsider breaks. */
const SELDOM_MS = 60_000;
/** A step that did as much as it may at once goes on after this, so that upkeep keeps up with a busy queue. */
const GO_ON_MS = 250;
/** Tables that had to be vacuumed are looked at again after this: the smaller they stay, the less is written. */
const VACUUMED_MS = 2_500;
/** A round is bounded; one that takes longer than this has lost its connection. */
const PATIENCE_MS = 60_000;

const OFTEN: readonly UpkeepStep[] = ["expired", "due", "archive", "dedupe", "vacuum"];
/** Schedules have a timer of their own: they are to fire when they are due, not up to five seconds later. */
const SELDOM = ALL_STEPS.filter((step) => step !== "schedules" && !OFTEN.includes(step));

interface Rounds {
  /** When a worker of the same queue in this process began the last round: one at a time is enough. */
  begunAt: number;
  seldomAt: number;
  unfinished: readonly UpkeepStep[];
  /** The last round vacuumed something. */
  vacuumed: boolean;
  /** How often each step is taken now, and when next. */
  readonly turns: Map<UpkeepStep, { everyMs: number; at: number }>;
}

const roundsOfQueues = new WeakMap<QueueCore, Rounds>();

function roundsOf(core: QueueCore): Rounds {
  const rounds = roundsOfQueues.get(core) ?? {
    begunAt: Number.NEGATIVE_INFINITY,
    // Processes that start together do not look together.
    seldomAt: performance.now() - Math.random() * SELDOM_MS,
    unfinished: [],
    vacuumed: false,
    turns: new Map(),
  };
  roundsOfQueues.set(core, rounds);
  return rounds;
}

/** Looks after the tables about every five seconds, as long as a worker runs, and notes that it does. */
export class UpkeepTimer {
  readonly #core: QueueCore;
  readonly #unwatch: () => Promise<void>;
  readonly #leave: () => Promise<void>;
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;
  #round: Promise<unknown> = Promise.resolve();

  constructor(core: QueueCore, consumer: ConsumerKey) {
    this.#core = core;
    this.#unwatch = watchSchedules(core);
    this.#leave = attend(core, consumer);
    this.#arm(EVERY_MS);
  }

  /** No further round. Resolves when the one under way has ended. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await Promise.all([this.#round, this.#unwatch(), this.#leave()]);
  }

  #arm(ms: number): void {
    if (this.#stopped) return;
    this.#timer = setTimeout(() => void this.#turn(), ms * (0.75 + Math.random() / 2));
    this.#timer.unref();
  }

  async #turn(): Promise<void> {
    const now = performance.now();
    const rounds = roundsOf(this.#core);
    const unfinished = rounds.unfinished;
    const due = now - rounds.begunAt >= EVERY_MS / 2;
    const often = OFTEN.filter((step) => (rounds.turns.get(step)?.at ?? 0) <= now + EVERY_MS / 2);
    const steps = new Set<UpkeepStep>([...unfinished, ...(due ? often : [])]);
    if (now - rounds.seldomAt >= SELDOM_MS) {
      rounds.seldomAt = now;
      for (const step of SELDOM) steps.add(step);
    }
    if (rounds.vacuumed) steps.add("vacuum");
    rounds.unfinished = [];
    rounds.vacuumed = false;
    if (steps.size > 0) {
      if (due) rounds.begunAt = now;
      const round = upkeepRound(this.#core, {
        steps: [...steps],
        stopped: () => this.#stopped,
      }).then((done) => {
        rounds.unfinished = done.unfinished;
        rounds.vacuumed = done.report.vacuumed > 0;
        for (const step of often) {
          const idle = !done.busy.includes(step);
          const everyMs = idle
            ? Math.min(
                step === "vacuum" ? IDLE_VACUUM_MS : IDLE_MS,
                2 * (rounds.turns.get(step)?.everyMs ?? EVERY_MS / 2),
              )
            : EVERY_MS;
          rounds.turns.set(step, { everyMs, at: now + everyMs });
        }
      });
      // Whatever goes wrong, the next round tries again; claims do not depend on it.
      this.#round = round.catch(() => undefined);
      // Unlike settledWithin, this keeps no process alive whose database never answers.
      await within(PATIENCE_MS, "a round of upkeep", this.#round).catch(() => undefined);
    }
    const next = rounds.vacuumed ? VACUUMED_MS : EVERY_MS;
    this.#arm(rounds.unfinished.length > 0 ? GO_ON_MS : next);
  }
}
