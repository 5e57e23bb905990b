/**
 * Finds the functions of a token list: declarations, methods, accessors, and arrow functions, each with a body
 * in braces. (`x => x + 1` is not counted: without a full parser it cannot be told from a type.)
 */
import type { Token } from "./tokenize.ts";

export interface FoundFunction {
  readonly name: string;
  readonly line: number;
  /** From its name to its closing brace. */
  readonly lines: number;
}

/** How far to look for the end of a type or the start of a declaration: generous, and keeps the time linear. */
const FAR = 200;

const MOST_NAME_CHARS = 100;

const CLOSING: Record<string, string> = { "(": ")", "[": "]", "{": "}", "${": "}" };
const NOT_A_NAME = new Set(
  "if for while switch catch with return typeof await new super in of case do else throw void".split(
    " ",
  ),
);

/** What may stand before a type, and what joins one to the next. */
const BEFORE_TYPE = new Set("keyof typeof readonly unique asserts infer new | & -".split(" "));
const GOES_ON = new Set("| & . is extends".split(" "));

export function findFunctions(all: readonly Token[]): FoundFunction[] {
  return new Finder(all.filter(({ kind }) => kind !== "comment")).run();
}

class Finder {
  readonly #tokens: readonly Token[];
  readonly #partner: Int32Array;
  readonly #found: FoundFunction[] = [];
  /** The open brackets around the current token, and of what class a brace is the body. */
  readonly #around: { readonly at: number; readonly className: string | undefined }[] = [];
  #className: string | undefined;
  /** Arrows whose parameters stood in parentheses; the word before such an arrow is a type, not a parameter. */
  readonly #arrows = new Set<number>();

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
    this.#partner = partners(tokens);
  }

  run(): FoundFunction[] {
    for (let at = 0; at < this.#tokens.length; at++) {
      const text = this.#text(at);
      if (text === "class" && this.#beginsClass(at)) this.#className = this.#nameOfClass(at);
      if (text === "(") this.#atParameters(at);
      else if (text === "=>" && !this.#arrows.has(at)) this.#arrow(at - 1, at);
      if (this.#tokens[at]?.kind === "sign") this.#track(at, text);
    }
    return this.#found;
  }

  #track(at: number, text: string): void {
    if (text in CLOSING && this.#end(at) !== undefined) {
      const className = text === "{" ? this.#className : undefined;
      if (text === "{") this.#className = undefined;
      this.#around.push({ at, className });
    } else if (this.#end(this.#around.at(-1)?.at ?? -1) === at) this.#around.pop();
  }

  #atParameters(at: number): void {
    const close = this.#end(at);
    if (close === undefined) return;
    const after = this.#text(close + 1) === ":" ? this.#afterType(close + 2) : close + 1;
    if (this.#text(after) === "=>") this.#arrow(at, after);
    else if (this.#text(after) === "{") this.#named(at, after);
  }

  #arrow(start: number, arrow: number): void {
    this.#arrows.add(arrow);
    const body = arrow + 1;
    if (this.#text(body) !== "{" || this.#looksLikeType(body)) return;
    const first = this.#beforeGenerics(start) + 1;
    const begin = this.#text(first - 1) === "async" ? first - 1 : first;
    this.#add(this.#nameBefore(begin), begin, body);
  }

  /** `function name(…) {`, `function (…) {`, and methods: a name, parameters, a body. */
  #named(parameters: number, body: number): void {
    let at = this.#beforeGenerics(parameters);
    const word = this.#text(at);
    const before = this.#text(at - 1);
    if (word === "function" || (word === "*" && before === "function")) {
      if (word === "*") at--;
      const begin = this.#text(at - 1) === "async" ? at - 1 : at;
      this.#add(this.#nameBefore(begin), begin, body);
      return;
    }
    const isDeclared =
      before === "function" || (before === "*" && this.#text(at - 2) === "function");
    const owner = this.#around.at(-1)?.className;
    // A call (`a.b(c) {`) or a base class (`extends mixin(A) {`) is no method.
    if (before === "." || before === "extends") return;
    if (word === "]") {
      const open = this.#partner[at] ?? -1;
      if (open < 0) return;
      const key = this.#tokens.slice(open, at + 1).map(({ text }) => text);
      this.#add(qualified(owner, key.join("").slice(0, 60)), open, body);
      return;
    }
    const kind = this.#tokens[at]?.kind;
    const isName = kind === "word" || kind === "string" || kind === "number";
    // In a class body `catch(error) {` is a method; anywhere else it is what it looks like.
    if (!isName || (NOT_A_NAME.has(word) && owner === undefined && !isDeclared)) return;
    const name = kind === "string" ? word.slice(1, -1) : word;
    this.#add(isDeclared ? name : qualified(owner, name), at, body);
  }

  #add(name: string, start: number, body: number): void {
    const end = this.#end(body);
    const first = this.#tokens[start];
    const last = end === undefined ? undefined : this.#tokens[end];
    if (first === undefined || last === undefined) return;
    this.#found.push({
      name: name.slice(0, MOST_NAME_CHARS),
      line: first.line,
      lines: last.line - first.line + 1,
    });
  }

  /** What a function without a name of its own is called by people: where it goes. */
  #nameBefore(at: number): string {
    const before = this.#text(at - 1);
    if (before === "=") {
      for (let n = at - 2; n > at - FAR && n >= 0; n--) {
        const text = this.#text(n);
        if (text === "const" || text === "let" || text === "var") return this.#text(n + 1);
        if (text === ";" || text === "=" || text === "{" || text === "}") break;
      }
      const owner = this.#around.at(-1)?.className;
      return this.#isWord(at - 2) ? qualified(owner, this.#text(at - 2)) : "(anonymous)";
    }
    if (before === ":" && at > 1 && this.#tokens[at - 2]?.kind !== "sign")
      return this.#text(at - 2);
    if (before === "default") return "default";
    if (before === "(" || before === ",") {
      const call = this.#around.at(-1)?.at ?? -1;
      if (this.#text(call) === "(") return this.#callback(call);
    }
    return "(anonymous)";
  }

  /** `test("adds", () => {…})` is known by its title. */
  #callback(call: number): string {
    if (!this.#isWord(call - 1)) return "(callback)";
    const title = this.#tokens[call + 1];
    const named = title?.kind === "string" || title?.kind === "template" ? title.text : "";
    const short = named.length > 50 ? `${named.slice(0, 48)}…` : named;
    return `${this.#text(call - 1)}(${short}) callback`.replace("()", "");
  }

  /** Neither `element.class` nor `{ class: "wide" }`. */
  #beginsClass(at: number): boolean {
    return this.#text(at - 1) !== "." && (this.#isWord(at + 1) || this.#text(at + 1) === "{");
  }

  #nameOfClass(at: number): string {
    const name = this.#text(at + 1);
    return this.#isWord(at + 1) && name !== "extends" && name !== "implements" ? name : "class";
  }

  /** The token before `(`, or before the `<…>` that stands before it. */
  #beforeGenerics(parameters: number): number {
    if (this.#text(parameters - 1) !== ">") return parameters - 1;
    let depth = 0;
    for (let n = parameters - 1; n >= 0 && n > parameters - FAR; n--) {
      const text = this.#text(n);
      if (text === ">") depth++;
      else if (text === "<" && --depth === 0) return n - 1;
      else if (text === ";") break;
    }
    return parameters - 1;
  }

  /** The token after a type that begins at `at`. */
  #afterType(at: number): number {
    let n = at;
    for (const end = at + FAR; n < end; ) {
      const text = this.#text(n);
      if (BEFORE_TYPE.has(text)) {
        n++;
        continue;
      }
      if (text === "(" || text === "{" || text === "[") n = (this.#end(n) ?? n) + 1;
      else if (text === "<") n = this.#afterGenerics(n);
      else if (this.#tokens[n]?.kind === "sign") return n;
      else n++;
      // A type goes on after an operator; otherwise it has ended.
      while (this.#text(n) === "[" || this.#text(n) === "<") {
        n = this.#text(n) === "<" ? this.#afterGenerics(n) : (this.#end(n) ?? n) + 1;
      }
      const next = this.#text(n);
      const isFunction = next === "=>" && this.#text(n - 1) === ")";
      const goesOn = isFunction || GOES_ON.has(next);
      if (!goesOn) return n;
      n++;
    }
    return n;
  }

  #afterGenerics(at: number): number {
    let depth = 0;
    for (let n = at; n < at + FAR; n++) {
      const text = this.#text(n);
      if (text === "<") depth++;
      else if (text === ">" && --depth === 0) return n + 1;
      else if (text === ";" || text === "") break;
      else if (text in CLOSING) n = this.#end(n) ?? n;
    }
    return at + 1;
  }

  /** `=> { name: string }` after a function type: an object type, where a block would begin with a statement. */
  #looksLikeType(brace: number): boolean {
    const from = this.#text(brace + 1) === "readonly" ? brace + 2 : brace + 1;
    if (!this.#isWord(from)) return false;
    const colon = this.#text(from + 1) === "?" ? from + 2 : from + 1;
    if (this.#text(colon) !== ":") return false;
    return !["for", "while", "do", "switch", "{"].includes(this.#text(colon + 1));
  }

  #text(at: number): string {
    return this.#tokens[at]?.text ?? "";
  }

  #isWord(at: number): boolean {
    return this.#tokens[at]?.kind === "word";
  }

  #end(open: number): number | undefined {
    const end = this.#partner[open] ?? -1;
    return end > open ? end : undefined;
  }
}

function qualified(owner: string | undefined, name: string): string {
  return owner === undefined ? name : `${owner}.${name}`;
}

/** For each bracket the place of the other one, and -1 where there is none. */
function partners(tokens: readonly Token[]): Int32Array {
  const partner = new Int32Array(tokens.length).fill(-1);
  const open: number[] = [];
  tokens.forEach(({ kind, text }, at) => {
    if (kind !== "sign") return;
    if (text in CLOSING) open.push(at);
    else if (text === ")" || text === "]" || text === "}") {
      const last = open.at(-1);
      // A closing bracket that fits nothing is left alone, so that one typing error spoils as little as possible.
      if (last === undefined || CLOSING[tokens[last]?.text ?? ""] !== text) return;
      open.pop();
      partner[last] = at;
      partner[at] = last;
    }
  });
  return partner;
}
