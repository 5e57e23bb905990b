import { describe, expect, test } from "vitest";
import { analyseCode } from "../../demo/analysis/code.ts";
import { findFunctions } from "../../demo/analysis/functions.ts";
import { tokenize } from "../../demo/analysis/tokenize.ts";
import { TIMED } from "../support/timed.ts";

const tokens = (source: string, options = {}) =>
  tokenize(source, options).map(({ kind, text }) => `${kind} ${text}`);
const kinds = (source: string, kind: string) =>
  tokenize(source)
    .filter((token) => token.kind === kind)
    .map(({ text }) => text);
const names = (source: string) => findFunctions(tokenize(source)).map(({ name }) => name);

describe("tokens", () => {
  test("comment signs in strings, templates and regular expressions begin no comment", () => {
    const source = [
      String.raw`const url = "http://a/*b*/\"//";`,
      "const single = '// no';",
      // biome-ignore lint/suspicious/noTemplateCurlyInString: this is code about to be read
      "const text = `/* no ${1 /* yes */ + `// no ${2}`} // no`;",
      "const pattern = /[/*]\\/\\/ x/g; // yes",
    ].join("\n");
    expect(kinds(source, "comment")).toEqual(["/* yes */", "// yes"]);
    expect(kinds(source, "regex")).toEqual(["/[/*]\\/\\/ x/g"]);
  });

  test("block comments do not nest, and may be left open", () => {
    expect(kinds("/* a /* b */ c /* d", "comment")).toEqual(["/* a /* b */", "/* d"]);
  });

  test("braces in a template's substitution belong to it", () => {
    // biome-ignore lint/suspicious/noTemplateCurlyInString: this is code about to be read
    expect(tokens("`a${{ b: `}` }.b}c` + 1")).toEqual([
      "template `a",
      "sign ${",
      "sign {",
      "word b",
      "sign :",
      "template `}`",
      "sign }",
      "sign .",
      "word b",
      "sign }",
      "template c`",
      "sign +",
      "number 1",
    ]);
  });

  test.each([
    ["a / b / c", []],
    ["(a) / b / c", []],
    ["a[0] / b / c", []],
    ["x++ / b / c", []],
    ["a! / b / c", []],
    ["object.return / b / c", []],
    ["`t` / b / c", []],
    ["x = /a/", ["/a/"]],
    ["x = !/a/.test(y)", ["/a/"]],
    ["return /a/", ["/a/"]],
    ["if (x) /a/.test(y)", ["/a/"]],
    ["a.if(x) / b / c", []],
    ["call({}) / b / c", []],
    ["function f() {} /a/.test(y)", ["/a/"]],
    ["x = {} / b / c", []],
    ["[/[/]/, /\\//]", ["/[/]/", "/\\//"]],
    ["case /a/:", ["/a/"]],
    ["x = a / 2; // not a/b", []],
  ])("a slash in %s", (source, expected) => {
    expect(kinds(source, "regex")).toEqual(expected);
  });

  test("the ends of JSX elements are no regular expressions", () => {
    const source = "const a = <p title={t}>x</p>;\nconst b = <br />; // yes\nconst c = 4 / 2 / 1;";
    const found = tokenize(source, { jsx: true });
    expect(found.filter(({ kind }) => kind === "regex")).toEqual([]);
    expect(found.filter(({ kind }) => kind === "comment")).toHaveLength(1);
  });

  test("a string that is not closed costs its line only", () => {
    expect(kinds("it's broken // here\nfine() // yes", "comment")).toEqual(["// yes"]);
    expect(kinds("'goes \\\n on' // yes", "comment")).toEqual(["// yes"]);
  });

  test("lines are counted with every line end, and across what spans lines", () => {
    const found = tokenize("a\r\nb /*\r\n*/ `x\ny`\rc");
    expect(found.map(({ line, endLine }) => [line, endLine])).toEqual([
      [1, 1],
      [2, 2],
      [2, 3],
      [3, 4],
      [5, 5],
    ]);
  });

  test.each([
    ["opening brackets", "(".repeat(200_000)],
    ["angle brackets", "a<".repeat(100_000)],
    ["slashes", "= /[".repeat(50_000)],
    ["backticks", "`${".repeat(60_000)],
    ["quotes", "'".repeat(200_000)],
    ["colons", "(a) : (b) => ".repeat(15_000)],
  ])("200 kB of %s take no more than a moment", TIMED, (_, source) => {
    const before = process.cpuUsage();
    analyseCode(source);
    expect(process.cpuUsage(before).user).toBeLessThan(2_000_000);
  });
});

