import { appendFileSync } from "node:fs";
import { SingleBar } from "cli-progress";

/**
 * Tells people what happens: a bar with notes above it on a terminal, a few plain lines elsewhere, and all of it
 * in a log file. On stderr, so that stdout has the report alone.
 */
export class Progress {
  readonly #stream: NodeJS.WriteStream = process.stderr;
  readonly #logFile: string;
  readonly #wantsBar: boolean;
  #bar: SingleBar | undefined;
  #total = 0;
  #done = 0;
  #hint = "";

  constructor(logFile: string, options: { bar: boolean }) {
    this.#logFile = logFile;
    this.#wantsBar = options.bar && this.#stream.isTTY === true;
  }

  note(text: string): void {
    this.log(text);
    // A bar remembers where on the screen it began: the note takes that line, and a new bar begins below.
    const drawn = this.#bar !== undefined;
    this.end();
    this.#stream.write(`${text}\n`);
    if (drawn) this.#draw();
  }

  log(text: string): void {
    try {
      appendFileSync(this.#logFile, `${new Date().toISOString()} ${text}\n`);
    } catch {
      // A full disk must not end the demo; the terminal shows the same.
    }
  }

  begin(total: number): void {
    this.#total = total;
    if (this.#wantsBar) this.#draw();
  }

  advance(): void {
    this.#done++;
    this.#bar?.increment();
  }

  /** What is being waited for, behind the bar. */
  hint(text: string): void {
    this.#hint = text;
    this.#bar?.update({ hint: text });
  }

  #draw(): void {
    this.#bar = new SingleBar({
      format: "{bar} {value}/{total} tasks  {hint}",
      stream: this.#stream,
      barsize: 24,
      barCompleteChar: "█",
      barIncompleteChar: "░",
      hideCursor: true,
      clearOnComplete: true,
      gracefulExit: false,
    });
    this.#bar.start(this.#total, this.#done, { hint: this.#hint });
  }

  end(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }
}
