/**
 * Appends whole lines to a file that other processes append to as well. The file is opened anew for each
 * batch: a few system calls every flush, and a file that was deleted, rotated or replaced in between is never
 * written to under its old identity.
 *
 * One batch is one write(2) with O_APPEND, which local file systems carry out as one step. Network file
 * systems (NFS, SMB) do not promise that between machines: there, give each machine its own directory.
 *
 * A full disk, or SIGKILL, can still end someone's write in the middle of a line, and jq refuses the whole file
 * for it. Whoever writes next therefore begins on a new line and then blanks the torn piece out, together with
 * that newline, so that its own first line merely has spaces in front.
 */
import { closeSync, constants, fstatSync, mkdirSync, openSync, readSync, writeSync } from "node:fs";
import { type FileHandle, mkdir, open } from "node:fs/promises";
import { dirname } from "node:path";
import { codeOf } from "./log-files.ts";
import { MAX_LINE_BYTES } from "./log-lines.ts";

const FILE_MODE = 0o640;
const DIRECTORY_MODE = 0o750;
const NEWLINE = 0x0a;
const SPACE = 0x20;

// Readable too, to see how the file ends. A link planted under our name is refused (where the system can).
const FLAGS =
  constants.O_RDWR | constants.O_APPEND | constants.O_CREAT | (constants.O_NOFOLLOW ?? 0);
// Linux appends whatever the position while O_APPEND is set, so blanking out needs a descriptor without it.
const REPAIR_FLAGS = constants.O_RDWR | (constants.O_NOFOLLOW ?? 0);

export interface AppendResult {
  /** How many bytes of the batch are in the file. */
  readonly written: number;
  readonly error?: unknown;
}

export interface AppendOptions {
  /** Waits until the disk has the batch. */
  readonly fsync: boolean;
  /** Called when the write is handed to the system and can no longer be taken back. */
  readonly onWrite?: () => void;
}

/** Appends `batch`, which ends with a newline. Never throws. */
export async function append(
  path: string,
  batch: Buffer,
  options: AppendOptions,
): Promise<AppendResult> {
  let written = 0;
  let handle: FileHandle | undefined;
  try {
    handle = await openForAppend(path);
    const before = regular(await handle.stat(), path).size;
    const last = Buffer.of(NEWLINE);
    if (before > 0) await handle.read(last, 0, 1, before - 1);
    const data = last[0] === NEWLINE ? batch : afterNewline(batch);
    options.onWrite?.();
    const { bytesWritten } = await handle.write(data, 0, data.length, null);
    const extra = data.length - batch.length;
    written = Math.max(0, bytesWritten - extra);
    const after = await handle.stat();
    if (extra > 0 || after.size !== before + bytesWritten) {
      const from = Math.max(0, before - MAX_LINE_BYTES);
      const end = Buffer.alloc(Math.max(0, after.size - from));
      await handle.read(end, 0, end.length, from);
      const ours = data.subarray(0, bytesWritten);
      await blankOut(path, after, tornPiece(end, from, before, ours, extra));
    }
    if (written < batch.length) return { written, error: shortWrite(path) };
    if (options.fsync) await handle.datasync();
    return { written };
  } catch (error) {
    return { written, error };
  } finally {
    await handle?.close().catch(() => {});
  }
}

/** The same for a process that is about to exit and can wait for nothing. */
export function appendSync(path: string, batch: Buffer): AppendResult {
  let written = 0;
  let fd: number | undefined;
  try {
    fd = openForAppendSync(path);
    const before = regular(fstatSync(fd), path).size;
    const last = Buffer.of(NEWLINE);
    if (before > 0) readSync(fd, last, 0, 1, before - 1);
    const data = last[0] === NEWLINE ? batch : afterNewline(batch);
    const bytesWritten = writeSync(fd, data);
    const extra = data.length - batch.length;
    written = Math.max(0, bytesWritten - extra);
    const after = fstatSync(fd);
    if (extra > 0 || after.size !== before + bytesWritten) {
      const from = Math.max(0, before - MAX_LINE_BYTES);
      const end = Buffer.alloc(Math.max(0, after.size - from));
      readSync(fd, end, 0, end.length, from);
      const ours = data.subarray(0, bytesWritten);
      blankOutSync(path, after, tornPiece(end, from, before, ours, extra));
    }
    return written < batch.length ? { written, error: shortWrite(path) } : { written };
  } catch (error) {
    return { written, error };
  } finally {
    closeQuietly(fd);
  }
}

