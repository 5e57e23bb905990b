/**
 * File logging, off unless enabled: five files of JSON lines a day that jq can read. The logger is an observer
 * of the outbox and nothing more; it costs log lines, never a message, when the disk gives out.
 */
import { resolve } from "node:path";
import { z } from "zod";
import { AgentCommunicationError } from "../errors.ts";
import {
  type Observer,
  type OutboxEvent,
  observeEverything,
  type TaskEventName,
} from "../protocol/events.ts";
import { LineBuffer, type LineCounters } from "./line-buffer.ts";
import {
  type CleanupResult,
  cleanupLogs,
  type LogFile,
  type LogFileName,
  type LogLayout,
  listLogFiles,
  logFilePath,
} from "./log-files.ts";
import { formatLine } from "./log-lines.ts";

const fileLoggingSchema = z.strictObject({
  /** The directory of the log files; made when missing. A relative path counts from the working directory at the start. */
  baseDir: z
    .string()
    .min(1)
    .refine((path) => !path.includes("\0"), "must not contain a NUL character"),

  /**
   * `by-date` puts each UTC day into a directory of its own (`logs/2024-01-15/errors_2024-01-15.jsonl`), `flat`
   * all files into one (`logs/errors_2024-01-15.jsonl`). Default: `by-date`.
   */
  layout: z.enum(["by-date", "flat"]).default("by-date"),

  /**
   * Waits after each flush until the disk has it, so that a power cut costs no line that was flushed. Slower
   * disks then hold more lines in memory. Default: false, the system writes back in its own time.
   */
  fsync: z.boolean().default(false),

  /** The longest that a line waits in memory before it is written, in milliseconds (1 to 10000). Default: 50. */
  flushMs: z.int().min(1).max(10_000).default(50),

  /**
   * How much may wait in memory while the disk is slow, full or away, in bytes (65536 to 1 GiB). Beyond it the
   * newest lines are dropped and counted. Default: 16777216 (16 MiB).
   */
  maxBufferBytes: z.int().min(65_536).max(1_073_741_824).default(16_777_216),

  /**
   * Called once when lines cannot be written or are dropped, and again only after logging recovered. Default:
   * one process warning, which Node prints on stderr.
   */
  onWarning: z
    .custom<(message: string, cause: unknown) => void>((hook) => typeof hook === "function", {
      error: "must be a function",
    })
    .optional(),
});

export type FileLoggingOptions = z.input<typeof fileLoggingSchema>;
type ResolvedOptions = Readonly<z.output<typeof fileLoggingSchema>>;

/** What `getLogStats` answers; in snake_case, as in the lines themselves. */
export interface FileLogStats extends LineCounters {
  readonly base_dir: string;
  readonly layout: LogLayout;
  /** Every log file on disk, oldest first, whoever wrote it. */
  readonly log_files: readonly (LogFile & {
    /** Lines that this logger wrote to it. */
    readonly lines_written: number;
  })[];
  readonly total_bytes: number;
  /** Lines shortened to fit the limit of 64 KiB. */
  readonly lines_truncated: number;
}

type Data = Readonly<Record<string, unknown>>;

/** Writes what the outbox committed, and what the application reports, to the five daily files. */
export class FileLogger {
  readonly options: ResolvedOptions;
  readonly #clock: () => number;
  readonly #buffer: LineBuffer;
  readonly #paths = new Map<LogFileName, { readonly day: string; readonly path: string }>();
  #truncated = 0;

  /** The clock is for tests; events of the outbox bring the database's time with them. */
  constructor(options: string | FileLoggingOptions, clock: () => number = Date.now) {
    this.options = resolveOptions(options);
    this.#clock = clock;
    this.#buffer = new LineBuffer(this.options);
  }

  /** Hand this to the outbox. It returns at once and never throws. */
  readonly observer: Observer = (events) => {
    for (const event of events) this.#log(event);
  };

  logAgentActivity(agentId: string, event: string, data: Data = {}): void {
    this.#log({ type: "agent", agentId, event, data, at: this.#clock() });
  }

  logTask(taskId: string, agentId: string | null, event: TaskEventName, data: Data = {}): void {
    this.#log({ type: "task", taskId, agentId, event, data, at: this.#clock() });
  }

