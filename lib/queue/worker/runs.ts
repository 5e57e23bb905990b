import type { Run } from "./run.ts";

/**
 * What a worker has in its hands, in no order. An array in which each run knows its place, and neither a Set nor a Map:
 * these make themselves anew every few hundred changes, and what they leave behind keeps runs that have long ended in
 * memory until the next great garbage collection.
 */
export class Runs implements Iterable<Run> {
  readonly #runs: Run[] = [];
  #bytes = 0;

  /** About what their messages take in memory. */
  get bytes(): number {
    return this.#bytes;
  }

  add(run: Run): void {
    run.place = this.#runs.push(run) - 1;
    this.#bytes += run.bytes;
  }

  delete(run: Run): void {
    if (run.place < 0) return;
    const last = this.#runs.pop() as Run;
    if (last !== run) {
      this.#runs[run.place] = last;
      last.place = run.place;
    }
    run.place = -1;
    this.#bytes -= run.bytes;
  }

  [Symbol.iterator](): Iterator<Run> {
    return this.#runs[Symbol.iterator]();
  }
}
