import { describe, expect, it } from "vitest";
import { Terminal } from "../../lib/cli/terminal.ts";
import {
  bytes,
  clean,
  duration,
  prettyJson,
  relative,
  textWidth,
  truncated,
  wire,
} from "../../lib/cli/text.ts";

function drawn(
  columns: number | undefined,
  env: NodeJS.ProcessEnv,
  use: (terminal: Terminal) => void,
) {
  let text = "";
  const output = {
    ...(columns === undefined ? {} : { isTTY: true, columns }),
    write: (part: string) => {
      text += part;
    },
  };
  use(new Terminal(output, output, { env }));
  return text;
}

const ROWS = [
  { name: "a", count: 5, note: "short" },
  { name: "日本語エージェント", count: 12_345, note: `long ${"word ".repeat(30)}` },
];
const table = (terminal: Terminal) =>
  terminal.table(ROWS, [
    { title: "NAME", value: ({ name }) => name, style: () => "red" },
    { title: "COUNT", value: ({ count }) => String(count), align: "right" },
    { title: "NOTE", value: ({ note }) => note.trim(), flexible: true },
  ]);

describe("a table", () => {
  it("is aligned, also with wide letters, and whole in a pipe", () => {
    const [head, first, second] = drawn(undefined, {}, table).split("\n");
    expect(head).toBe("NAME                COUNT  NOTE");
    expect(first).toBe("a                       5  short");
    expect(second).toBe(`日本語エージェント  12345  ${ROWS[1]?.note.trim()}`);
  });

  it("gives way in a narrow terminal, and becomes blocks in a very narrow one", () => {
    const narrow = drawn(60, { NO_COLOR: "1" }, table).split("\n");
    for (const line of narrow) expect(textWidth(line)).toBeLessThanOrEqual(60);
    expect(narrow[2]).toMatch(/…$/);
    const blocks = drawn(30, { NO_COLOR: "1" }, table);
    expect(blocks).toContain("name   a\ncount  5\nnote   short\n\nname   日本語エージェント\n");
    for (const line of blocks.split("\n")) expect(textWidth(line)).toBeLessThanOrEqual(30);
  });

  it("is coloured on a terminal alone, unless it shall not or must be", () => {
    const colour = "\x1b[31m";
    expect(drawn(80, {}, table)).toContain(colour);
    expect(drawn(80, { NO_COLOR: "1" }, table)).not.toContain("\x1b[");
    expect(drawn(80, { TERM: "dumb" }, table)).not.toContain("\x1b[");
    expect(drawn(undefined, {}, table)).not.toContain("\x1b[");
    expect(drawn(undefined, { FORCE_COLOR: "1" }, table)).toContain(colour);
  });
});

describe("text from the database", () => {
  it("cannot move the cursor, forge a line or turn the writing", () => {
    const evil = "a\x1b[2J\x1b]0;title\x07b\r\nfix: rm -rf\u202e\u009b31m";
    expect(clean(evil)).not.toMatch(/[\p{Cc}\u202e]/u);
    expect(clean("one\n  two")).toBe("one ⏎ two");
    expect(prettyJson({ evil })).not.toMatch(/[^\P{Cc}\n]/u);
    expect(drawn(80, {}, (terminal) => terminal.fields([["x", "a\x1b[2Jb"]]))).not.toContain(
      "\x1b[2J",
    );
  });

  it("is cut by columns, not by letters", () => {
    expect(truncated("abcdef", 6)).toBe("abcdef");
    expect(truncated("abcdefg", 6)).toBe("abcde…");
    expect(textWidth(truncated("日本語日本語", 6))).toBeLessThanOrEqual(6);
    expect(textWidth("e\u0301")).toBe(1);
  });
});

it("times and sizes are what people say", () => {
  expect([0, 340, 999, 1_000, 61_000, 7_200_000, 200_000_000].map(duration)).toEqual([
    "0 ms",
    "340 ms",
    "999 ms",
    "1 s",
    "1 min",
    "2 h",
    "2 d",
  ]);
  expect(relative(1_000, 4_000)).toBe("3 s ago");
  expect(relative(70_000, 4_000)).toBe("in 1 min");
  expect(relative(4_000, 4_000)).toBe("now");
  expect(relative(null, 0)).toBe("–");
  expect([5, 5_000, 5_000_000, 5_000_000_000].map(bytes)).toEqual([
    "5 B",
    "5.0 kB",
    "5.0 MB",
    "5.0 GB",
  ]);
});

it("JSON is snake_case with instants in ISO 8601, and leaves alone what belongs to the application", () => {
  expect(
    wire({
      messageId: "m",
      createdAt: 0,
      finishedAt: null,
      content: { camelCase: 1, someAt: 5 },
      byRole: { camelRole: 1 },
      nested: [{ lastError: { errorCode: "x" } }],
    }),
  ).toEqual({
    message_id: "m",
    created_at: "1970-01-01T00:00:00.000Z",
    finished_at: null,
    content: { camelCase: 1, someAt: 5 },
    by_role: { camelRole: 1 },
    nested: [{ last_error: { error_code: "x" } }],
  });
});