  /** For example `logPerformanceMetric("agent_001", "response_time", 125.5, "ms")`. */
  logPerformanceMetric(agentId: string, metric: string, value: number, unit: string): void {
    this.#log({ type: "metric", agentId, metric, value, unit, at: this.#clock() });
  }

  logError(agentId: string, errorType: string, errorMessage: string, data?: Data): void {
    this.#log({ type: "error", agentId, errorType, errorMessage, data, at: this.#clock() });
  }

  async getLogStats(): Promise<FileLogStats> {
    // A directory that cannot be read is what `last_error` tells about; asking must still be possible.
    const files = await listLogFiles(this.options.baseDir).catch(() => []);
    return {
      base_dir: this.options.baseDir,
      layout: this.options.layout,
      log_files: files.map((file) => ({
        ...file,
        lines_written: this.#buffer.linesWrittenTo(file.path),
      })),
      total_bytes: files.reduce((sum, file) => sum + file.bytes, 0),
      lines_truncated: this.#truncated,
      ...this.#buffer.counters,
    };
  }

  /** Removes log files whose UTC day lies more than `daysToKeep` days before today; nothing else. */
  async cleanupOldLogs(daysToKeep = 30): Promise<CleanupResult> {
    const result = await cleanupLogs(this.options.baseDir, daysToKeep, this.#clock());
    for (const { path } of result.removed) this.#buffer.forget(path);
    return result;
  }

  /** Resolves when every line logged before was tried once. Never rejects: see `getLogStats().last_error`. */
  flush(): Promise<void> {
    return this.#buffer.flush();
  }

  /** Writes what waits and ends the logger; lines logged later are dropped. */
  close(): Promise<void> {
    return this.#buffer.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #log(event: OutboxEvent): void {
    try {
      const line = formatLine(event, this.#clock);
      if (line === undefined) return;
      if (line.truncated) this.#truncated++;
      this.#buffer.add(this.#pathOf(line.file, line.day), line.text, line.bytes);
    } catch (error) {
      this.#buffer.drop(1, "an event could not be put into a line", error);
    }
  }

  /** Remembers the last path of each file, because nearly all events are of today. */
  #pathOf(file: LogFileName, day: string): string {
    let last = this.#paths.get(file);
    if (last?.day !== day) {
      last = { day, path: logFilePath(this.options.baseDir, this.options.layout, file, day) };
      this.#paths.set(file, last);
    }
    return last.path;
  }
}

let active: FileLogger | undefined;
let unobserve: (() => void) | undefined;

/**
 * Turns file logging on for this process: it logs what every outbox, queue and registry here commits from now
 * on. Called again with the same settings it returns the same logger; with
 * others, the former logger writes what it holds and ends.
 */
export function enableFileLogging(options: string | FileLoggingOptions): FileLogger {
  if (active !== undefined) {
    if (sameOptions(active.options, resolveOptions(options))) return active;
    unobserve?.();
    void active.close();
  }
  active = new FileLogger(options);
  unobserve = observeEverything(active.observer);
  return active;
}

/** The logger of `enableFileLogging`; undefined while file logging is off. */
export function getFileLogger(): FileLogger | undefined {
  return active;
}

/** Turns file logging off; resolves when the last lines are written. */
export async function disableFileLogging(): Promise<void> {
  const former = active;
  active = undefined;
  // What has just committed is told a turn later.
  await new Promise((resolve) => setImmediate(resolve));
  unobserve?.();
  await former?.close();
}

function resolveOptions(options: string | FileLoggingOptions): ResolvedOptions {
  const parsed = fileLoggingSchema.safeParse(
    typeof options === "string" ? { baseDir: options } : options,
  );
  if (!parsed.success) {
    throw new AgentCommunicationError(
      "INVALID_CONFIGURATION",
      `The file logging options are not valid:\n${z.prettifyError(parsed.error)}`,
      { details: { issues: parsed.error.issues } },
    );
  }
  // Resolved once: a later chdir must not move the log files.
  return Object.freeze({ ...parsed.data, baseDir: resolve(parsed.data.baseDir) });
}

function sameOptions(a: ResolvedOptions, b: ResolvedOptions): boolean {
  return (Object.keys(a) as (keyof ResolvedOptions)[]).every((key) => a[key] === b[key]);
}
