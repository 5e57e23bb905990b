/** Where a run keeps its things: a folder of its own, and tables of its own. */
import { randomBytes } from "node:crypto";
import { mkdir, readdir, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { migrateDown, migrationStatus, type Outbox } from "../lib/index.ts";
import type { DemoOptions } from "./options.ts";

/** Something that a person can put right; the message says how. */
export class DemoError extends Error {}

export interface Place {
  /** The folder whose files are analysed. */
  readonly root: string;
  readonly out: string;
  readonly logs: string;
  readonly logFile: string;
  readonly database: string;
  /** The SQLite file of this run; null in a database of the caller's. */
  readonly file: string | null;
  readonly prefix: string;
}

/** The folder to analyse. @throws DemoError */
export async function folderOf(folder: string): Promise<string> {
  const root = resolve(folder);
  const found = await stat(root).catch((error: NodeJS.ErrnoException) => error.code ?? "unknown");
  if (typeof found === "string") {
    const what = found === "ENOENT" ? "there is no folder" : `(${found}) nobody can read`;
    throw new DemoError(`${what} ${root}; name one that holds some source files.`);
  }
  if (!found.isDirectory()) throw new DemoError(`${root} is a file; name the folder it is in.`);
  return root;
}

/** @throws DemoError */
export async function preparePlace(root: string, options: DemoOptions): Promise<Place> {
  const time = new Date().toISOString().slice(0, 19).replace("T", "_").replaceAll(":", "-");
  const out = resolve(options.out ?? join(".outbox-demo", `${time}_${process.pid}`));
  const logs = join(out, "logs");
  const file = join(out, "demo.sqlite");
  try {
    await makeFolder(logs);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new DemoError(`cannot write to ${out} (${code}); name another folder with --out.`);
  }
  if ((await readdir(logs)).length > 0 || (await stat(file).catch(() => undefined)) !== undefined) {
    throw new DemoError(`${out} holds an earlier run; remove it, or name another with --out.`);
  }
  const own = options.database === undefined;
  return {
    root,
    out,
    logs,
    logFile: join(out, "agent_communication_demo.log"),
    file: own ? file : null,
    database: options.database ?? `sqlite:${encodeURI(file).replaceAll("?", "%3F")}`,
    // A database that others use gets tables that cannot be theirs.
    prefix: own ? "outbox_" : `demo_${randomBytes(4).toString("hex")}_`,
  };
}

/** Like `recursive: true`, which never returns where even the top cannot be made (nodejs, below /proc). */
async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EEXIST" && (await stat(path)).isDirectory()) return;
    if (code !== "ENOENT" || dirname(path) === path) throw error;
    await makeFolder(dirname(path));
    await mkdir(path);
  }
}

/** Takes the demo's tables out of a database that was there before. */
export async function removeTables({ knex }: Outbox, prefix: string): Promise<void> {
  const applied = (await migrationStatus(knex, { prefix })).filter(
    ({ state }) => state === "applied",
  );
  await migrateDown(knex, { prefix, steps: applied.length });
  await knex.schema.dropTable(`${prefix}migrations`);
}
