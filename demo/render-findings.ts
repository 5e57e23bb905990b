import type { Findings } from "./findings.ts";
import type { Report } from "./report.ts";
import { bytes, counted, number, printable, shortened } from "./words.ts";

/** How many of a long list are shown; all of them are in the database, and with --json. */
const MOST_SHOWN = 5;
const LABEL = 10;

/** What was found, one block per capability. */
export function findingLines({ findings, files }: Report, width: number): string[] {
  const { code, markdown, json, text } = findings;
  const room = width - LABEL - 4;
  const list = (lines: readonly string[]) =>
    shown(lines.map((line) => shortened(printable(line), room)));
  const blocks: [string, readonly string[]][] = [
    ["code", code.files === 0 ? [] : codeLines(code, list)],
    ["markdown", markdown.files === 0 ? [] : markdownLines(markdown, list)],
    ["json", json.files === 0 ? [] : jsonLines(json, list)],
    ["text", text.files === 0 ? [] : textLines(text, list)],
    ["all", inventoryLines(findings, files, list)],
  ];
  return blocks.flatMap(([label, lines]) =>
    lines.map((line, n) => `${(n === 0 ? label : "").padEnd(LABEL)}${line}`),
  );
}

type List = (lines: readonly string[]) => string[];

function shown(lines: readonly string[]): string[] {
  const rest = lines.length - MOST_SHOWN;
  const first = lines.slice(0, MOST_SHOWN).map((line) => `  ${line}`);
  return rest > 0 ? [...first, `  … and ${number(rest)} more`] : first;
}

function codeLines(code: Findings["code"], list: List): string[] {
  const { longest } = code;
  return [
    `${counted(code.files, "file")}: ${number(code.code)} lines of code, ${number(code.comment)} comment, ${number(code.blank)} blank`,
    counted(code.functions, "function") + (longest.length === 0 ? "" : ", the longest:"),
    ...list(
      longest.map((one) => `${number(one.lines)} lines  ${one.path}:${one.line}  ${one.name}`),
    ),
  ];
}

function markdownLines(markdown: Findings["markdown"], list: List): string[] {
  const { brokenLinks, broken, fences } = markdown;
  const languages = Object.entries(fences).map(([language, count]) => `${language} ${count}`);
  const links = counted(markdown.relativeLinks, "relative link");
  return [
    `${counted(markdown.files, "file")}: ${counted(markdown.headings, "heading")}, ${links} followed, ${number(markdown.linksElsewhere)} elsewhere`,
    ...(languages.length === 0 ? [] : [`code fences: ${languages.slice(0, 6).join(", ")}`]),
    brokenLinks === 0 ? "no broken links" : `${counted(brokenLinks, "broken link")}:`,
    ...list(
      broken.map(({ path, line, target, reason }) => `${path}:${line}  ${target}  ${reason}`),
    ),
  ];
}

function jsonLines(json: Findings["json"], list: List): string[] {
  const { invalid, duplicateKeys } = json;
  const place = (one: (typeof invalid)[number]) =>
    `${one.path}:${one.line}:${one.column}  ${one.message}`;
  const verdict = invalid.length === 0 ? "all valid" : `${number(invalid.length)} not valid:`;
  return [
    `${counted(json.files, "file")}: ${counted(json.keys, "key")}, ${counted(json.depth, "level")} deep, ${verdict}`,
    ...list(invalid.map(place)),
    ...(duplicateKeys.length === 0 ? [] : ["keys that an object has twice:"]),
    ...list(duplicateKeys.map(place)),
  ];
}

function textLines(text: Findings["text"], list: List): string[] {
  const languages = Object.entries(text.languages).map(([name, count]) => `${name} ${count}`);
  return [
    `${counted(text.files, "file")}: ${number(text.lines)} lines (${languages.slice(0, 5).join(", ")})`,
    ...(text.noFinalNewline.length === 0 ? [] : ["without a newline at the end:"]),
    ...list(text.noFinalNewline),
    ...(text.mixedLineEnds.length === 0 ? [] : ["with two kinds of line ends:"]),
    ...list(text.mixedLineEnds),
  ];
}

function inventoryLines(
  { inventory, unreadable }: Findings,
  { skipped, more }: Report["files"],
  list: List,
): string[] {
  const { duplicates } = inventory;
  const largest = inventory.largest
    .slice(0, 1)
    .map(({ path, bytes: size }) => `, the largest ${path} (${bytes(size)})`);
  const left = [
    ...(skipped.binary > 0 ? [`${number(skipped.binary)} binary`] : []),
    ...(skipped.large > 0 ? [`${number(skipped.large)} above 1 MB`] : []),
    ...(skipped.unreadable > 0 ? [`${number(skipped.unreadable)} unreadable`] : []),
    ...(more ? ["more than fit the limit (--max-files)"] : []),
  ];
  return [
    `${counted(inventory.files, "file")}, ${bytes(inventory.bytes)}${printable(largest.join(""))}`,
    duplicates.length === 0 ? "no duplicates" : "the same content twice or more:",
    ...list(duplicates.map(({ paths, bytes: size }) => `${paths.join(" = ")} (${bytes(size)})`)),
    ...(unreadable.length === 0 ? [] : ["could not be read:"]),
    ...list(unreadable.map(({ path, reason }) => `${path} (${reason})`)),
    ...(left.length === 0 ? [] : [`left out: ${left.join(", ")}`]),
  ];
}
