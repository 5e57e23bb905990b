/**
 * Where log lines lie: the names of the files, the two layouts, listing, and removal by age. Paths are built
 * from a fixed list of names and a UTC day alone, so nothing that an agent sends can reach a path.
 */
import { readdir, rmdir, stat, unlink } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import type {} from "dayjs/plugin/utc.js";
import { AgentCommunicationError, ValidationFailed } from "../errors.ts";

export const LOG_FILE_NAMES = [
  "agent_activity",
  "message_audit",
  "task_history",
  "performance",
  "errors",
] as const;

export type LogFileName = (typeof LOG_FILE_NAMES)[number];

/** `by-date`: `<base>/2024-01-15/errors_2024-01-15.jsonl`; `flat`: `<base>/errors_2024-01-15.jsonl`. */
export type LogLayout = "by-date" | "flat";

/** One log file on disk. */
export interface LogFile {
  readonly file: LogFileName;
  /** The UTC day in the name, `YYYY-MM-DD`. */
  readonly day: string;
  readonly path: string;
  readonly bytes: number;
}

export interface CleanupResult {
  readonly removed: readonly LogFile[];
  /** Old files that could not be removed; the others were removed all the same. */
  readonly failed: readonly { readonly path: string; readonly reason: string }[];
}

const DAY_MS = 86_400_000;
/** Loaded with the first day that is asked for, as what writes the lines. */
let days: typeof import("dayjs") | undefined;

function loaded(): typeof import("dayjs") {
  const require = createRequire(import.meta.url);
  const dayjs = require("dayjs") as typeof import("dayjs");
  dayjs.extend(require("dayjs/plugin/utc.js") as Parameters<typeof dayjs.extend>[0]);
  return dayjs;
}

const FILE_NAME = new RegExp(`^(${LOG_FILE_NAMES.join("|")})_(\\d{4}-\\d{2}-\\d{2})\\.jsonl$`);

export function logFilePath(
  baseDir: string,
  layout: LogLayout,
  file: LogFileName,
  day: string,
): string {
  const name = `${file}_${day}.jsonl`;
  return layout === "flat" ? join(baseDir, name) : join(baseDir, day, name);
}

/** The UTC day `days` before or after (negative: before) the given instant or day. */
export function utcDay(at: number | string, later = 0): string {
  days ??= loaded();
  return days.utc(at).add(later, "day").format("YYYY-MM-DD");
}

/**
 * All log files below `baseDir`, in both layouts, ordered by day and name. A directory that does not exist
 * holds none. With `since` (a UTC day), older files are left out without being looked at.
 */
export async function listLogFiles(
  baseDir: string,
  options: { readonly since?: string | undefined } = {},
): Promise<LogFile[]> {
  const since = options.since ?? "";
  const found: Promise<LogFile | undefined>[] = [];
  const collect = (directory: string, name: string, onlyDay?: string) => {
    const [, file, day] = FILE_NAME.exec(name) ?? [];
    if (file === undefined || day === undefined || !isDay(day) || day < since) return;
    if (onlyDay !== undefined && day !== onlyDay) return;
    found.push(logFile(file as LogFileName, day, join(directory, name)));
  };
  // Links count neither as files nor as directories here: cleaning up must never reach beyond `baseDir`.
  for (const entry of await entriesOf(baseDir)) {
    if (entry.isFile()) collect(baseDir, entry.name);
    else if (entry.isDirectory() && isDay(entry.name) && entry.name >= since) {
      const directory = join(baseDir, entry.name);
      for (const inner of await entriesOf(directory)) {
        if (inner.isFile()) collect(directory, inner.name, entry.name);
      }
    }
  }
  const files = (await Promise.all(found)).filter((file) => file !== undefined);
  return files.sort((a, b) => compare(a.day, b.day) || compare(a.path, b.path));
}

/**
 * Removes the log files whose UTC day lies more than `daysToKeep` days before today: 0 keeps today alone.
 * Only files that bear our names are touched; a day's directory goes when nothing else is in it.
 */
export async function cleanupLogs(
  baseDir: string,
  daysToKeep = 30,
  now: number = Date.now(),
): Promise<CleanupResult> {
  if (!Number.isSafeInteger(daysToKeep) || daysToKeep < 0 || daysToKeep > 1_000_000) {
    throw new ValidationFailed(
      `daysToKeep must be a whole number of days from 0 to 1000000, got ${String(daysToKeep)}`,
      { details: { daysToKeep: String(daysToKeep) } },
    );
  }
  const today = Date.parse(utcDay(now));
  const removed: LogFile[] = [];
  const failed: { path: string; reason: string }[] = [];
  for (const file of await listLogFiles(baseDir)) {
    if (today - Date.parse(file.day) <= daysToKeep * DAY_MS) continue;
    try {
      await unlink(file.path);
      removed.push(file);
    } catch (error) {
      // Another process cleaning up at the same moment got there first.
      if (codeOf(error) !== "ENOENT") failed.push({ path: file.path, reason: String(error) });
    }
  }
  for (const day of new Set(removed.map((file) => file.day))) {
    // rmdir refuses a directory that is not empty, which is the wanted answer for foreign files.
    await rmdir(join(baseDir, day)).catch(() => {});
  }
  return { removed, failed };
}

/** The code of a system error, for example `ENOENT`. */
export function codeOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null | undefined)?.code;
  return typeof code === "string" ? code : undefined;
}

function isDay(name: string): boolean {
  if (!/^\d{4}-\d{2}-\d{2}$/.test(name)) return false;
  const ms = Date.parse(name);
  return !Number.isNaN(ms) && utcDay(ms) === name;
}

async function logFile(file: LogFileName, day: string, path: string): Promise<LogFile | undefined> {
  try {
    return { file, day, path, bytes: (await stat(path)).size };
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw unreadable(path, error);
  }
}

async function entriesOf(directory: string) {
  try {
    return await readdir(directory, { withFileTypes: true });
  } catch (error) {
    if (codeOf(error) === "ENOENT") return [];
    throw unreadable(directory, error);
  }
}

function unreadable(path: string, cause: unknown): AgentCommunicationError {
  return new AgentCommunicationError(
    "INVALID_CONFIGURATION",
    `The log directory cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`,
    {
      cause,
      details: { path },
      recoverySuggestion:
        "Name the directory that file logging writes to, and give this user access.",
    },
  );
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
