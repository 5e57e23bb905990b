/**
 * Cuts JavaScript and TypeScript into tokens. It knows just enough of the grammar to be right about what
 * regular expressions over lines get wrong: strings that hold comment signs, templates with code inside them,
 * and whether a slash divides or begins a regular expression.
 */

export interface Token {
  readonly kind: "word" | "number" | "string" | "template" | "regex" | "comment" | "sign";
  readonly text: string;
  /** Counted from 1, as all lines here. */
  readonly line: number;
  readonly endLine: number;
}

const WORD = /[\p{ID_Start}$_#@\\][\p{ID_Continue}$\\\u200c\u200d]*/uy;
const NUMBER =
  /(?:0[xXoObB][\da-fA-F_]+|(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?[\d_]+)?)n?/y;
const SIGNS = ["...", "=>", "?.", "++", "--"];

/** After one of these an expression begins, so a slash begins a regular expression. */
const BEFORE_EXPRESSION = new Set(
  "await case delete do else in instanceof new of return throw typeof void yield".split(" "),
);
const BEFORE_CONDITION = new Set(["if", "while", "for", "with"]);
/** Before a brace these mean that it opens an object, not a block. */
const BEFORE_OBJECT = new Set([..."([,=:?&|+-*%<!~"].concat("return", "typeof", "${", "..."));

export function tokenize(source: string, options: { jsx?: boolean } = {}): Token[] {
  return new Scanner(source.replace(/\r\n?/g, "\n"), options.jsx === true).run();
}

/** What an open bracket means for a slash after its closing one. */
interface Open {
  readonly sign: string;
  /** True when a value ends with the closing bracket: a slash after it divides. */
  readonly value: boolean;
}

class Scanner {
  readonly #source: string;
  readonly #jsx: boolean;
  readonly #tokens: Token[] = [];
  readonly #open: Open[] = [];
  #at = 0;
  #line = 1;
  /** The last token that is no comment, and the one before it. */
  #last: Token | undefined;
  #beforeLast: Token | undefined;
  /** Where the last token ended, to tell `a! / b` from `a = !/b/`. */
  #lastEnd = 0;
  #lastClosed: Open | undefined;
  #lineWithoutRegex = 0;

  constructor(source: string, jsx: boolean) {
    this.#source = source;
    this.#jsx = jsx;
  }

  run(): Token[] {
    const source = this.#source;
    if (source.startsWith("#!")) this.#push("comment", this.#endOfLine());
    while (this.#at < source.length) {
      const char = source[this.#at] as string;
      if (char === "\n") {
        this.#line++;
        this.#at++;
      } else if (char === " " || char === "\t" || /\s/.test(char)) this.#at++;
      else this.#token(char);
    }
    return this.#tokens;
  }

  #token(char: string): void {
    const [kind, end] = this.#next(char);
    if (kind === "sign") this.#sign(this.#source.slice(this.#at, end));
    else if (kind !== "template") this.#push(kind, end);
    else this.#template();
  }

  /** What begins here, and where it ends. */
  #next(char: string): readonly [Token["kind"], number] {
    const source = this.#source;
    const after = source[this.#at + 1];
    if (char === "/" && after === "/") return ["comment", this.#endOfLine()];
    if (char === "/" && after === "*") {
      const end = source.indexOf("*/", this.#at + 2);
      return ["comment", end < 0 ? source.length : end + 2];
    }
    if (char === '"' || char === "'") return ["string", this.#endOfString(char)];
    if (char === "`" || this.#closesSubstitution(char)) return ["template", this.#at];
    const regex = char === "/" && this.#regexMayBegin(after) ? this.#endOfRegex() : undefined;
    if (regex !== undefined) return ["regex", regex];
    const number = this.#match(NUMBER);
    if (number > this.#at) return ["number", number];
    const word = this.#match(WORD);
    if (word > this.#at) return ["word", word];
    const sign = SIGNS.find((one) => source.startsWith(one, this.#at)) ?? char;
    return ["sign", this.#at + sign.length];
  }

  /** The brace after which a template goes on. */
  #closesSubstitution(char: string): boolean {
    return char === "}" && this.#open.at(-1)?.sign === "${";
  }

  #push(kind: Token["kind"], end: number): void {
    const text = this.#source.slice(this.#at, end);
    let endLine = this.#line;
    for (let n = text.indexOf("\n"); n >= 0; n = text.indexOf("\n", n + 1)) endLine++;
    const token: Token = { kind, text, line: this.#line, endLine };
    this.#tokens.push(token);
    this.#at = end;
    this.#line = endLine;
    if (kind === "comment") return;
    this.#beforeLast = this.#last;
    this.#last = token;
    this.#lastEnd = end;
  }

  #sign(sign: string): void {
    if (sign === "(" || sign === "[" || sign === "{" || sign === "${") {
      this.#open.push({ sign, value: this.#isValue(sign) });
    } else if (sign === ")" || sign === "]" || sign === "}") {
      this.#lastClosed = this.#open.pop();
    }
    this.#push("sign", this.#at + sign.length);
  }

  #isValue(sign: string): boolean {
    const before = this.#last;
    if (sign === "(") {
      // `if (x) /re/.test(y)`: what follows a condition is a statement. `a.if(x) / 2` is a call.
      const isCondition = before?.kind === "word" && BEFORE_CONDITION.has(before.text);
      return !isCondition || this.#beforeLast?.text === ".";
    }
    if (sign === "{") return before !== undefined && BEFORE_OBJECT.has(before.text);
    return true;
  }

  /** The characters of a template up to its end or to the next `${`. */
  #template(): void {
    const source = this.#source;
    let end = this.#at + 1;
    if (source[this.#at] === "}") {
      this.#sign("}");
      end = this.#at;
    }
    while (end < source.length && source[end] !== "`" && !source.startsWith("${", end)) {
      end += source[end] === "\\" ? 2 : 1;
    }
    const goesOn = source[end] === "$";
    this.#push("template", Math.min(goesOn ? end : end + 1, source.length));
    if (goesOn) this.#sign("${");
  }

  /** A string that is not closed ends with its line, so that one stray apostrophe costs one line. */
  #endOfString(quote: string): number {
    for (let n = this.#at + 1; n < this.#source.length; n++) {
      const char = this.#source[n];
      if (char === "\\") n++;
      else if (char === quote) return n + 1;
      else if (char === "\n") return n;
    }
    return this.#source.length;
  }

  /** Undefined when the slash is a division after all. One failure settles its line, to keep the time linear. */
  #endOfRegex(): number | undefined {
    const source = this.#source;
    if (this.#lineWithoutRegex === this.#line) return undefined;
    let inClass = false;
    for (let n = this.#at + 1; n < source.length && source[n] !== "\n"; n++) {
      const char = source[n];
      if (char === "\\") n++;
      else if (char === "[") inClass = true;
      else if (char === "]") inClass = false;
      else if (char === "/" && !inClass) {
        do n++;
        while (/[a-z]/.test(source[n] ?? ""));
        return n;
      }
    }
    this.#lineWithoutRegex = this.#line;
    return undefined;
  }

  #regexMayBegin(next: string | undefined): boolean {
    const last = this.#last;
    // The ends of JSX elements: `</b>` and `<br />`.
    if (this.#jsx && (next === ">" || last?.text === "<")) return false;
    if (last === undefined) return true;
    switch (last.kind) {
      case "word":
        return BEFORE_EXPRESSION.has(last.text) && this.#beforeLast?.text !== ".";
      case "sign":
        if (last.text === ")" || last.text === "]" || last.text === "}") {
          return this.#lastClosed?.value === false;
        }
        if (last.text === "!") return !this.#isNonNull();
        return last.text !== "++" && last.text !== "--";
      default:
        return false;
    }
  }

  /** TypeScript's `value!`, written without a space. */
  #isNonNull(): boolean {
    const before = this.#beforeLast;
    if (before === undefined || /[\s!=(,&|?:;{[]/.test(this.#source[this.#lastEnd - 2] ?? " ")) {
      return false;
    }
    return before.kind === "word" ? !BEFORE_EXPRESSION.has(before.text) : /[)\]]/.test(before.text);
  }

  #match(pattern: RegExp): number {
    pattern.lastIndex = this.#at;
    return pattern.test(this.#source) ? pattern.lastIndex : this.#at;
  }

  #endOfLine(): number {
    const end = this.#source.indexOf("\n", this.#at);
    return end < 0 ? this.#source.length : end;
  }
}
