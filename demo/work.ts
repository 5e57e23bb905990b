/** What an agent does with each type of task. Everything here is real work on real files. */
import { createHash } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { analyseCode } from "./analysis/code.ts";
import { takeInventory } from "./analysis/inventory.ts";
import { analyseJson, jsonOptionsOf } from "./analysis/json.ts";
import { checkLinks, type LinkTargets } from "./analysis/links.ts";
import { outlineOf, parseMarkdown } from "./analysis/markdown.ts";
import { analyseText } from "./analysis/text.ts";
import type {
  Capability,
  Facts,
  FileTask,
  HashTask,
  InventoryTask,
  MarkdownFacts,
  TaskResult,
} from "./protocol.ts";

/** A result is a message: long lists are counted in full and shown in part. */
const MOST_BROKEN = 50;
const MOST_HEADINGS = 300;
const MOST_LANGUAGES = 100;

/** Called when a task is half done: its input is read, its result is not there yet. */
export type Halfway = () => Promise<void>;

export async function perform<C extends Capability>(
  capability: C,
  parameters: unknown,
  root: string,
  halfway: Halfway,
): Promise<TaskResult<C>> {
  const started = performance.now();
  const done = (facts: Facts[C] | { unreadable: string }) =>
    ({ workMs: Math.round((performance.now() - started) * 10) / 10, ...facts }) as TaskResult<C>;
  try {
    return done(await WORK[capability](parameters as never, root, halfway));
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    // Trying again would not make the file readable; anything else is a failure of the task.
    if (typeof code !== "string" || !/^E[A-Z]+$/.test(code)) throw error;
    return done({ unreadable: code });
  }
}

const WORK: {
  [C in Capability]: (parameters: never, root: string, halfway: Halfway) => Promise<Facts[C]>;
} = {
  code: onText(async (text, path) => analyseCode(text, path)),
  json: onText(async (text, path) => analyseJson(text, jsonOptionsOf(path))),
  text: onText(async (text, path) => analyseText(text, path)),
  markdown: onText(markdown),
  hash: async ({ paths }: HashTask, root, halfway) => {
    const files = [];
    for (const [n, path] of paths.entries()) {
      if (n === Math.floor(paths.length / 2)) await halfway();
      const content = await readFile(join(root, path)).catch(() => undefined);
      if (content === undefined) continue;
      const sha256 = createHash("sha256").update(content).digest("hex");
      files.push({ path, bytes: content.length, sha256 });
    }
    return { files };
  },
  inventory: async ({ files }: InventoryTask) => takeInventory(files),
};

function onText<T>(analyse: (text: string, path: string, root: string) => Promise<T>) {
  return async ({ path }: FileTask, root: string, halfway: Halfway): Promise<T> => {
    const text = await readFile(join(root, path), "utf8");
    await halfway();
    return analyse(text, path, root);
  };
}

async function markdown(text: string, path: string, root: string): Promise<MarkdownFacts> {
  const document = parseMarkdown(text);
  const { relative, elsewhere, broken } = await checkLinks(document, path, targetsIn(root));
  return {
    headings: document.headings.length,
    outline: outlineOf(document.headings.slice(0, MOST_HEADINGS)),
    fences: Object.fromEntries(Object.entries(document.fences).slice(0, MOST_LANGUAGES)),
    relativeLinks: relative,
    linksElsewhere: elsewhere,
    brokenLinks: broken.length,
    broken: broken.slice(0, MOST_BROKEN),
  };
}

/** Looks at the folder, and at each linked document once. */
function targetsIn(root: string): LinkTargets {
  const anchors = new Map<string, Promise<ReadonlySet<string>>>();
  const read = async (path: string) =>
    parseMarkdown(await readFile(join(root, path), "utf8")).anchors;
  return {
    exists: (path) =>
      stat(join(root, path)).then(
        () => true,
        () => false,
      ),
    anchors: (path) => {
      const known = anchors.get(path) ?? read(path);
      anchors.set(path, known);
      return known;
    },
  };
}
