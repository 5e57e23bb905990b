import type { Task } from "../../protocol/tasks.ts";
import type { Parts } from "../parts.ts";
import { lineOf } from "../submission.ts";
import { byUrgency, Placer } from "./placer.ts";

/** Needs that one round looks at; the next one goes on after them. */
const NEEDS = 100;
/** Tasks that one round places at most. */
const PLACED = 5_000;
/** A round that nobody asked for twice rests that many times as long as it took: most of the time is not ours. */
const REST = 4;
const LONGEST_REST_MS = 1_000;

/**
 * Places parked tasks, one round at a time in this process: for the sweep, which waits for it, and for everybody who
 * tells that there may be room. Tells that come while a round runs make one more.
 */
export class Placement {
  readonly #parts: Parts;
  readonly #placer: Placer;
  readonly #tell: (error: unknown) => void;
  /** Where the next round goes on: a hint, nothing depends on it. */
  #need = "";
  #running: Promise<number> | undefined;
  #asked = false;
  #rest: NodeJS.Timeout | undefined;
  #closed = false;

  /** @param tell hears of errors of rounds that nobody waits for */
  constructor(parts: Parts, tell: (error: unknown) => void) {
    this.#parts = parts;
    this.#placer = new Placer(parts);
    this.#tell = tell;
  }

  /** There may be room: looks soon, in the background. */
  poke(): void {
    if (this.#closed) return;
    if (this.#running !== undefined || this.#rest !== undefined) {
      this.#asked = true;
      return;
    }
    void this.#background();
  }

  async #background(): Promise<void> {
    const began = performance.now();
    let placed = 0;
    try {
      placed = await this.#start();
    } catch (error) {
      this.#tell(error);
    }
    if (this.#closed) return;
    // A round that found somebody is likely to be followed by one that does.
    const rest = placed > 0 ? 0 : Math.min((performance.now() - began) * REST, LONGEST_REST_MS);
    this.#rest = setTimeout(() => {
      this.#rest = undefined;
      if (!this.#asked) return;
      this.#asked = false;
      this.poke();
    }, rest);
    this.#rest.unref();
  }

  /** Looks at the line of one parked task, at once. */
  async runFor(task: Task): Promise<void> {
    await this.#placer.place(lineOf(task), task, undefined, this.#tell);
  }

  /** One round that begins now, or when the one under way has ended. Returns how many tasks got an agent. */
  async run(): Promise<number> {
    while (this.#running !== undefined) await this.#running.catch(() => undefined);
    return this.#start();
  }

  #start(): Promise<number> {
    const running = this.#round().finally(() => {
      this.#running = undefined;
    });
    this.#running = running;
    return running;
  }

  /** Until the round under way has ended, and the one that was asked for meanwhile, which does not rest first. */
  async idle(): Promise<void> {
    await this.#running?.catch(() => undefined);
    if (!this.#asked || this.#closed) return;
    this.#asked = false;
    clearTimeout(this.#rest);
    this.#rest = undefined;
    await this.run().catch(this.#tell);
  }

  /** Ends what runs in the background. Rounds that a sweep asks for go on. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#rest);
    this.#rest = undefined;
    await this.#running?.catch(() => undefined);
  }

  /**
   * The most urgent task first, among the first ones of each need: when no agent can take that one, none can take
   * those behind it. So a need that nobody meets costs one look, however many tasks wait, and holds up no other.
   */
  async #round(): Promise<number> {
    const { assignments } = this.#parts;
    const heads = await this.#heads();
    let placed = 0;
    while (heads.size > 0 && placed < PLACED) {
      const [[needKey, head], next] = firstTwo(heads);
      const result = await this.#placer.place(needKey, head, next?.[1], this.#tell);
      placed += result.placed;
      const rest =
        result.more || next !== undefined ? await assignments.firstParked(needKey) : undefined;
      // The same one again: nobody can take it, or it was settled by a transaction that we do not see yet.
      if (rest === undefined || rest.taskId === head.taskId || !movedOn(result)) {
        heads.delete(needKey);
      } else heads.set(needKey, rest);
    }
    return placed;
  }

  async #heads(): Promise<Map<string, Task>> {
    const heads = new Map<string, Task>();
    let needKey = this.#need;
    while (heads.size < NEEDS) {
      const head = await this.#parts.assignments.nextParked(needKey);
      if (head === undefined) {
        needKey = "";
        break;
      }
      needKey = head.needKey;
      heads.set(needKey, head.task);
    }
    this.#need = needKey;
    return heads;
  }
}

function movedOn({ placed, more }: { readonly placed: number; readonly more: boolean }): boolean {
  return placed > 0 || more;
}

type Head = [needKey: string, task: Task];

function firstTwo(heads: ReadonlyMap<string, Task>): [Head, Head | undefined] {
  const [first, second] = [...heads].sort(([, a], [, b]) => byUrgency(a, b) || a.seq - b.seq);
  return [first as Head, second];
}
