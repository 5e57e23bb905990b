/**
 * Lines wait here in memory, within a bound, and are written soon after by one asynchronous round at a time.
 * Nothing in here ever throws at, waits for, or keeps alive the program whose events are logged.
 */
import { type AppendResult, append, appendSync } from "./append.ts";
import { flushAtExit, forgetAtExit } from "./exit-flush.ts";
import { type Batch, LineQueue } from "./line-queue.ts";

export interface LineBufferOptions {
  readonly flushMs: number;
  readonly maxBufferBytes: number;
  readonly fsync: boolean;
  readonly onWarning?: ((message: string, cause: unknown) => void) | undefined;
}

export interface LineCounters {
  readonly lines_written: number;
  readonly bytes_written: number;
  /** Lines given up: the buffer was full, or the logger ended while they could not be written. */
  readonly lines_dropped: number;
  readonly lines_waiting: number;
  readonly bytes_waiting: number;
  readonly write_failures: number;
  /** Why the last write failed; null once writing works again. */
  readonly last_error: string | null;
}

/** With so much waiting the next round does not wait for its time. */
const SOON_BYTES = 1_048_576;

/** One write carries at most this much: a large backlog is not copied as a whole, and others get their turn. */
const BATCH_BYTES = 2_097_152;

export class LineBuffer {
  readonly #options: LineBufferOptions;
  readonly #queues = new Map<string, LineQueue>();
  readonly #linesOf = new Map<string, number>();
  /** Waiting and in flight together; this is what the bound is about. */
  #bytes = 0;
  #lines = 0;
  #written = 0;
  #writtenBytes = 0;
  #dropped = 0;
  #failures = 0;
  #lastError: string | null = null;
  #timer: NodeJS.Timeout | undefined;
  #soon: NodeJS.Immediate | undefined;
  #round: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  /** The batch being written, and whether the system already has it. */
  #flight: { readonly path: string; readonly batch: Batch; submitted: boolean } | undefined;
  /** Something failed or was lost, a warning said so, and nobody has seen it work again since. */
  #troubled = false;
  #droppedSinceRound = false;
  #state: "open" | "closed" | "exiting" = "open";

  constructor(options: LineBufferOptions) {
    this.#options = options;
    flushAtExit(this);
  }

  get counters(): LineCounters {
    return {
      lines_written: this.#written,
      bytes_written: this.#writtenBytes,
      lines_dropped: this.#dropped,
      lines_waiting: this.#lines,
      bytes_waiting: this.#bytes,
      write_failures: this.#failures,
      last_error: this.#lastError,
    };
  }

  linesWrittenTo(path: string): number {
    return this.#linesOf.get(path) ?? 0;
  }

