import { open, readdir } from "node:fs/promises";
import { extname, join } from "node:path";

/** What kind of analysis a file gets. */
export type FileKind = "code" | "markdown" | "json" | "text";

export interface FoundFile {
  /** Relative to the folder, with slashes. */
  readonly path: string;
  readonly kind: FileKind;
  readonly bytes: number;
}

export interface Walk {
  readonly files: readonly FoundFile[];
  readonly skipped: {
    readonly binary: number;
    readonly large: number;
    readonly unreadable: number;
  };
  /** True when there are more files than `limit`. */
  readonly more: boolean;
}

/** Dependencies, builds, version control and what this program writes itself. */
const SKIPPED_FOLDERS = new Set(
  "node_modules .git .hg .svn dist coverage .outbox-demo .venv __pycache__ .next .cache".split(" "),
);
const LARGEST_FILE = 1_000_000;
/** Entries looked at, at most: a home directory must not keep a newcomer waiting. */
const MOST_ENTRIES = 20_000;
const PEEK_BYTES = 4_096;

const KINDS: Record<string, FileKind> = {};
for (const ending of "ts mts cts tsx js mjs cjs jsx".split(" ")) KINDS[`.${ending}`] = "code";
for (const ending of "md markdown".split(" ")) KINDS[`.${ending}`] = "markdown";
for (const ending of "json jsonl ndjson jsonc code-workspace".split(" "))
  KINDS[`.${ending}`] = "json";

/** The text files below `root`, those near the top first, always in the same order. */
export async function walk(root: string, limit: number): Promise<Walk> {
  const files: FoundFile[] = [];
  const skipped = { binary: 0, large: 0, unreadable: 0 };
  const folders = [""];
  let looked = 0;
  for (let folder = folders.shift(); folder !== undefined; folder = folders.shift()) {
    const entries = await entriesOf(join(root, folder), folder === "");
    if (entries === undefined) skipped.unreadable++;
    for (const entry of entries ?? []) {
      if (++looked > MOST_ENTRIES) return { files, skipped, more: true };
      const path = folder === "" ? entry.name : `${folder}/${entry.name}`;
      if (entry.isDirectory() && !SKIPPED_FOLDERS.has(entry.name)) folders.push(path);
      // Links are not followed: they may lead out of the folder, or in circles.
      if (!entry.isFile()) continue;
      const seen = await look(join(root, path));
      if (typeof seen === "string") skipped[seen]++;
      else if (files.length >= limit) return { files, skipped, more: true };
      else files.push({ path, kind: kindOf(path), bytes: seen });
    }
  }
  return { files, skipped, more: false };
}

/** The top folder must be readable; one further down that is not costs its files only. */
async function entriesOf(folder: string, isTop: boolean) {
  try {
    const entries = await readdir(folder, { withFileTypes: true });
    return entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  } catch (error) {
    if (isTop) throw error;
    return undefined;
  }
}

function kindOf(path: string): FileKind {
  return KINDS[extname(path).toLowerCase()] ?? "text";
}

/** The size of a text file, or why it is left out. */
async function look(path: string): Promise<number | keyof Walk["skipped"]> {
  try {
    await using file = await open(path);
    const { size } = await file.stat();
    if (size > LARGEST_FILE) return "large";
    const { buffer, bytesRead } = await file.read(Buffer.alloc(PEEK_BYTES), 0, PEEK_BYTES, 0);
    return buffer.subarray(0, bytesRead).includes(0) ? "binary" : size;
  } catch {
    return "unreadable";
  }
}
