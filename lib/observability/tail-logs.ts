/**
 * Reads the log files back: the last lines, and then, if wanted, each line as it is written, across both
 * layouts and the change of day.
 */
import { open } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";
import { ValidationFailed } from "../errors.ts";
import {
  codeOf,
  LOG_FILE_NAMES,
  type LogFile,
  type LogFileName,
  listLogFiles,
  utcDay,
} from "./log-files.ts";
import { MAX_LINE_BYTES } from "./log-lines.ts";

/** One line of a log file, parsed. */
export interface LogLine {
  readonly file: LogFileName;
  readonly day: string;
  readonly entry: Readonly<Record<string, unknown>>;
}

export interface TailOptions {
  /** Only this file. Default: all five. */
  readonly file?: LogFileName | undefined;
  /** How many of the lines already there come first, oldest first; Infinity for all. Default: 10. */
  readonly lines?: number | undefined;
  /** Goes on with new lines until `signal` aborts or the loop is left. Default: false. */
  readonly follow?: boolean | undefined;
  /** Ends the iteration, quietly. */
  readonly signal?: AbortSignal | undefined;
  /** Only the lines it answers true for; `lines` counts these. */
  readonly filter?: ((line: LogLine) => boolean) | undefined;
  /** How often a follower looks for new lines, in milliseconds. Default: 200. */
  readonly pollMs?: number | undefined;
}

const CHUNK_BYTES = 65_536;
const NEWLINE = 0x0a;

/** Lines that are not a JSON object (torn by a full disk, written by hand) are passed over. */
export async function* tailLogs(
  baseDir: string,
  options: TailOptions = {},
): AsyncGenerator<LogLine, void, undefined> {
  const { lines = 10, follow = false, signal, pollMs = 200 } = options;
  checkOptions(options.file, lines);
  const keep = options.filter ?? (() => true);
  const wanted = (file: LogFile) => options.file === undefined || file.file === options.file;
  const files = (await listLogFiles(baseDir)).filter(wanted);
  const cursors = new Map<string, Cursor>();
  // Behind a filter the last lines may be anywhere in a file; without one they are in its last bytes.
  const window = options.filter === undefined ? lines * MAX_LINE_BYTES : Number.POSITIVE_INFINITY;
  const readDay = (day: string) => {
    const ofDay = files
      .filter((file) => file.day === day)
      .map((file) => new Cursor(file, file.bytes - window));
    for (const cursor of ofDay) cursors.set(cursor.file.path, cursor);
    return merge(ofDay.map((cursor) => cursor.read()));
  };

  const days = [...new Set(files.map((file) => file.day))];
  if (lines === Number.POSITIVE_INFINITY) {
    for (const day of days) {
      for await (const line of readDay(day)) {
        if (signal?.aborted) return;
        if (keep(line)) yield line;
      }
    }
  } else {
    let last: LogLine[] = [];
    for (const day of days.reverse()) {
      if (last.length >= lines) break;
      const ofDay: LogLine[] = [];
      for await (const line of readDay(day)) {
        if (signal?.aborted) return;
        if (keep(line)) ofDay.push(line);
        if (ofDay.length > lines - last.length) ofDay.shift();
      }
      last = ofDay.concat(last);
    }
    yield* last;
  }
  if (!follow) return;

  for (const file of files) {
    if (!cursors.has(file.path)) cursors.set(file.path, new Cursor(file, file.bytes));
  }
  let newest = files.at(-1)?.day;
  while (!signal?.aborted) {
    // An event of just before midnight may be written just after it: the day before stays in sight.
    const since = newest === undefined ? undefined : utcDay(newest, -1);
    for (const file of (await listLogFiles(baseDir, { since })).filter(wanted)) {
      newest = file.day;
      const cursor = cursors.get(file.path) ?? new Cursor(file);
      cursors.set(file.path, cursor);
      for await (const line of cursor.read()) {
        if (signal?.aborted) return;
        if (keep(line)) yield line;
      }
    }
    // Rejects for an abort alone, which the loop sees by itself.
    await delay(pollMs, undefined, { signal }).catch(() => {});
  }
}

