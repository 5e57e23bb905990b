import { AsyncLocalStorage } from "node:async_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { MessageQueueManager } from "../queue/manager.ts";
import { hubOf } from "../queue/wake/wake.ts";
import { told } from "../store/after-commit.ts";
import { dialectFor } from "../store/dialects.ts";
import { databaseIdentity } from "../store/identity.ts";
import { TaskStore } from "../store/tasks.ts";
import { VirtualTime } from "./clock.ts";
import { TestDatabase } from "./database.ts";
import { Faults } from "./faults.ts";
import { Instants } from "./instants.ts";
import { NotSettled } from "./not-settled.ts";
import type { TestProcess } from "./process.ts";

/** A handler that has been called and has not returned. */
interface Handling {
  readonly process: TestProcess;
  readonly what: string;
  readonly since: number;
  /** How many of its sleeps by the virtual clock are under way. */
  asleep: number;
  /** Waited for in vain: from now on the world goes on without it. */
  stuck: boolean;
}

/** The process of the test itself; no agent has an id like this. */
export const MAIN = "(test)";

/** Nothing happened in so many turns of the event loop: nothing will, by itself. */
const CALM_TURNS = 6;
/** A turn of the event loop that took longer was held up. */
const LONGEST_TURN_MS = 10;
const MOST_ROUNDS = 200;
/** After so many rounds a change counts only if it is one that a test could mean. */
const LOOK_CLOSER_AFTER = 4;
const MOST_STEPS = 20_000;

/** Everything of a test: the time, the database, the processes on it, and the engine that lets them move. */
export class World {
  readonly time: VirtualTime;
  readonly faults: Faults;
  readonly database: TestDatabase;
  /** For the kit's own looks. */
  readonly queue: MessageQueueManager;
  readonly tasks: TaskStore;
  readonly processes = new Map<string, TestProcess>();
  readonly #instants: Instants;
  readonly #patienceMs: number;
  readonly #mostCalls: number;
  readonly #handling = new Set<Handling>();
  readonly #inside = new AsyncLocalStorage<Handling>();
  /** How often handlers of each process were called since the clock moved. */
  #calls = new Map<string, number>();
  /** Workers of processes that were killed. */
  readonly #dead = new Set<string>();
  #moving: Promise<unknown> = Promise.resolve();

  constructor(options: { now: number; prefix: string; patienceMs: number; mostCalls: number }) {
    this.time = new VirtualTime(options.now);
    this.faults = new Faults();
    this.#patienceMs = options.patienceMs;
    this.#mostCalls = options.mostCalls;
    this.database = new TestDatabase(this.time, options.prefix, (_, point) =>
      this.faults.strike(point),
    );
    this.queue = new MessageQueueManager(this.database.knex, { prefix: options.prefix });
    const dialect = dialectFor("sqlite", options.prefix);
    this.tasks = new TaskStore(this.database.knex, dialect, options.prefix);
    this.#instants = new Instants(this.database.knex, options.prefix);
  }

  /** Runs a handler of a process, so that the engine knows of it. */
  async handle<T>(process: TestProcess, what: string, run: () => T | Promise<T>): Promise<T> {
    const handling = { process, what, since: this.time.now, asleep: 0, stuck: false };
    this.#handling.add(handling);
    this.#calls.set(process.id, (this.#calls.get(process.id) ?? 0) + 1);
    try {
      return await this.#inside.run(handling, run);
    } finally {
      this.#handling.delete(handling);
    }
  }

