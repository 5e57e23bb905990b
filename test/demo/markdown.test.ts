import { describe, expect, test } from "vitest";
import { checkLinks } from "../../demo/analysis/links.ts";
import { outlineOf, parseMarkdown, slugOf } from "../../demo/analysis/markdown.ts";
import { TIMED } from "../support/timed.ts";

const lines = (...text: string[]) => parseMarkdown(text.join("\n"));
const headings = (...text: string[]) => lines(...text).headings.map(({ text: title }) => title);
const targets = (...text: string[]) => lines(...text).links.map(({ target }) => target);

describe("headings", () => {
  test("both spellings, with their lines, and nothing that only looks like one", () => {
    const { headings: found } = lines(
      "---",
      "title: # no",
      "---",
      "# One #",
      "#no space",
      "####### seven",
      "Two",
      "===",
      "text",
      "",
      "---",
      "    # code",
      "```md",
      "# fenced",
      "~~~",
      "```",
      "<!-- # hidden",
      "# hidden too -->",
      "> ## Quoted",
      "- item",
      "---",
      "##",
    );
    expect(found).toEqual([
      { text: "One", level: 1, line: 4 },
      { text: "Two", level: 1, line: 7 },
      { text: "Quoted", level: 2, line: 19 },
      { text: "", level: 2, line: 22 },
    ]);
  });

  test("their tree, also where a level is left out", () => {
    const tree = outlineOf(lines("# A", "### B", "## C", "# D").headings);
    expect(tree).toEqual([
      {
        text: "A",
        line: 1,
        children: [
          { text: "B", line: 2, children: [] },
          { text: "C", line: 3, children: [] },
        ],
      },
      { text: "D", line: 4, children: [] },
    ]);
  });

  test.each([
    ["Hello, World!", "hello-world"],
    ["`code` & <b>bold</b>", "code--bold"],
    ["[Link](http://x) text", "link-text"],
    ["snake_case – Ünïcode 你好", "snake_case--ünïcode-你好"],
  ])("the anchor of %s", (title, slug) => {
    expect(slugOf(title)).toBe(slug);
  });

  test("equal titles get numbers", () => {
    expect([...lines("# A", "# A", "# A-1", "# A").anchors]).toEqual(["a", "a-1", "a-1-1", "a-2"]);
  });
});

describe("links", () => {
  test("every spelling counts, code and comments do not", () => {
    expect(
      targets(
        "[a](one.md) ![b](img.png 'title') [c](<with space.md>) [d](par(en)theses.md)",
        "[e]: ref.md",
        "<a href=\"html.md\">x</a> <img src='pic.png'>",
        "`[no](code.md)` ``[no](co`de.md)`` `unclosed [yes](tick.md)",
        "<!-- [no](hidden.md) --> \\[x\\](yes) \\](no)",
        "[^1]: [note](foot.md)",
        "",
        "    [no](indented.md)",
        "",
        "- list",
        "",
        "    [yes](in-list.md)",
        "[unclosed](never",
      ),
    ).toEqual([
      "one.md",
      "img.png",
      "with space.md",
      "par(en)theses.md",
      "ref.md",
      "html.md",
      "pic.png",
      "tick.md",
      "foot.md",
      "in-list.md",
    ]);
  });

  test("code fences are counted by language", () => {
    const { fences } = lines("```ts", "```", "~~~ TS title", "```", "~~~", "````", "```", "````");
    expect(fences).toEqual({ ts: 2, "(none)": 1 });
  });

  test("those that lead nowhere are found, with their lines", async () => {
    const files: Record<string, string> = {
      "docs/a.md": "",
      "docs/b c.md": '# Here\n<a id="Extra"></a>',
      "src/x.ts": "",
      src: "",
    };
    const document = lines(
      "# Top",
      "[ok](b%20c.md#here) [ok](b%20c.md#extra) [ok](../src/x.ts#L10) [ok](../src) [ok](#top)",
      "[ok](/src/x.ts?raw=1) [else](https://x.y/z) [else](mailto:a@b) [else](//cdn/x) [else](../../up.md)",
      "[no](missing.md) [no](b%20c.md#nowhere) [no](#nothing) [no](%zz.md)",
    );
    const report = await checkLinks(document, "docs/a.md", {
      exists: async (path) => path in files,
      anchors: async (path) => parseMarkdown(files[path] ?? "").anchors,
    });
    expect(report).toEqual({
      relative: 10,
      elsewhere: 4,
      broken: [
        { target: "missing.md", line: 4, reason: "no such file" },
        { target: "b%20c.md#nowhere", line: 4, reason: "no such heading" },
        { target: "#nothing", line: 4, reason: "no such heading" },
        { target: "%zz.md", line: 4, reason: "no such file" },
      ],
    });
  });
});

test.each(["`` ` ", "](", "[", "<a ", 'href="', "# ", "- [x](", "> "])(
  "200 kB of %j take no more than a moment",
  TIMED,
  (piece) => {
    const before = process.cpuUsage();
    parseMarkdown(piece.repeat(200_000 / piece.length));
    expect(process.cpuUsage(before).user).toBeLessThan(2_000_000);
  },
);

test("an empty file has nothing", () => {
  expect(headings("")).toEqual([]);
  expect(parseMarkdown("\uFEFF# Marked").headings).toHaveLength(1);
});