  /** One file that cannot be written must not use up the room of those that can. */
  get #failingShare(): number {
    return this.#options.maxBufferBytes / 4;
  }

  /** The file was removed. */
  forget(path: string): void {
    this.#linesOf.delete(path);
  }

  add(path: string, line: string, bytes: number): void {
    if (this.#state === "closed") {
      this.#dropped++;
      return;
    }
    const queue = this.#queue(path);
    const crowding = queue.failing && queue.bytes + bytes > this.#failingShare;
    if (crowding || this.#bytes + bytes > this.#options.maxBufferBytes) {
      this.drop(1, "lines come faster than they can be written; the newest are dropped");
      return;
    }
    queue.push(line, bytes);
    this.#bytes += bytes;
    this.#lines++;
    if (this.#state === "exiting") this.#flushSync();
    else this.#schedule();
  }

  /** Counts lines as lost, and says why if nothing was said yet. */
  drop(lines: number, why: string, cause?: unknown): void {
    this.#dropped += lines;
    this.#droppedSinceRound = true;
    this.#trouble(why, cause);
  }

  /** Resolves when everything added before the call was tried once. Never rejects. */
  async flush(): Promise<void> {
    // A round under way may have passed by the file that the newest line is for.
    await this.#round;
    await this.#run(true);
  }

  /** Flushes and takes no more lines; what cannot be written now is dropped. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#state = "closed";
    await this.flush();
    forgetAtExit(this);
    this.#stopTimers();
    this.#giveUp("the logger was closed while they could not be written");
  }

  /** The process exits: no callback will run any more, so write with calls that block. */
  exit(): void {
    this.#state = "exiting";
    this.#stopTimers();
    const flight = this.#flight;
    this.#flight = undefined;
    // Node finishes what the system already has before the process ends; written here too it would be in the
    // file twice.
    if (flight?.submitted) this.#settle(flight.path, flight.batch, { written: flight.batch.bytes });
    else if (flight !== undefined) this.#queue(flight.path).putBack(flight.batch, 0);
    this.#flushSync();
  }

  #flushSync(): void {
    for (const [path, queue] of this.#queues) {
      while (queue.length > 0) {
        const batch = queue.take(queue.length, BATCH_BYTES);
        const result = appendSync(path, Buffer.from(batch.lines.join("")));
        if (!this.#settle(path, batch, result)) break;
      }
    }
    this.#giveUp("the process ended while they could not be written");
  }

  #schedule(): void {
    if (this.#round !== undefined || this.#soon !== undefined) return;
    if (this.#bytes >= SOON_BYTES && !this.#troubled) {
      // Not at once: whoever logged this line should not pay for putting the batch together.
      this.#soon = setImmediate(() => void this.#run());
      this.#soon.unref();
      return;
    }
    this.#timer ??= setTimeout(() => void this.#run(), this.#options.flushMs).unref();
  }

  #stopTimers(): void {
    clearTimeout(this.#timer);
    clearImmediate(this.#soon);
    this.#timer = undefined;
    this.#soon = undefined;
  }

  #run(force = false): Promise<void> {
    this.#stopTimers();
    this.#round ??= this.#writeAll(force).finally(() => {
      this.#round = undefined;
      if (this.#lines > 0 && this.#state === "open") this.#schedule();
    });
    return this.#round;
  }

  async #writeAll(force: boolean): Promise<void> {
    let failed = false;
    for (const [path, queue] of [...this.#queues]) {
      if (queue.resting && !force) {
        failed = true;
        continue;
      }
      // Only what is here now: a fast writer must not keep one round, and whoever awaits it, going for ever.
      let left = queue.length;
      while (left > 0) {
        const batch = queue.take(left, BATCH_BYTES);
        left -= batch.lines.length;
        if (!(await this.#write(path, batch))) {
          failed = true;
          break;
        }
      }
      if (queue.length === 0) this.#queues.delete(path);
    }
    if (!failed) {
      this.#lastError = null;
      if (!this.#droppedSinceRound) this.#troubled = false;
    }
    this.#droppedSinceRound = false;
  }

  async #write(path: string, batch: Batch): Promise<boolean> {
    const flight = { path, batch, submitted: false };
    this.#flight = flight;
    const result = await append(path, Buffer.from(batch.lines.join("")), {
      fsync: this.#options.fsync,
      onWrite: () => {
        flight.submitted = true;
      },
    });
    this.#flight = undefined;
    return this.#settle(path, batch, result);
  }

  /** Counts what was written whole and keeps the rest, in its order, for the next try. */
  #settle(path: string, batch: Batch, result: AppendResult): boolean {
    let lines = 0;
    let bytes = 0;
    for (const size of batch.sizes) {
      // All but its newline is enough: whoever writes next sees to that.
      if (bytes + size > result.written + 1) break;
      bytes += size;
      lines++;
    }
    this.#written += lines;
    this.#writtenBytes += bytes;
    this.#lines -= lines;
    this.#bytes -= bytes;
    if (lines > 0) this.#linesOf.set(path, this.linesWrittenTo(path) + lines);
    const queue = this.#queue(path);
    if (lines < batch.lines.length) queue.putBack(batch, lines);
    if (result.error === undefined) {
      queue.succeeded();
      return true;
    }
    queue.failed();
    this.#failures++;
    for (const size of queue.trim(this.#failingShare)) {
      this.#lines--;
      this.#bytes -= size;
      this.#dropped++;
    }
    this.#lastError = result.error instanceof Error ? result.error.message : String(result.error);
    this.#trouble(`${path} cannot be written: ${this.#lastError}`, result.error);
    return false;
  }

  #queue(path: string): LineQueue {
    let queue = this.#queues.get(path);
    if (queue === undefined) {
      queue = new LineQueue();
      this.#queues.set(path, queue);
    }
    return queue;
  }

  #giveUp(why: string): void {
    const lines = this.#lines;
    this.#queues.clear();
    this.#lines = 0;
    this.#bytes = 0;
    if (lines > 0) this.drop(lines, `${lines} lines are lost, ${why}`);
  }

  #trouble(what: string, cause: unknown): void {
    if (this.#troubled) return;
    this.#troubled = true;
    const message = `agent-outbox file logging: ${what}. Messages and tasks are not affected.`;
    const { onWarning } = this.#options;
    try {
      if (onWarning !== undefined) onWarning(message, cause);
      // A process warning is printed on the next tick, and an exiting process has none.
      else if (this.#state === "exiting") process.stderr.write(`${message}\n`);
      else
        process.emitWarning(message, { type: "AgentOutboxWarning", code: "OUTBOX_FILE_LOGGING" });
    } catch {
      // A hook that throws must not fail what is being logged.
    }
  }
}