  /** Until the virtual clock has moved so far. */
  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return this.idle(() => this.time.sleepUntil(this.time.now + ms, signal));
  }

  /** Runs what waits for others; the handler that calls it is not waited for meanwhile. */
  async idle<T>(run: () => Promise<T>): Promise<T> {
    const handling = this.#inside.getStore();
    if (handling !== undefined) handling.asleep++;
    try {
      return await run();
    } finally {
      if (handling !== undefined) handling.asleep--;
    }
  }

  /** Lets everything happen that can without time going on. @throws NotSettled */
  settle(): Promise<void> {
    return this.#alone(async () => {
      const rested = await this.#run();
      const stuck = [...this.#handling].filter((one) => one.stuck && one.process.alive);
      if (rested && stuck.length === 0) return;
      throw new NotSettled([
        ...stuck.map(
          ({ process, what, since }) =>
            `a handler of "${process.id}" runs for ${this.#patienceMs} ms of real time: ${what}, called at ${iso(since)}`,
        ),
        ...(rested ? [] : await this.#restless()),
      ]);
    });
  }

  /** Moves the clock, from one instant at which something falls due to the next. */
  advanceTo(until: number): Promise<void> {
    return this.#alone(async () => {
      if (!(await this.#run())) throw new NotSettled(await this.#restless());
      for (let step = 0; this.time.now < until; step++) {
        if (step >= MOST_STEPS) {
          throw new NotSettled([`${MOST_STEPS} things fell due before ${iso(until)}`]);
        }
        await this.#moveTo((await this.#next(until)) ?? until);
        if (!(await this.#run())) throw new NotSettled(await this.#restless());
      }
    });
  }

  /** The next instant up to `until` at which something falls due. */
  async nextDue(until: number): Promise<number | undefined> {
    return this.#next(until);
  }

  /** The process is gone, and its leases stand where they are. */
  async kill(process: TestProcess): Promise<void> {
    await process.kill();
    const rows = (await this.database
      .knex(`${this.database.prefix}messages`)
      .where({ to_agent: process.id })
      .whereNotNull("worker_id")
      .distinct("worker_id")) as { worker_id: string }[];
    for (const { worker_id } of rows) this.#dead.add(worker_id);
  }

  async close(): Promise<void> {
    this.faults.restoreDatabase();
    await this.#moving.catch(() => undefined);
    this.time.end();
    const main = this.processes.get(MAIN);
    await Promise.all([...this.processes.values()].map((one) => one !== main && one.close()));
    await main?.close();
    await this.queue.close();
    await this.database.close();
  }

  /** One after the other: two movers of one clock would not know where it stands. */
  #alone<T>(run: () => Promise<T>): Promise<T> {
    if (this.#inside.getStore() !== undefined) {
      throw new Error("a handler cannot settle or advance the world that it runs in");
    }
    const turn = this.#moving.then(run, run);
    this.#moving = turn.catch(() => undefined);
    return turn;
  }

  async #next(until: number): Promise<number | undefined> {
    const stored = await this.#instants.next(this.time.now, until, this.#beating());
    const next = Math.min(this.time.nextWake, stored ?? Number.POSITIVE_INFINITY);
    return next <= until ? next : undefined;
  }

  #beating(): string[] {
    return [...this.processes.values()].flatMap((one) =>
      one.alive && (one.kind === "agent" || one.kind === "supervisor") ? one.id : [],
    );
  }

  /** What lives beats and keeps its leases while time goes on. */
  async #moveTo(at: number): Promise<void> {
    const { knex, prefix } = this.database;
    const alive = [...this.processes.values()].filter((one) => one.alive);
    const living = alive.map(({ id }) => id);
    const passed = at - this.time.now;
    if (passed > 0 && !this.faults.lost) {
      await knex(`${prefix}messages`)
        .whereIn("to_agent", living)
        .whereNotNull("worker_id")
        .whereNotIn("worker_id", [...this.#dead])
        .where("state", 0)
        .where("visible_at", ">", this.time.now)
        .increment("visible_at", passed);
      await knex(`${prefix}agents`)
        .whereIn("agent_id", this.#beating())
        .whereNull("lost_at")
        .update({ heartbeat_at: at });
      await knex(`${prefix}locks`)
        .whereIn(
          "resource_id",
          alive.flatMap(({ keeps }) => [...keeps]),
        )
        .where("expires_at", ">", this.time.now)
        .increment("expires_at", passed);
    }
    this.#calls.clear();
    this.time.moveTo(at);
  }

  get #endless(): boolean {
    return [...this.#calls.values()].reduce((sum, calls) => sum + calls, 0) > this.#mostCalls;
  }

  /** Rounds until one changes nothing. False when that does not come. */
  async #run(): Promise<boolean> {
    let seen: string | undefined;
    for (let round = 0; round < MOST_ROUNDS; round++) {
      const before = await this.database.changes();
      await this.#round(round);
      if (this.#endless) return false;
      if ((await this.database.changes()) === before) return true;
      if (round < LOOK_CLOSER_AFTER) continue;
      const now = await this.#instants.fingerprint();
      if (now === seen) return true;
      seen = now;
    }
    return false;
  }

  async #round(round: number): Promise<void> {
    hubOf(`${databaseIdentity(this.database.knex)}:${this.database.prefix}`).wakeAll();
    await this.#quiet();
    if (this.faults.lost) return;
    if (round === 0) await this.queue.maintain();
    for (const process of this.processes.values()) {
      if (process.alive)
        await process.supervisor?.processIncomingMessages({ limit: 100 }).catch(survived);
    }
    await this.#quiet();
  }

  /** Until nothing is under way. Handlers are waited for, but not for ever. */
  async #quiet(): Promise<void> {
    let patience = this.#patienceMs;
    let answered = this.database.answered;
    for (let calm = 0; calm < CALM_TURNS && !this.#endless; ) {
      await told();
      const busy = [...this.#handling].filter(
        (one) => one.asleep === 0 && !one.stuck && one.process.alive,
      );
      if (this.database.answered !== answered) {
        // It moves: patience is for what does not.
        patience = this.#patienceMs;
        answered = this.database.answered;
        calm = 0;
      } else if (this.database.quiet && busy.length === 0 && !this.#recovering()) {
        calm++;
      } else {
        calm = 0;
        if (patience > 0 || this.#recovering()) {
          const since = performance.now();
          await sleep(1);
          // Where the whole process was held up, nobody was waited for.
          patience -= Math.min(performance.now() - since, LONGEST_TURN_MS);
        } else {
          for (const one of busy) one.stuck = true;
          if (!this.database.quiet) return;
        }
      }
    }
  }

  /** Whether a worker still leaves the database alone because a statement failed. */
  #recovering(): boolean {
    if (this.faults.lost) return false;
    return [...this.processes.values()].some((one) => one.alive && one.connected.recovering);
  }

  async #restless(): Promise<string[]> {
    const { knex, prefix } = this.database;
    const rows = (await knex(`${prefix}messages`)
      .select("message_id", "to_agent", "message_type", "attempt")
      .where("state", 0)
      .where("visible_at", "<=", this.time.now)
      .limit(10)) as Record<string, unknown>[];
    const calls = [...this.#calls].sort(([, a], [, b]) => b - a).slice(0, 5);
    return [
      this.#endless
        ? `handlers were called more than ${this.#mostCalls} times without time going on`
        : `something is written in each of ${MOST_ROUNDS} rounds`,
      ...calls.map(([id, count]) => `handlers of "${id}" were called ${count} times`),
      ...rows.map(
        (row) =>
          `the message ${row.message_id} (${row.message_type}) to "${row.to_agent}" is ready, after ${row.attempt} runs`,
      ),
    ];
  }
}

/** A supervisor survives what the database does to it, and so does the test. */
function survived(error: unknown): void {
  if ((error as { retryable?: unknown }).retryable !== true) throw error;
}

function iso(at: number): string {
  return new Date(at).toISOString();
}
