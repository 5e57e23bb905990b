import { type FoundFunction, findFunctions } from "./functions.ts";
import { tokenize } from "./tokenize.ts";

export interface CodeFacts {
  readonly lines: number;
  /** Lines with code on them, lines with nothing but a comment, and the rest. */
  readonly code: number;
  readonly comment: number;
  readonly blank: number;
  readonly functions: number;
  readonly longest: FoundFunction | null;
}

/** Counts the lines and functions of a JavaScript or TypeScript file. */
export function analyseCode(source: string, path = "file.ts"): CodeFacts {
  const tokens = tokenize(source, { jsx: /\.[jt]sx$/.test(path) });
  const lines = lineCount(source);
  const isCode = new Uint8Array(lines + 1);
  const isComment = new Uint8Array(lines + 1);
  for (const { kind, line, endLine } of tokens) {
    (kind === "comment" ? isComment : isCode).fill(1, line, endLine + 1);
  }
  let code = 0;
  let comment = 0;
  for (let line = 1; line <= lines; line++) {
    if (isCode[line]) code++;
    else if (isComment[line]) comment++;
  }
  const functions = findFunctions(tokens);
  const longest = functions.reduce<FoundFunction | null>(
    (best, one) => (best === null || one.lines > best.lines ? one : best),
    null,
  );
  return {
    lines,
    code,
    comment,
    blank: lines - code - comment,
    functions: functions.length,
    longest,
  };
}

/** As an editor counts: the newline at the very end begins no line. */
export function lineCount(text: string): number {
  if (text === "") return 0;
  const breaks = text.match(/\r\n?|\n/g)?.length ?? 0;
  return /[\r\n]$/.test(text) ? breaks : breaks + 1;
}