describe("functions", () => {
  test("declarations, expressions, methods, accessors and arrows have their names", () => {
    expect(
      names(`
        export async function* one<T extends { a: 1 }>(x: T): Promise<Map<string, { a: 1 }>> {}
        export default function () {}
        const two = function () {};
        const three: Handler<A, B> = async (a) => {};
        const four = a => {};
        const five = <T,>(a: T): a is T & object => {};
        class Six extends mixin(Base) {
          static #seven() {}
          get eight() { return 8; }
          constructor(private x: number) { super(x); }
          async *[Symbol.iterator](): AsyncGenerator<1> {}
          catch(error) {}
          nine = () => {};
        }
        const ten = { eleven() {}, "twelve"() {}, thirteen: async () => {} };
        test("works", async () => {});
        setTimeout(() => {}, 5);
        return () => {};
        `),
    ).toEqual([
      "one",
      "default",
      "two",
      "three",
      "four",
      "five",
      "Six.#seven",
      "Six.eight",
      "Six.constructor",
      "Six.[Symbol.iterator]",
      "Six.catch",
      "Six.nine",
      "eleven",
      "twelve",
      "thirteen",
      'test("works") callback',
      "setTimeout callback",
      "(anonymous)",
    ]);
  });

  test("what only looks like a function is none", () => {
    expect(
      names(`
        if (a) {} else if (b) {} while (c) {} switch (d) {} for (const e of f) {}
        try {} catch (error) {}
        type Callback = (x: number) => { value: string };
        declare function later(x: number): { a: string };
        interface I { call(x: number): void; readonly make: () => { b?: number } }
        const g = h ? (i) : { j: 1 };
        const k = l ? (...m) => n(...m) : o;
        const p = { class: "wide", function: 1 };
        switch (q) { case r(1): { s(); } }
        `),
    ).toEqual([]);
  });

  test("a function that returns functions, typed", () => {
    expect(names("add(o: O): () => void { return () => { o(); }; }")).toEqual([
      "add",
      "(anonymous)",
    ]);
  });

  test("unbalanced brackets neither throw nor hide everything", () => {
    expect(names("function a() { ) ] } function b() {}")).toEqual(["a", "b"]);
    expect(names("}}}) function c() {} ((({")).toEqual(["c"]);
  });
});

describe("lines", () => {
  test("each line is code, comment or blank; code wins", () => {
    const source = [
      "#!/usr/bin/env node",
      "// comment",
      "",
      "const a = `",
      "",
      "  text // no comment",
      "`; /* both */",
      "/*",
      "",
      "*/",
      "   ",
      "function b() {",
      "  return 1;",
      "}",
      "",
    ].join("\n");
    expect(analyseCode(source)).toEqual({
      lines: 14,
      code: 7,
      comment: 5,
      blank: 2,
      functions: 1,
      longest: { name: "b", line: 12, lines: 3 },
    });
  });

  test.each([
    ["", 0],
    ["a", 1],
    ["a\n", 1],
    ["a\r\nb\rc\n\n", 4],
  ])("%j has %i lines", (source, lines) => {
    const facts = analyseCode(source);
    expect(facts.lines).toBe(lines);
    expect(facts.code + facts.comment + facts.blank).toBe(lines);
  });
});
