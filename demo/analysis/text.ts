/** Statistics of any text: what its lines hold, and small faults that editors leave behind. */
import { lineCount } from "./code.ts";

export interface TextFacts {
  readonly language: string;
  readonly lines: number;
  readonly code: number;
  readonly comment: number;
  readonly blank: number;
  readonly longestLine: { readonly line: number; readonly length: number } | null;
  readonly trailingSpaces: number;
  readonly mixedLineEnds: boolean;
  readonly noFinalNewline: boolean;
}

interface Language {
  readonly name: string;
  /** What begins a comment at the start of a line. */
  readonly line?: string;
  readonly block?: readonly [string, string];
}

const SLASHES: readonly [string, string] = ["/*", "*/"];
const LANGUAGES: Record<string, Language> = {
  sql: { name: "SQL", line: "--", block: SLASHES },
  yml: { name: "YAML", line: "#" },
  yaml: { name: "YAML", line: "#" },
  toml: { name: "TOML", line: "#" },
  sh: { name: "Shell", line: "#" },
  bash: { name: "Shell", line: "#" },
  py: { name: "Python", line: "#" },
  rb: { name: "Ruby", line: "#" },
  go: { name: "Go", line: "//", block: SLASHES },
  rs: { name: "Rust", line: "//", block: SLASHES },
  java: { name: "Java", line: "//", block: SLASHES },
  c: { name: "C", line: "//", block: SLASHES },
  h: { name: "C", line: "//", block: SLASHES },
  cs: { name: "C#", line: "//", block: SLASHES },
  css: { name: "CSS", block: SLASHES },
  html: { name: "HTML", block: ["<!--", "-->"] },
  xml: { name: "XML", block: ["<!--", "-->"] },
};

/** By the extension, else by the first line: scripts often have no extension. */
function languageOf(path: string, text: string): Language {
  const extension = /\.([^./]+)$/.exec(path)?.[1]?.toLowerCase() ?? "";
  if (Object.hasOwn(LANGUAGES, extension)) return LANGUAGES[extension] as Language;
  const interpreter = /^#!.*?\b(bash|sh|zsh|python3?|ruby)\b/.exec(text.slice(0, 200))?.[1];
  if (interpreter?.endsWith("sh")) return LANGUAGES.sh as Language;
  if (interpreter?.startsWith("python")) return LANGUAGES.py as Language;
  return { name: "Text" };
}

/** Comments count where they begin a line; this is a statistic, not a parser of twenty languages. */
export function analyseText(text: string, path: string): TextFacts {
  const language = languageOf(path, text);
  const total = lineCount(text);
  const lines = text.split(/\r\n?|\n/).slice(0, total);
  const counts = { code: 0, comment: 0, blank: 0 };
  let inBlock = false;
  let trailingSpaces = 0;
  let longestLine: { line: number; length: number } | null = null;
  lines.forEach((line, n) => {
    const trimmed = line.trim();
    if (line.endsWith(" ") || line.endsWith("\t")) trailingSpaces++;
    if (line.length > (longestLine?.length ?? 0))
      longestLine = { line: n + 1, length: line.length };
    const [open, close] = language.block ?? [];
    if (!inBlock && open !== undefined && trimmed.startsWith(open)) inBlock = true;
    if (inBlock) {
      counts.comment++;
      if (close !== undefined && trimmed.includes(close)) inBlock = false;
    } else if (trimmed === "") counts.blank++;
    else if (language.line !== undefined && trimmed.startsWith(language.line)) counts.comment++;
    else counts.code++;
  });
  return {
    language: language.name,
    lines: total,
    ...counts,
    longestLine,
    trailingSpaces,
    mixedLineEnds: text.includes("\r\n") && /(?:^|[^\r])\n/.test(text),
    noFinalNewline: text !== "" && !/[\r\n]$/.test(text),
  };
}
