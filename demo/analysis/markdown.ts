/** Reads Markdown line by line for its outline, its code fences and its links. */

export interface Heading {
  readonly text: string;
  readonly level: number;
  readonly line: number;
}

export interface OutlineEntry {
  readonly text: string;
  readonly line: number;
  readonly children: OutlineEntry[];
}

export interface Link {
  readonly target: string;
  readonly line: number;
}

export interface MarkdownDocument {
  readonly headings: readonly Heading[];
  readonly links: readonly Link[];
  /** Code fences by language; "(none)" where a fence names none. */
  readonly fences: Readonly<Record<string, number>>;
  /** Everything that `#…` can point to. */
  readonly anchors: ReadonlySet<string>;
}

const FENCE = /^\s*(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const ATX = /^ {0,3}(#{1,6})(?:[ \t](.*))?$/;
const DEFINITION = /^ {0,3}\[(?!\^)[^\]]+\]:\s*(?:<([^>]*)>|(\S+))/;
const HTML_LINK = /\b(?:href|src)\s*=\s*(?:"([^"]{0,500})"|'([^']{0,500})')/gi;
const HTML_ANCHOR = /<[a-z][^<>]*?\s(?:id|name)\s*=\s*(?:"([^"<>]*)"|'([^'<>]*)')/gi;
/** The longest destination or heading that is read: without it, one endless line would cost quadratic time. */
const MOST_CHARS = 500;

export function parseMarkdown(source: string): MarkdownDocument {
  return new MarkdownReader().read(source.replace(/^\uFEFF/, "").split(/\r\n?|\n/));
}

/** The tree that the heading levels draw; a level that was left out adds no entry. */
export function outlineOf(headings: readonly Heading[]): OutlineEntry[] {
  const top: OutlineEntry[] = [];
  const path: { level: number; children: OutlineEntry[] }[] = [{ level: 0, children: top }];
  for (const { text, level, line } of headings) {
    while ((path.at(-1)?.level ?? 0) >= level) path.pop();
    const entry: OutlineEntry = { text, line, children: [] };
    path.at(-1)?.children.push(entry);
    path.push({ level, children: entry.children });
  }
  return top;
}

