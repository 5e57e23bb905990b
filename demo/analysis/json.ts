/**
 * Reads JSON for its shape and for the exact place of its first error, which JSON.parse does not reliably tell.
 * One pass without recursion: a file of a million brackets costs memory, not the stack.
 */

export interface JsonPlace {
  readonly message: string;
  readonly line: number;
  readonly column: number;
}

export interface JsonFacts {
  readonly valid: boolean;
  readonly error: JsonPlace | null;
  /** Documents in the file: 1, or one per line for JSON lines. */
  readonly documents: number;
  readonly depth: number;
  readonly keys: number;
  /** How many values there are of each type. */
  readonly types: Readonly<Record<string, number>>;
  /** Keys that an object has twice: legal, and nearly always a mistake. The first ten. */
  readonly duplicateKeys: readonly JsonPlace[];
}

export interface JsonOptions {
  /** Comments and trailing commas are allowed, as in tsconfig.json. Default false. */
  readonly comments?: boolean;
  /** One document per line. Default false. */
  readonly lines?: boolean;
}

const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const WORD = /[A-Za-z]+/y;
const WORDS: Record<string, string> = { true: "boolean", false: "boolean", null: "null" };
const ESCAPE = /\\(?:["\\/bfnrt]|u[\da-fA-F]{4})/y;
const MOST_DUPLICATES = 10;

/** The options for a file by its name. */
export function jsonOptionsOf(path: string): JsonOptions {
  const name = path.slice(path.lastIndexOf("/") + 1);
  const comments =
    /\.(jsonc|json5|code-workspace)$/.test(name) ||
    /^[jt]sconfig.*\.json$/.test(name) ||
    /(^|\/)\.vscode\//.test(path);
  return { comments, lines: /\.(jsonl|ndjson)$/.test(name) };
}

export function analyseJson(text: string, options: JsonOptions = {}): JsonFacts {
  const reader = new Reader(text.startsWith("\uFEFF") ? text.slice(1) : text, options);
  try {
    reader.read();
    return reader.facts(null);
  } catch (error) {
    if (error instanceof JsonError) return reader.facts(error.place);
    throw error;
  }
}

class JsonError extends Error {
  readonly place: JsonPlace;
  constructor(place: JsonPlace) {
    super(place.message);
    this.place = place;
  }
}

class Reader {
  readonly #text: string;
  readonly #options: JsonOptions;
  /** The open brackets; an object has the keys it had so far. */
  readonly #open: (Set<string> | null)[] = [];
  readonly #types: Record<string, number> = {};
  readonly #duplicates: JsonPlace[] = [];
  #at = 0;
  #documents = 0;
  #depth = 0;
  #keys = 0;

  constructor(text: string, options: JsonOptions) {
    this.#text = text;
    this.#options = options;
  }

  facts(error: JsonPlace | null): JsonFacts {
    return {
      valid: error === null,
      error,
      documents: this.#documents,
      depth: this.#depth,
      keys: this.#keys,
      types: this.#types,
      duplicateKeys: this.#duplicates,
    };
  }

  read(): void {
    if (!this.#options.lines) {
      this.#document();
      this.#space();
      if (this.#at < this.#text.length) this.#fail(`${this.#seen()} after the end of the document`);
      return;
    }
    for (;;) {
      while (/\s/.test(this.#text[this.#at] ?? "")) this.#at++;
      if (this.#at >= this.#text.length) return;
      this.#document();
      this.#space();
      if (this.#at < this.#text.length && this.#text[this.#at] !== "\n") {
        this.#fail(`${this.#seen()} after the end of the document`);
      }
    }
  }

  /** One document: values, and after each value what its surroundings ask for. */
  #document(): void {
    const outside = this.#open.length;
    do {
      this.#space();
      if (!this.#value()) continue;
      while (this.#open.length > outside && !this.#comma()) this.#open.pop();
    } while (this.#open.length > outside);
    this.#documents++;
  }

  /** False when the value is a bracket with something in it, so that the next value is inside. */
  #value(): boolean {
    const char = this.#text[this.#at];
    if (char === "{" || char === "[") {
      this.#count(char === "{" ? "object" : "array");
      this.#open.push(char === "{" ? new Set() : null);
      this.#depth = Math.max(this.#depth, this.#open.length);
      this.#at++;
      this.#space();
      if (this.#text[this.#at] === (char === "{" ? "}" : "]")) {
        this.#at++;
        this.#open.pop();
        return true;
      }
      if (char === "{") this.#key();
      return false;
    }
    if (char === '"') {
      this.#count("string");
      this.#string();
      return true;
    }
    const number = this.#match(NUMBER);
    if (number !== "") {
      this.#count("number");
      this.#at += number.length;
      return true;
    }
    const word = this.#match(WORD);
    const type = Object.hasOwn(WORDS, word) ? WORDS[word] : undefined;
    if (type === undefined) this.#fail(`expected a value, found ${this.#seen()}`);
    this.#count(type as string);
    this.#at += word.length;
    return true;
  }

  /** After a value: true when another one follows, false when the bracket around it was closed. */
  #comma(): boolean {
    const keys = this.#open.at(-1);
    const closing = keys === null ? "]" : "}";
    this.#space();
    const char = this.#text[this.#at];
    if (char === closing) {
      this.#at++;
      return false;
    }
    if (char !== ",") this.#fail(`expected "," or "${closing}", found ${this.#seen()}`);
    this.#at++;
    this.#space();
    if (this.#text[this.#at] === closing) {
      if (!this.#options.comments) this.#fail(`"${closing}" after a comma`);
      this.#at++;
      return false;
    }
    if (keys !== null) this.#key();
    return true;
  }

  #key(): void {
    if (this.#text[this.#at] !== '"') {
      this.#fail(`expected a key in double quotes, found ${this.#seen()}`);
    }
    const start = this.#at;
    const key = JSON.parse(this.#string()) as string;
    const keys = this.#open.at(-1);
    if (keys?.has(key) && this.#duplicates.length < MOST_DUPLICATES) {
      this.#duplicates.push(this.#place(`the key ${JSON.stringify(key.slice(0, 60))}`, start));
    }
    keys?.add(key);
    this.#keys++;
    this.#space();
    if (this.#text[this.#at] !== ":") this.#fail(`expected ":", found ${this.#seen()}`);
    this.#at++;
  }

  #string(): string {
    const start = this.#at++;
    for (;;) {
      const code = this.#text.charCodeAt(this.#at);
      if (code === 34) return this.#text.slice(start, ++this.#at);
      if (Number.isNaN(code) || code === 10) this.#fail("a string that is not closed", start);
      if (code < 32) this.#fail("a control character in a string");
      if (code !== 92) this.#at++;
      else {
        const escaped = this.#match(ESCAPE);
        if (escaped === "") this.#fail("an escape that JSON does not know");
        this.#at += escaped.length;
      }
    }
  }

  #space(): void {
    for (;;) {
      const char = this.#text[this.#at];
      if (char === " " || char === "\t" || char === "\r" || (char === "\n" && !this.#endsLine())) {
        this.#at++;
      } else if (!this.#options.comments || char !== "/") return;
      else if (this.#text[this.#at + 1] === "/") this.#skipTo("\n", "");
      else if (this.#text[this.#at + 1] === "*") this.#skipTo("*/", "a comment that is not closed");
      else return;
    }
  }

  /** In JSON lines a document ends with its line. */
  #endsLine(): boolean {
    return this.#options.lines === true;
  }

  #skipTo(end: string, unclosed: string): void {
    const found = this.#text.indexOf(end, this.#at + 2);
    if (found < 0 && unclosed !== "") this.#fail(unclosed);
    this.#at = found < 0 ? this.#text.length : found + end.length;
  }

  #count(type: string): void {
    this.#types[type] = (this.#types[type] ?? 0) + 1;
  }

  #match(pattern: RegExp): string {
    pattern.lastIndex = this.#at;
    return pattern.exec(this.#text)?.[0] ?? "";
  }

  #seen(): string {
    const char = this.#text.codePointAt(this.#at);
    if (char === undefined) return "the end of the file";
    return char === 10 ? "the end of the line" : JSON.stringify(String.fromCodePoint(char));
  }

  #place(message: string, at = this.#at): JsonPlace {
    const before = this.#text.slice(0, at);
    const start = before.lastIndexOf("\n") + 1;
    return { message, line: before.split("\n").length, column: at - start + 1 };
  }

  #fail(message: string, at = this.#at): never {
    throw new JsonError(this.#place(message, at));
  }
}
