import { posix } from "node:path";
import type { Link, MarkdownDocument } from "./markdown.ts";

export interface BrokenLink {
  readonly target: string;
  readonly line: number;
  readonly reason: "no such file" | "no such heading";
}

/** What links can point to; paths are relative to the folder, with slashes. */
export interface LinkTargets {
  exists(path: string): Promise<boolean>;
  /** The anchors of a Markdown file. */
  anchors(path: string): Promise<ReadonlySet<string>>;
}

export interface LinkReport {
  /** Links within the folder. */
  readonly relative: number;
  /** Links elsewhere: other sites, or above the folder. They are not looked at. */
  readonly elsewhere: number;
  readonly broken: readonly BrokenLink[];
}

const SCHEME = /^(?:[a-z][a-z\d+.-]*:|\/\/)/i;

/** Follows every relative link of the Markdown file at `path`. */
export async function checkLinks(
  document: MarkdownDocument,
  path: string,
  targets: LinkTargets,
): Promise<LinkReport> {
  const broken: BrokenLink[] = [];
  let elsewhere = 0;
  let relative = 0;
  for (const link of document.links) {
    const target = resolveTarget(link, path);
    if (target === undefined) {
      elsewhere++;
      continue;
    }
    relative++;
    const reason = await problemOf(target, path, document, targets);
    if (reason !== undefined)
      broken.push({ target: link.target.slice(0, 300), line: link.line, reason });
  }
  return { relative, elsewhere, broken };
}

interface Target {
  readonly path: string;
  readonly anchor: string;
}

/** Undefined for what lies outside the folder. A leading slash means the folder itself, as on GitHub. */
function resolveTarget({ target }: Link, from: string): Target | undefined {
  if (SCHEME.test(target)) return undefined;
  const [withQuery = "", anchor = ""] = target.split("#", 2);
  const written = decoded(withQuery.split("?", 1)[0] ?? "");
  if (written === "") return { path: from, anchor: decoded(anchor) };
  const joined = written.startsWith("/")
    ? posix.normalize(`.${written}`)
    : posix.join(posix.dirname(from), written);
  if (joined === ".." || joined.startsWith("../")) return undefined;
  return { path: joined, anchor: decoded(anchor) };
}

async function problemOf(
  target: Target,
  from: string,
  document: MarkdownDocument,
  targets: LinkTargets,
): Promise<BrokenLink["reason"] | undefined> {
  if (target.path !== from && !(await targets.exists(target.path))) return "no such file";
  const anchor = target.anchor.toLowerCase();
  if (anchor === "" || anchor === "top" || !/\.(?:md|markdown)$/i.test(target.path))
    return undefined;
  const anchors = target.path === from ? document.anchors : await targets.anchors(target.path);
  return anchors.has(anchor) ? undefined : "no such heading";
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