interface Piece {
  readonly position: number;
  readonly length: number;
}

/**
 * What stands between the last line that is whole and what we wrote, together with the `extra` newline that we
 * began with; `end` is the end of the file, from the position `from` on. Once our write is done nobody else's
 * is under way in front of it, so whatever lacks its newline there will never get one.
 */
function tornPiece(
  end: Buffer,
  from: number,
  before: number,
  ours: Buffer,
  extra: number,
): Piece | undefined {
  const found = end.indexOf(ours, before - from);
  if (found < 0) return undefined;
  const lineEnd = found === 0 ? -1 : end.lastIndexOf(NEWLINE, found - 1);
  // No line of ours is that long: the file holds something else, which is not ours to touch.
  if (lineEnd < 0 && from > 0) return undefined;
  const start = lineEnd + 1;
  // All there but its newline: a line like any other, and we have begun on the next.
  if (found > start && isJson(end.subarray(start, found))) return undefined;
  const length = found + extra - start;
  return length > 0 ? { position: from + start, length } : undefined;
}

function isJson(text: Buffer): boolean {
  try {
    JSON.parse(text.toString("utf8"));
    return true;
  } catch {
    return false;
  }
}

type Identity = { readonly ino: number; readonly dev: number };

/** Where this fails the torn piece stays, as a rule on a line of its own. */
async function blankOut(path: string, file: Identity, piece: Piece | undefined): Promise<void> {
  if (piece === undefined) return;
  let handle: FileHandle | undefined;
  try {
    handle = await open(path, REPAIR_FLAGS);
    if (!same(await handle.stat(), file)) return;
    await handle.write(Buffer.alloc(piece.length, SPACE), 0, piece.length, piece.position);
  } catch {
    // The batch itself is written: nothing is lost but the neatness.
  } finally {
    await handle?.close().catch(() => {});
  }
}

function blankOutSync(path: string, file: Identity, piece: Piece | undefined): void {
  if (piece === undefined) return;
  let fd: number | undefined;
  try {
    fd = openSync(path, REPAIR_FLAGS);
    if (!same(fstatSync(fd), file)) return;
    writeSync(fd, Buffer.alloc(piece.length, SPACE), 0, piece.length, piece.position);
  } catch {
    // As above.
  } finally {
    closeQuietly(fd);
  }
}

/** The path may lead to another file by now: rotated, or deleted and made anew. */
function same(a: Identity, b: Identity): boolean {
  return a.ino === b.ino && a.dev === b.dev;
}

async function openForAppend(path: string): Promise<FileHandle> {
  try {
    return await open(path, FLAGS, FILE_MODE);
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error;
    await mkdir(dirname(path), { recursive: true, mode: DIRECTORY_MODE });
    return await open(path, FLAGS, FILE_MODE);
  }
}

function openForAppendSync(path: string): number {
  try {
    return openSync(path, FLAGS, FILE_MODE);
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error;
    mkdirSync(dirname(path), { recursive: true, mode: DIRECTORY_MODE });
    return openSync(path, FLAGS, FILE_MODE);
  }
}

function closeQuietly(fd: number | undefined): void {
  try {
    if (fd !== undefined) closeSync(fd);
  } catch {
    // What could be written was counted; the descriptor goes with the process.
  }
}

function afterNewline(batch: Buffer): Buffer {
  return Buffer.concat([Buffer.of(NEWLINE), batch]);
}

function regular<T extends { isFile(): boolean }>(stats: T, path: string): T {
  if (!stats.isFile()) throw new Error(`${path} is not a regular file`);
  return stats;
}

function shortWrite(path: string): Error {
  return Object.assign(new Error(`ENOSPC: only a part could be written to ${path}`), {
    code: "ENOSPC",
  });
}
