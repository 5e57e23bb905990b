import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { extname } from "node:path";
import { inTime } from "./measure.ts";

/** What a program says before its first answer, and when it fails. */
type Told<T> = { readonly told: T } | { readonly failed: string };

/** A program of `programs/` in a process of its own, which is asked and answers. */
export class Child<Order extends object, Answer> {
  readonly #process: ChildProcess;
  readonly #hear: ((answer: Answer) => void) | undefined;
  readonly #answers: Answer[] = [];
  #waiting: { resolve(answer: Answer): void; reject(error: Error): void } | undefined;
  #broken: Error | undefined;
  #leaving = false;

  /** @param hear gets every answer instead of `next` */
  constructor(program: string, args: readonly string[], hear?: (answer: Answer) => void) {
    this.#hear = hear;
    // As this file is run, compiled or not, so is the program.
    const extension = extname(import.meta.filename);
    this.#process = fork(new URL(`./programs/${program}${extension}`, import.meta.url), args, {
      execArgv: extension === ".ts" ? ["--import", "tsx"] : [],
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    });
    this.#process.on("message", (message: Told<Answer>) => {
      if ("failed" in message) this.#fail(new Error(`${program}: ${message.failed}`));
      else this.#heard(message.told);
    });
    this.#process.on("exit", (code, signal) => {
      if (!this.#leaving) this.#fail(new Error(`${program} ended (${code ?? signal})`));
    });
  }

  tell(order: Order): void {
    if (this.#process.connected) this.#process.send(order);
  }

  next(patienceMs = 120_000): Promise<Answer> {
    const answer = this.#answers.shift();
    if (answer !== undefined) return Promise.resolve(answer);
    if (this.#broken !== undefined) return Promise.reject(this.#broken);
    const waited = new Promise<Answer>((resolve, reject) => {
      this.#waiting = { resolve, reject };
    });
    return inTime(waited, patienceMs);
  }

  ask(order: Order, patienceMs?: number): Promise<Answer> {
    this.tell(order);
    return this.next(patienceMs);
  }

  /** It closes what it has open, and ends. */
  async end(): Promise<void> {
    this.#leaving = true;
    const { exitCode, signalCode } = this.#process;
    if (exitCode !== null || signalCode !== null) return;
    const gone = once(this.#process, "exit");
    if (this.#process.connected) this.#process.disconnect();
    await gone;
  }

  #heard(answer: Answer): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (this.#hear !== undefined) this.#hear(answer);
    else if (waiting !== undefined) waiting.resolve(answer);
    else this.#answers.push(answer);
  }

  #fail(error: Error): void {
    this.#broken ??= error;
    this.#waiting?.reject(this.#broken);
    this.#waiting = undefined;
  }
}
