import { type FSWatcher, realpathSync, watch } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import type { Knex } from "knex";
import type { WakeChannel } from "./wake-channel.ts";

/**
 * The first write of a commit is heard before its last is made, and then there is nothing to find yet: it is told of
 * once more soon. However often the file is written, it is told of no more often than each 10 ms in the end.
 */
const FIRST_WINDOW_MS = 2;
const WINDOW_MS = 10;
/**
 * A commit of many rows is thousands of writes, and hearing of each costs more than making it: after so many of a
 * window, nobody listens until it ends.
 */
const MOST_HEARD = 4;
/** To begin to listen takes milliseconds in a folder of many files: so many times that nobody listens, then. */
const DEAF_SHARE = 20;

/**
 * SQLite tells nobody anything, but the file system does: whoever commits writes to the file beside the database
 * (`-wal`). So every commit of any process wakes, whatever it was about. A database in memory has one process.
 */
export function sqliteChannel(knex: Knex): WakeChannel | undefined {
  const { filename } = (knex.client as { connectionSettings?: { filename?: string } })
    .connectionSettings ?? { filename: undefined };
  if (filename === undefined || filename === "" || filename.startsWith(":memory:"))
    return undefined;
  const file = resolve(filename.replace(/^file:(\/\/)?/, "").replace(/\?.*$/, ""));
  return {
    untested: true,
    // The write itself was heard.
    async send() {},
    async listen({ heard, lost }) {
      // The folder, because the file beside the database comes and goes.
      const real = realOf(file);
      const [folder, name] = [dirname(real), basename(real)];
      return listening({
        heard: () => heard(""),
        lost,
        open: (ring) =>
          watch(folder, { persistent: false }, (_event, changed) => {
            if (changed === null || changed.startsWith(name)) ring();
          }),
      });
    },
  };
}

/** SQLite writes beside the file that a link leads to. */
function realOf(file: string): string {
  try {
    return realpathSync(file);
  } catch {
    return file;
  }
}

function close(watcher: FSWatcher): void {
  watcher.removeAllListeners("error").on("error", () => undefined);
  watcher.close();
}

interface Listening {
  readonly heard: () => void;
  readonly lost: () => void;
  /** Opens a watcher that rings at every write. */
  readonly open: (ring: () => void) => FSWatcher;
}

/** Calls at once, and then once more at the end of each window in which it was rung again. */
function listening({ heard, lost, open }: Listening): { close(): void } {
  let rung = 0;
  let windowMs = FIRST_WINDOW_MS;
  let timer: NodeJS.Timeout | undefined;
  let watcher: FSWatcher | undefined;
  let openMs = 0;
  const deafen = () => {
    if (watcher !== undefined) close(watcher);
    watcher = undefined;
  };
  const end = () => {
    clearTimeout(timer);
    deafen();
  };
  const listen = () => {
    const began = performance.now();
    watcher = open(ring);
    openMs = performance.now() - began;
    watcher.on("error", fail);
  };
  const fail = () => {
    end();
    lost();
  };
  const call = () => {
    timer = setTimeout(endWindow, windowMs).unref();
    heard();
  };
  const ring = () => {
    if (timer === undefined) return call();
    rung += 1;
    if (rung === MOST_HEARD) deafen();
  };
  const endWindow = () => {
    timer = undefined;
    const again = rung > 0;
    rung = 0;
    const deaf = watcher === undefined;
    try {
      if (deaf) listen();
    } catch {
      return fail();
    }
    const longestMs = deaf ? Math.max(WINDOW_MS, openMs * DEAF_SHARE) : WINDOW_MS;
    windowMs = again ? Math.min(windowMs * 2, longestMs) : FIRST_WINDOW_MS;
    // After it listens again: what was written meanwhile is found now.
    if (again) call();
  };
  listen();
  return { close: end };
}
