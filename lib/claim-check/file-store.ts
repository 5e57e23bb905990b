import { randomBytes } from "node:crypto";
import type { Dirent } from "node:fs";
import { mkdir, open, readdir, readFile, rename, rmdir, stat, unlink } from "node:fs/promises";
import { dirname, join, resolve, sep } from "node:path";
import { AgentCommunicationError, PermissionDenied, ValidationFailed } from "../errors.ts";
import {
  type ClaimCheckEntry,
  type ClaimCheckStore,
  messageIdOfKey,
} from "../protocol/claim-check.ts";

/** Names of files and folders may have 255 bytes. */
const LONGEST_NAME = 200;
/** A file that is still being written after this long belongs to a process that died. */
const ABANDONED_MS = 86_400_000;

/**
 * Large contents as files: `<folder>/<outbox>/<two digits>/<rest of the key>`. For one machine, or a folder that
 * all machines mount and whose `fsync` and `rename` keep their word (local disks and NFS do, many FUSE mounts do not).
 */
export class FileClaimCheckStore implements ClaimCheckStore {
  readonly folder: string;
  #tidied = false;

  /** @param folder made when it is first needed; relative to the working directory */
  constructor(folder: string) {
    if (typeof folder !== "string" || folder === "" || folder.includes("\0")) {
      throw new ValidationFailed("folder: expected the path of a folder");
    }
    this.folder = resolve(folder);
  }

  /**
   * @throws AgentCommunicationError STORAGE_FULL, PERMISSION_DENIED, CONTENT_UNAVAILABLE; nothing is left of it then
   */
  async put(key: string, bytes: Uint8Array): Promise<void> {
    const path = this.#path(key);
    await this.#told("write", async () => {
      const incoming = join(this.folder, "incoming");
      await mkdir(incoming, { recursive: true });
      if (!this.#tidied) {
        this.#tidied = true;
        await tidy(incoming);
      }
      const temporary = join(incoming, randomBytes(16).toString("hex"));
      try {
        const file = await open(temporary, "wx", 0o600);
        try {
          await file.writeFile(bytes);
          await file.sync();
        } finally {
          await file.close();
        }
        const made = await mkdir(dirname(path), { recursive: true });
        await rename(temporary, path);
        // The name is durable when its folder is, and that one when its own is.
        for (let at = dirname(path); ; at = dirname(at)) {
          await syncFolder(at);
          if (made === undefined || at === dirname(made) || at === dirname(at)) break;
        }
      } catch (error) {
        await unlink(temporary).catch(() => undefined);
        throw error;
      }
    });
  }

  async get(key: string): Promise<Uint8Array | null> {
    const path = this.#path(key);
    return this.#told("read", async () => {
      try {
        return await readFile(path);
      } catch (error) {
        if (codeOf(error) !== "ENOENT") throw error;
        // A folder that is not mounted looks as empty as one that was emptied: only where others are, this is not.
        await stat(join(this.folder, key.slice(0, key.indexOf("/"))));
        return null;
      }
    });
  }

  async delete(key: string): Promise<void> {
    const path = this.#path(key);
    await this.#told("delete", async () => {
      try {
        await unlink(path);
        // Only the folder of a long name is its own; others hold something, or may soon.
        if (key.length > LONGEST_NAME) await rmdir(dirname(path));
      } catch (error) {
        if (!["ENOENT", "ENOTEMPTY", "EEXIST"].includes(codeOf(error))) throw error;
      }
    });
  }

  /** Files of other names are passed over. */
  async *list(prefix: string): AsyncGenerator<ClaimCheckEntry> {
    const outboxes = (await this.#entries(this.folder)).filter((one) => one.isDirectory());
    for (const { name } of outboxes) {
      const key = `${name}/`;
      if (!key.startsWith(prefix) && !prefix.startsWith(key)) continue;
      for await (const entry of this.#listed(join(this.folder, name), key, true)) {
        if (entry.key.startsWith(prefix)) yield entry;
      }
    }
  }

  async *#listed(folder: string, before: string, shards: boolean): AsyncGenerator<ClaimCheckEntry> {
    for (const entry of await this.#entries(folder)) {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) {
        yield* this.#listed(path, before + entry.name, false);
      } else if (!shards && messageIdOfKey(before + entry.name) !== undefined) {
        const storedAt = await this.#told("read", () => modifiedAt(path));
        // Deleted since it was listed.
        if (storedAt !== undefined) yield { key: before + entry.name, storedAt };
      }
    }
  }

  async #entries(folder: string): Promise<Dirent[]> {
    return this.#told("read", async () => {
      try {
        return await readdir(folder, { withFileTypes: true });
      } catch (error) {
        if (codeOf(error) === "ENOENT") return [];
        throw error;
      }
    });
  }

  /** Refuses whatever is no key: what was put into the row by other hands must not lead out of the folder. */
  #path(key: string): string {
    if (messageIdOfKey(key) === undefined) {
      throw new ValidationFailed("key: expected a key that the queue made");
    }
    const slash = key.indexOf("/");
    const name = key.slice(slash + 1);
    const parts = name.slice(2).match(new RegExp(`.{1,${LONGEST_NAME}}`, "g")) ?? [];
    const path = join(this.folder, key.slice(0, slash), name.slice(0, 2), ...parts);
    if (!path.startsWith(this.folder + sep))
      throw new ValidationFailed("key: leads out of the folder");
    return path;
  }

  async #told<T>(what: string, run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (error) {
      const said = `the claim-check store could not ${what}: ${(error as Error).message}`;
      const options = { cause: error, details: { folder: this.folder } };
      switch (codeOf(error)) {
        case "ENOSPC":
        case "EDQUOT":
        case "EFBIG":
          throw new AgentCommunicationError("STORAGE_FULL", said, {
            ...options,
            recoverySuggestion: `Free disk space for ${this.folder}; \`agent-outbox payloads sweep\` deletes what no message needs.`,
          });
        case "EACCES":
        case "EPERM":
        case "EROFS":
          throw new PermissionDenied(said, {
            ...options,
            recoverySuggestion: `Let this process's user read and write ${this.folder}, or name another folder.`,
          });
        default:
          throw new AgentCommunicationError("CONTENT_UNAVAILABLE", said, options);
      }
    }
  }
}

function codeOf(error: unknown): string {
  return String((error as { code?: unknown } | null)?.code ?? "");
}

async function modifiedAt(path: string): Promise<number | undefined> {
  try {
    return Math.floor((await stat(path)).mtimeMs);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

/** Windows has no such thing, and needs none. */
async function syncFolder(folder: string): Promise<void> {
  if (process.platform === "win32") return;
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Deletes what dead processes left half-written. */
async function tidy(incoming: string): Promise<void> {
  const before = Date.now() - ABANDONED_MS;
  for (const name of await readdir(incoming)) {
    const path = join(incoming, name);
    if (((await modifiedAt(path)) ?? before) < before) await unlink(path).catch(() => undefined);
  }
}
