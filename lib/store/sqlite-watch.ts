import { type FSWatcher, realpathSync, watch } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import type { Knex } from "knex";
import type { WakeChannel } from "./wake-channel.ts";

/** However often the file is written, it is told of no more often than this. */
const WINDOW_MS = 10;

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
      const told = inWindows(() => heard(""));
      // The folder, because the file beside the database comes and goes.
      const real = realOf(file);
      const watcher = watch(dirname(real), { persistent: false }, (_event, name) => {
        if (name === null || name.startsWith(basename(real))) told.ring();
      });
      watcher.on("error", () => {
        close(watcher);
        lost();
      });
      return {
        close: () => {
          told.end();
          close(watcher);
        },
      };
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
  watcher.on("error", () => undefined);
  watcher.close();
}

/** Calls at once, and then once more at the end of each window in which it was rung again. */
function inWindows(call: () => void): { ring(): void; end(): void } {
  let again = false;
  let timer: NodeJS.Timeout | undefined;
  const ring = () => {
    if (timer !== undefined) {
      again = true;
      return;
    }
    timer = setTimeout(() => {
      timer = undefined;
      if (!again) return;
      again = false;
      ring();
    }, WINDOW_MS).unref();
    call();
  };
  return { ring, end: () => clearTimeout(timer) };
}
