import { styleText } from "node:util";
import { clean, textWidth, truncated, wrap } from "./text.ts";

type Style = Parameters<typeof styleText>[0];

/** A place to write to; process.stdout is one. */
export interface Output {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
}

export interface Column<Row> {
  readonly title: string;
  readonly value: (row: Row) => string;
  readonly align?: "right";
  /** Gives way when the terminal is too narrow. */
  readonly flexible?: true;
  readonly style?: (row: Row) => Style | undefined;
}

const NARROWEST = 12;
const GAP = "  ";

/**
 * Everything a command says. People get tables and colours, programs one JSON document or JSON lines; what is
 * for people only is never mixed into what is for programs.
 */
export class Terminal {
  readonly #out: Output;
  readonly #err: Output;
  readonly #color: boolean;
  readonly #errorColor: boolean;
  readonly json: boolean;
  readonly quiet: boolean;
  #status = false;

  constructor(
    out: Output,
    err: Output,
    options: { env: NodeJS.ProcessEnv; json?: boolean; quiet?: boolean },
  ) {
    this.#out = out;
    this.#err = err;
    this.#color = colorful(out, options.env);
    this.#errorColor = colorful(err, options.env);
    this.json = options.json ?? false;
    this.quiet = options.quiet ?? false;
  }

  get interactive(): boolean {
    return this.#out.isTTY === true;
  }

  /** Columns of the terminal; a pipe has room for everything. */
  get width(): number {
    return this.interactive ? Math.max(20, this.#out.columns ?? 80) : Number.POSITIVE_INFINITY;
  }

  style(style: Style, text: string): string {
    return this.#color ? styleText(style, text, { validateStream: false }) : text;
  }

  errorStyle(style: Style, text: string): string {
    return this.#errorColor ? styleText(style, text, { validateStream: false }) : text;
  }

  /** A result for people. */
  line(text = ""): void {
    if (!this.json) this.#write(`${text}\n`);
  }

  /** A remark for people: not with --quiet, not with --json. */
  say(text: string): void {
    if (!this.json && !this.quiet) this.#write(`${text}\n`);
  }

  /** The result for programs: one document. */
  document(value: unknown): void {
    if (this.json) this.#write(`${JSON.stringify(value, null, 2)}\n`);
  }

  /** One of many results for programs: a line. */
  item(value: unknown): void {
    if (this.json) this.#write(`${JSON.stringify(value)}\n`);
  }

  /** Text as it is, whatever the mode: a script, a help page. */
  raw(text: string): void {
    this.#write(text);
  }

  error(text: string): void {
    this.clearStatus();
    this.#err.write(`${text}\n`);
  }

  /** Another program's stderr, as it comes. */
  errorRaw(text: string): void {
    this.clearStatus();
    this.#err.write(text);
  }

  /** Text that replaces itself; only where a person watches. */
  status(text: string): void {
    if (this.json || this.quiet || this.#err.isTTY !== true) return;
    const columns = Math.max(20, this.#err.columns ?? 80);
    this.#err.write(`\r\x1b[2K${truncated(text, columns - 1)}`);
    this.#status = true;
  }

  clearStatus(): void {
    if (this.#status) this.#err.write("\r\x1b[2K");
    this.#status = false;
  }

  /** After Ctrl-C, which the terminal echoes: the shell's prompt belongs on a line of its own. */
  afterInterrupt(): void {
    if (this.#err.isTTY === true) this.#err.write("\n");
  }

  #write(text: string): void {
    this.clearStatus();
    this.#out.write(text);
  }

  /** Aligned columns; in a terminal that is too narrow for them, a block per row. */
  table<Row>(rows: readonly Row[], columns: readonly Column<Row>[]): void {
    for (const text of this.tableLines(rows, columns)) this.line(text);
  }

  tableLines<Row>(rows: readonly Row[], columns: readonly Column<Row>[]): string[] {
    const cells = rows.map((row) => columns.map((column) => clean(column.value(row))));
    const widths = columns.map((column, n) =>
      Math.max(textWidth(column.title), ...cells.map((row) => textWidth(row[n] ?? ""))),
    );
    if (!this.#fit(widths, columns)) return this.#blocks(rows, cells, columns);
    const draw = (texts: readonly string[], style: (n: number) => Style | undefined): string =>
      texts
        .map((text, n) => {
          const width = widths[n] ?? 0;
          const short = truncated(text, width);
          const space = " ".repeat(Math.max(0, width - textWidth(short)));
          const wanted = style(n);
          const styled = wanted === undefined ? short : this.style(wanted, short);
          if (columns[n]?.align === "right") return space + styled;
          return n === texts.length - 1 ? styled : styled + space;
        })
        .join(GAP)
        .trimEnd();
    const head = draw(
      columns.map(({ title }) => title),
      () => "dim",
    );
    return [
      head,
      ...cells.map((texts, r) => draw(texts, (n) => columns[n]?.style?.(rows[r] as Row))),
    ];
  }

  /** Narrows the flexible columns until the row fits; false when even that is not enough. */
  #fit<Row>(widths: number[], columns: readonly Column<Row>[]): boolean {
    const total = () =>
      widths.reduce((sum, width) => sum + width, 0) + GAP.length * (widths.length - 1);
    while (total() > this.width) {
      let widest = -1;
      for (const [n, column] of columns.entries()) {
        const width = widths[n] ?? 0;
        if (!column.flexible || width <= NARROWEST) continue;
        if (widest < 0 || width > (widths[widest] ?? 0)) widest = n;
      }
      if (widest < 0) return false;
      widths[widest] = (widths[widest] ?? 0) - 1;
    }
    return true;
  }

  #blocks<Row>(rows: readonly Row[], cells: string[][], columns: readonly Column<Row>[]): string[] {
    return rows.flatMap((row, r) => [
      ...(r === 0 ? [] : [""]),
      ...this.fieldLines(
        columns.map((column, n) => {
          const style = column.style?.(row);
          return [column.title.toLowerCase(), cells[r]?.[n] ?? "", style] as const;
        }),
      ),
    ]);
  }

  /** `name  value` lines, aligned; fields without a value are left out. */
  fields(
    fields: readonly (readonly [name: string, value: string | null, style?: Style | undefined])[],
  ): void {
    for (const text of this.fieldLines(fields)) this.line(text);
  }

  fieldLines(
    fields: readonly (readonly [name: string, value: string | null, style?: Style | undefined])[],
  ): string[] {
    const shown = fields.filter(([, value]) => value !== null && value !== "");
    const width = Math.max(0, ...shown.map(([name]) => textWidth(name)));
    return shown.map(([name, value, style]) => {
      const indent = " ".repeat(width + GAP.length);
      const text = wrap(
        clean(value ?? ""),
        Math.max(NARROWEST, this.width - indent.length),
        indent,
      );
      return `${this.style("dim", name.padEnd(width))}${GAP}${style === undefined ? text : this.style(style, text)}`;
    });
  }
}

/** https://no-color.org and https://force-color.org */
function colorful(output: Output, env: NodeJS.ProcessEnv): boolean {
  if (env.NO_COLOR !== undefined && env.NO_COLOR !== "") return false;
  if (env.FORCE_COLOR !== undefined) return env.FORCE_COLOR !== "0" && env.FORCE_COLOR !== "false";
  return output.isTTY === true && env.TERM !== "dumb";
}