function checkOptions(file: LogFileName | undefined, lines: number): void {
  if (file !== undefined && !LOG_FILE_NAMES.includes(file)) {
    throw new ValidationFailed(`file must be one of ${LOG_FILE_NAMES.join(", ")}, got ${file}`);
  }
  if (!(lines >= 0)) throw new ValidationFailed(`lines must be 0 or more, got ${lines}`);
}

/** Reads one file from where it stopped the last time. */
class Cursor {
  readonly file: LogFile;
  #offset: number;
  #inode: number | undefined;
  /** The beginning of a line whose end was not there yet. */
  #rest: Buffer = Buffer.alloc(0);
  /** Inside a line whose beginning was not read, or that is longer than any of ours. */
  #skipping: boolean;

  constructor(file: LogFile, from = 0) {
    this.file = file;
    this.#offset = Math.max(0, from);
    this.#skipping = this.#offset > 0;
    // One byte earlier, so that a line that begins exactly there is not taken for the rest of another.
    if (this.#skipping) this.#offset--;
  }

  async *read(): AsyncGenerator<LogLine, void, undefined> {
    let handle: Awaited<ReturnType<typeof open>>;
    try {
      handle = await open(this.file.path, "r");
    } catch (error) {
      // Cleaned up since it was listed.
      if (codeOf(error) === "ENOENT") return;
      throw error;
    }
    try {
      const { size, ino } = await handle.stat();
      if (size < this.#offset || (this.#inode !== undefined && ino !== this.#inode)) {
        // Emptied, or deleted and made anew.
        this.#offset = 0;
        this.#rest = Buffer.alloc(0);
        this.#skipping = false;
      }
      this.#inode = ino;
      const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
      for (;;) {
        const { bytesRead } = await handle.read(chunk, 0, CHUNK_BYTES, this.#offset);
        if (bytesRead === 0) return;
        this.#offset += bytesRead;
        yield* this.#split(chunk.subarray(0, bytesRead));
      }
    } finally {
      await handle.close();
    }
  }

  *#split(chunk: Buffer): Generator<LogLine, void, undefined> {
    let from = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, from)) {
      const line = this.#skipping ? undefined : this.#parse(chunk.subarray(from, end));
      this.#rest = Buffer.alloc(0);
      this.#skipping = false;
      from = end + 1;
      if (line !== undefined) yield line;
    }
    this.#rest = Buffer.concat([this.#rest, chunk.subarray(from)]);
    if (this.#skipping || this.#rest.length > 16 * MAX_LINE_BYTES) {
      this.#rest = Buffer.alloc(0);
      this.#skipping = true;
    }
  }

  #parse(end: Buffer): LogLine | undefined {
    try {
      const entry: unknown = JSON.parse(Buffer.concat([this.#rest, end]).toString("utf8"));
      if (typeof entry !== "object" || entry === null || Array.isArray(entry)) return undefined;
      return { file: this.file.file, day: this.file.day, entry: entry as LogLine["entry"] };
    } catch {
      return undefined;
    }
  }
}

/** One stream in the order of time out of several that are each, as good as, in that order. */
async function* merge(
  sources: readonly AsyncGenerator<LogLine, void, undefined>[],
): AsyncGenerator<LogLine, void, undefined> {
  try {
    const heads = await Promise.all(sources.map((source) => source.next()));
    for (;;) {
      let first = -1;
      for (const [index, head] of heads.entries()) {
        if (!head.done && (first < 0 || timeOf(head) < timeOf(heads[first]))) first = index;
      }
      const head = heads[first];
      const source = sources[first];
      if (head === undefined || head.done || source === undefined) return;
      yield head.value;
      heads[first] = await source.next();
    }
  } finally {
    await Promise.all(sources.map((source) => source.return()));
  }
}

function timeOf(head: IteratorResult<LogLine, void> | undefined): string {
  const timestamp = head?.done === false ? head.value.entry.timestamp : undefined;
  return typeof timestamp === "string" ? timestamp : "";
}
