/** The lines that wait for one file, oldest first. */

/** Whole lines that are written together. */
export interface Batch {
  readonly lines: readonly string[];
  readonly sizes: readonly number[];
  readonly bytes: number;
}

const FIRST_RETRY_MS = 100;
const MAX_RETRY_MS = 2_000;

export class LineQueue {
  #lines: string[] = [];
  #sizes: number[] = [];
  #bytes = 0;
  #retryMs = 0;
  #retryAt = 0;

  get length(): number {
    return this.#lines.length;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** The last write to this file failed. */
  get failing(): boolean {
    return this.#retryMs > 0;
  }

  /** A file that cannot be written is left alone for a while, longer each time. */
  get resting(): boolean {
    return this.failing && performance.now() < this.#retryAt;
  }

  failed(): void {
    this.#retryMs = Math.min(MAX_RETRY_MS, this.#retryMs * 2 || FIRST_RETRY_MS);
    this.#retryAt = performance.now() + this.#retryMs;
  }

  succeeded(): void {
    this.#retryMs = 0;
  }

  push(line: string, bytes: number): void {
    this.#lines.push(line);
    this.#sizes.push(bytes);
    this.#bytes += bytes;
  }

  /** Takes the oldest lines: at most so many, and so many bytes, but always one. */
  take(maxLines: number, maxBytes: number): Batch {
    let count = 0;
    let bytes = 0;
    for (const size of this.#sizes) {
      if (count === maxLines || (count > 0 && bytes + size > maxBytes)) break;
      bytes += size;
      count++;
    }
    this.#bytes -= bytes;
    return { lines: this.#lines.splice(0, count), sizes: this.#sizes.splice(0, count), bytes };
  }

  /** Puts what was not written of a batch back to the front. */
  putBack(batch: Batch, from: number): void {
    this.#lines = batch.lines.slice(from).concat(this.#lines);
    this.#sizes = batch.sizes.slice(from).concat(this.#sizes);
    for (const size of batch.sizes.slice(from)) this.#bytes += size;
  }

  /** Removes the newest lines beyond so many bytes and returns the size of each. */
  trim(maxBytes: number): number[] {
    let count = this.#sizes.length;
    while (count > 0 && this.#bytes > maxBytes) this.#bytes -= this.#sizes[--count] ?? 0;
    this.#lines.length = count;
    return this.#sizes.splice(count);
  }
}
