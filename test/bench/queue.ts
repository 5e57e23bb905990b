import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Place, place } from "./place.ts";
import { type Cell, markdown, type Settings, summary } from "./report.ts";
import type { Asked, Bench } from "./run.ts";
import type { Subject } from "./subject.ts";
import { type Crew, openCrew } from "./subjects/crew.ts";
import { OPENERS } from "./subjects/openers.ts";
import { CREW, countFor, LONE_SEND, loneSends, WORKLOADS, type Workload } from "./workloads.ts";

/** How long a round of a workload lasts at least, for each subject. */
const SECONDS = 1.5;
const QUICK_SECONDS = 0.2;

const firstLine = (error: unknown) => String((error as Error).message).split("\n")[0];

/** A subject in this run, with the processes that work for it. */
interface Entry {
  readonly subject: Subject;
  crew(): Promise<Crew>;
  close(): Promise<void>;
}

/** Who takes part on one database; who fails is told of and takes part no longer. */
class Field {
  readonly entries: Entry[] = [];
  readonly settings: Settings[] = [];
  /** The most messages a second so far, by workload and subject. */
  readonly #best = new Map<string, number>();
  readonly #left: string[] = [];

  readonly #database: "postgres" | "sqlite";
  readonly #asked: Asked;

  constructor(database: "postgres" | "sqlite", asked: Asked) {
    this.#database = database;
    this.#asked = asked;
  }

  get left(): readonly string[] {
    return this.#left;
  }

  async open(at: Place): Promise<void> {
    for (const [name, open] of Object.entries(OPENERS[this.#database])) {
      try {
        const url = await at.empty(name);
        const subject = await open(url);
        this.entries.push(entry(subject, name, url));
        const { name: title, kind, settings } = subject;
        this.settings.push({ database: this.#database, subject: title, kind, settings });
      } catch (error) {
        this.#out(name, `left out: ${firstLine(error)}`, error);
      }
    }
  }

  /**
   * One round, in another order each time: what one leaves to the database meets not always the same next.
   * Worker processes have rounds of their own after all others, which their idling would disturb.
   */
  async round(number: number, crews: boolean, note: (cell: Cell) => void): Promise<void> {
    const turned = <T>(all: readonly T[]) => all.map((_, n) => all[(n + number) % all.length] as T);
    for (const workload of WORKLOADS.filter(({ crew }) => crew === crews)) {
      for (const one of turned(this.entries)) {
        if (one.subject.kind === "guarantees" && !workload.drains) continue;
        // Redis has one queue, which no four processes share here.
        if (crews && one.subject.kind === "elsewhere") continue;
        const value = await this.#measure(workload, one);
        if (value === undefined) continue;
        note({
          database: this.#database,
          workload: workload.title,
          subject: one.subject.name,
          unit: "/s",
          value,
        });
      }
    }
    if (crews) return;
    const alone = turned(this.entries).filter(({ subject }) => subject.kind !== "guarantees");
    const lone = await loneSends(
      alone.map(({ subject }) => subject),
      this.#asked.quick ? 0.2 : 1,
      (subject, error) => this.#fails(subject, LONE_SEND, error),
    );
    for (const [{ name }, value] of lone) {
      note({ database: this.#database, workload: LONE_SEND, subject: name, unit: "ms", value });
    }
  }

  async close(): Promise<void> {
    for (const { close } of this.entries) await close();
  }

  async #measure(workload: Workload, one: Entry): Promise<number | undefined> {
    const { subject } = one;
    const { quick } = this.#asked;
    const key = `${workload.title} ${subject.name}`;
    const least = quick ? Math.ceil(workload.least / 5) : workload.least;
    const measured = { ...workload, least };
    try {
      // How quick it is nobody knows at first; what warms up is to last as long as what is measured.
      const best =
        this.#best.get(key) ??
        (await inTime(workload.run(subject, countFor(measured, 0, 0), one.crew)));
      const count = countFor(measured, best, quick ? QUICK_SECONDS : SECONDS);
      const rate = await inTime(workload.run(subject, count, one.crew));
      this.#best.set(key, Math.max(best, rate));
      return rate;
    } catch (error) {
      await this.#fails(subject, workload.title, error);
      return undefined;
    }
  }

  async #fails(subject: Subject, title: string, error: unknown): Promise<void> {
    this.#out(subject.name, `failed at ${title}: ${firstLine(error)}`, error);
    const at = this.entries.findIndex((one) => one.subject === subject);
    const [one] = this.entries.splice(at, 1);
    await one?.close().catch(() => undefined);
  }

  #out(name: string, what: string, error: unknown): void {
    // A peer that fails is told of; ours must not fail.
    if (name === "agent-outbox") throw error;
    this.#left.push(`${name} ${what}`);
    this.#asked.say(`${this.#database}: ${name} ${what}`);
  }
}

/** A peer that loses a message would be waited for without end. */
async function inTime<T>(work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("it did not end within five minutes")), 300_000);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

function entry(subject: Subject, opener: string, url: string): Entry {
  let crew: Promise<Crew> | undefined;
  return {
    subject,
    crew: () => {
      crew ??= openCrew(opener, url, CREW);
      return crew;
    },
    async close() {
      await (await crew?.catch(() => undefined))?.close();
      await subject.close();
    },
  };
}

/** The queue beside its peers. */
export const queueBench: Bench = async (asked) => {
  const { databases, rounds, quick, postgres, machine, say } = asked;
  const folder = mkdtempSync(join(tmpdir(), "agent-outbox-bench-"));
  const cells: Cell[] = [];
  const settings: Settings[] = [];
  const left: string[] = [];
  const durability: Record<string, string> = {};
  try {
    for (const database of databases) {
      await using at = await place(database, join(folder, database), postgres);
      durability[database] = await at.durability();
      const field = new Field(database, asked);
      try {
        await field.open(at);
        // SQLite has one writer: four processes would only wait for each other.
        for (const crews of database === "sqlite" ? [false] : [false, true]) {
          for (let round = 0; round <= rounds; round++) {
            const which = round === 0 ? "warming up" : `round ${round} of ${rounds}`;
            await field.round(round, crews, (cell) => {
              const shown = `${cell.value.toFixed(cell.unit === "ms" ? 3 : 0)} ${cell.unit}`;
              say(`${database}, ${which}: ${cell.workload}: ${cell.subject} ${shown}`);
              // The first round warms up connections, plans and the just-in-time compiler.
              if (round > 0) cells.push(cell);
            });
          }
        }
      } finally {
        await field.close();
      }
      settings.push(...field.settings);
      left.push(...field.left.map((line) => `${database}: ${line}`));
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  const seconds = quick ? QUICK_SECONDS : SECONDS;
  const result = { machine, rounds, seconds, durability, left, ...summary(cells, settings) };
  return { result, text: markdown(result) };
};