/** The anchor that GitHub gives to a heading. */
export function slugOf(heading: string): string {
  return heading
    .replace(/!?\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replace(/<[^>]*>/g, "")
    .toLowerCase()
    .replace(/[^\p{L}\p{M}\p{N}\p{Pc}\- ]/gu, "")
    .replaceAll(" ", "-");
}

class MarkdownReader {
  readonly #headings: Heading[] = [];
  readonly #links: Link[] = [];
  /** Without a prototype, because languages are any words. */
  readonly #fences: Record<string, number> = Object.create(null);
  readonly #anchors = new Set<string>();
  #fence: string | undefined;
  #inComment = false;
  #inList = false;
  /** The last line, where it may become a heading by a line of `===` below it. */
  #paragraph: Link | undefined;
  #afterBlank = true;

  read(lines: readonly string[]): MarkdownDocument {
    const start = frontMatterEnd(lines);
    lines.forEach((raw, n) => {
      if (n >= start) this.#line(raw.replace(/^(?:\s*>)+ ?/, ""), n + 1);
    });
    return {
      headings: this.#headings,
      links: this.#links,
      fences: this.#fences,
      anchors: this.#anchors,
    };
  }

  #line(text: string, line: number): void {
    if (this.#isFence(text)) return;
    if (/^\s*$/.test(text)) {
      this.#paragraph = undefined;
      this.#afterBlank = true;
      return;
    }
    const indented = /^(?: {4}|\t)/.test(text);
    if (!indented)
      this.#inList =
        /^ {0,3}(?:[-+*]|\d{1,9}[.)])\s/.test(text) || (this.#inList && /^ /.test(text));
    // Code by indentation; what is indented inside a list is the list's text.
    if (indented && this.#afterBlank && !this.#inList && !this.#inComment) return;
    this.#afterBlank = false;
    const plain = withoutCodeSpans(this.#withoutComments(text));
    if (!this.#isHeading(text, plain, line)) {
      // `---` below an item of a list is a line across the page.
      const target = text.slice(0, MOST_CHARS).trim();
      this.#paragraph = this.#inList ? undefined : { target, line };
    }
    this.#findLinks(plain, line);
  }

  #isFence(text: string): boolean {
    const [, marks = "", language = ""] = FENCE.exec(text) ?? [];
    if (this.#fence !== undefined) {
      const closes = marks.startsWith(this.#fence) && text.trim() === marks;
      if (closes) this.#fence = undefined;
      return true;
    }
    if (marks === "" || this.#inComment) return false;
    this.#fence = marks;
    const name = language.toLowerCase() || "(none)";
    this.#fences[name] = (this.#fences[name] ?? 0) + 1;
    this.#paragraph = undefined;
    return true;
  }

  #isHeading(text: string, plain: string, line: number): boolean {
    const [, marks, title = ""] = ATX.exec(text) ?? [];
    if (marks !== undefined && plain !== "") {
      this.#heading(
        title
          .slice(0, MOST_CHARS)
          .trim()
          .replace(/(?:^|\s)#+$/, ""),
        marks.length,
        line,
      );
      this.#paragraph = undefined;
      return true;
    }
    const under = /^ {0,3}(=+|-+)\s*$/.exec(text)?.[1];
    if (under === undefined || this.#paragraph === undefined) return false;
    this.#heading(this.#paragraph.target, under.startsWith("=") ? 1 : 2, this.#paragraph.line);
    this.#paragraph = undefined;
    return true;
  }

  #heading(title: string, level: number, line: number): void {
    const text = title.trim();
    this.#headings.push({ text: text.slice(0, 200), level, line });
    const slug = slugOf(text);
    let anchor = slug;
    for (let n = 1; this.#anchors.has(anchor); n++) anchor = `${slug}-${n}`;
    this.#anchors.add(anchor);
  }

  #withoutComments(text: string): string {
    let kept = "";
    let rest = text;
    for (;;) {
      const mark = this.#inComment ? "-->" : "<!--";
      const at = rest.indexOf(mark);
      if (at < 0) return this.#inComment ? kept : kept + rest;
      if (!this.#inComment) kept += rest.slice(0, at);
      rest = rest.slice(at + mark.length);
      this.#inComment = !this.#inComment;
    }
  }

  #findLinks(text: string, line: number): void {
    const add = (target: string | undefined) => {
      if (target !== undefined) this.#links.push({ target, line });
    };
    const definition = DEFINITION.exec(text);
    if (definition !== null) add(definition[1] ?? definition[2]);
    for (let at = text.indexOf("]("); at >= 0; at = text.indexOf("](", at + 2)) {
      if (text[at - 1] !== "\\") add(destination(text, at + 2));
    }
    if (!text.includes("<")) return;
    for (const [, double, single] of text.matchAll(HTML_LINK)) add(double ?? single);
    for (const [, double, single] of text.matchAll(HTML_ANCHOR)) {
      this.#anchors.add((double ?? single ?? "").toLowerCase());
    }
  }
}

/** What stands between the parentheses of `[text](destination "title")`; undefined when they are not closed. */
function destination(line: string, from: number): string | undefined {
  const text = line.slice(from, from + MOST_CHARS).trimStart();
  if (text.startsWith("<")) {
    const end = text.indexOf(">");
    return end < 0 ? undefined : text.slice(1, end);
  }
  for (let at = 0, depth = 0; at < text.length; at++) {
    const char = text[at];
    if (char === "\\") at++;
    else if (char === "(") depth++;
    else if (char === ")" && depth-- === 0) return text.slice(0, at);
    else if (char === " " || char === "\t") {
      return text.includes(")", at) ? text.slice(0, at) : undefined;
    }
  }
  return undefined;
}

/** Blanks out `code`, which may hold anything that looks like a link. */
function withoutCodeSpans(text: string): string {
  if (!text.includes("`")) return text;
  const runs = [...text.matchAll(/`+/g)].map((run) => ({ at: run.index, length: run[0].length }));
  // A run of backticks closes at the next run of the same length; read backwards, that one is known by then.
  const nextOfLength = new Map<number, number>();
  const closing = runs.map(() => -1);
  for (let n = runs.length - 1; n >= 0; n--) {
    const { length } = runs[n] as { length: number };
    closing[n] = nextOfLength.get(length) ?? -1;
    nextOfLength.set(length, n);
  }
  let plain = "";
  let from = 0;
  for (let n = 0; n < runs.length; n++) {
    const open = runs[n];
    const close = runs[closing[n] ?? -1];
    if (open === undefined || close === undefined) continue;
    const end = close.at + close.length;
    plain += text.slice(from, open.at) + " ".repeat(end - open.at);
    from = end;
    n = closing[n] as number;
  }
  return plain + text.slice(from);
}

function frontMatterEnd(lines: readonly string[]): number {
  if (lines[0] !== "---") return 0;
  const end = lines.indexOf("---", 1);
  return end < 0 ? 0 : end + 1;
}
