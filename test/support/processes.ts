import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { onTestFinished } from "vitest";
import { compiled } from "./programs.ts";

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A TypeScript program in a process of its own that reports with `process.send` or JSON lines on stdout. */
export interface Script {
  readonly child: ChildProcess;
  readonly pid: number;
  /** The next message that nobody took yet; rejects when the program ends or is silent for too long. */
  message<T = Record<string, unknown>>(options?: { timeoutMs?: number }): Promise<T>;
  /** All messages that nobody took yet. */
  messages<T = Record<string, unknown>>(): T[];
  send(message: unknown): void;
  /** Returns when the signal is sent; `exited` tells when the process is gone. */
  kill(signal?: NodeJS.Signals): void;
  readonly exited: Promise<Exit>;
  /** What it wrote to stderr, and to stdout other than JSON. */
  output(): string;
}

const EXIT_WITH_PARENT = "test/support/exit-with-parent.ts";

/** Runs a TypeScript file, named from the top of the repository. Killed when the test ends, if it still runs. */
export function spawnScript(
  tsFile: string,
  args: readonly string[] = [],
  env: NodeJS.ProcessEnv = {},
  options: { cwd?: string } = {},
): Script {
  const child = spawn(
    process.execPath,
    ["--import", compiled(EXIT_WITH_PARENT), compiled(tsFile), ...args],
    { ...options, env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe", "ipc"] },
  );
  const inbox = new Inbox();
  let output = "";
  child.on("message", (message) => inbox.put(message));
  createInterface({ input: child.stdout as NonNullable<typeof child.stdout> }).on(
    "line",
    (line) => {
      const message = parsed(line);
      if (message === undefined) output += `${line}\n`;
      else inbox.put(message);
    },
  );
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    output += text;
  });
  const exited = new Promise<Exit>((settle) => {
    // "close" comes after the last line was read, "exit" may come before.
    child.on("close", (code, signal) => {
      inbox.end(`${tsFile} ended (code ${code}, signal ${signal})\n${output.slice(-2_000)}`);
      settle({ code, signal });
    });
    child.on("error", (error) => {
      inbox.end(`${tsFile} did not start: ${error.message}`);
      settle({ code: null, signal: null });
    });
  });
  onTestFinished(async () => {
    // SIGKILL also ends a process that was stopped with SIGSTOP.
    child.kill("SIGKILL");
    await exited;
  });
  return {
    child,
    pid: child.pid ?? -1,
    message: <T>({ timeoutMs = 60_000 } = {}) => inbox.take(timeoutMs, () => output) as Promise<T>,
    messages: <T>() => inbox.drain() as T[],
    send: (message) => void child.send(message as object),
    kill: (signal = "SIGKILL") => void child.kill(signal),
    exited,
    output: () => output,
  };
}

function parsed(line: string): unknown {
  if (!line.startsWith("{")) return undefined;
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

/** Messages in order of arrival, and who waits for them. */
class Inbox {
  readonly #messages: unknown[] = [];
  readonly #waiting: { resolve(message: unknown): void; reject(error: Error): void }[] = [];
  #ended: string | undefined;

  put(message: unknown): void {
    const waiter = this.#waiting.shift();
    if (waiter === undefined) this.#messages.push(message);
    else waiter.resolve(message);
  }

  end(reason: string): void {
    this.#ended = reason;
    for (const waiter of this.#waiting.splice(0)) waiter.reject(new Error(reason));
  }

  drain(): unknown[] {
    return this.#messages.splice(0);
  }

  take(timeoutMs: number, output: () => string): Promise<unknown> {
    if (this.#messages.length > 0) return Promise.resolve(this.#messages.shift());
    if (this.#ended !== undefined) return Promise.reject(new Error(this.#ended));
    return new Promise((resolve, reject) => {
      const waiter = {
        resolve: (message: unknown) => {
          clearTimeout(timer);
          resolve(message);
        },
        reject: (error: Error) => {
          clearTimeout(timer);
          reject(error);
        },
      };
      const timer = setTimeout(() => {
        this.#waiting.splice(this.#waiting.indexOf(waiter), 1);
        reject(new Error(`no message within ${timeoutMs} ms\n${output().slice(-2_000)}`));
      }, timeoutMs);
      this.#waiting.push(waiter);
    });
  }
}

export interface UntilOptions {
  /** How long to go on trying, in milliseconds. Default 60,000. */
  readonly timeoutMs?: number;
  /** The pause between two tries, in milliseconds. Default 20. */
  readonly everyMs?: number;
}

/** Tries until `check` returns something truthy, and returns that. A failing check counts as not yet. */
export async function until<T>(
  check: () => T | Promise<T>,
  { timeoutMs = 60_000, everyMs = 20 }: UntilOptions = {},
): Promise<NonNullable<T>> {
  const deadline = performance.now() + timeoutMs;
  let last: unknown;
  for (;;) {
    try {
      const value = await check();
      if (value) return value;
      last = value;
    } catch (error) {
      last = error;
    }
    if (performance.now() >= deadline) {
      throw new Error(`not within ${timeoutMs} ms: ${check}; last: ${String(last)}`, {
        cause: last,
      });
    }
    await sleep(everyMs);
  }
}
