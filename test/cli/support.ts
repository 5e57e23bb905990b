import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { Readable } from "node:stream";
import { onTestFinished } from "vitest";
import { run } from "../../lib/cli/run.ts";
import { compiled } from "../support/programs.ts";

export interface CliOptions {
  readonly database?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** What comes on the standard input. */
  readonly input?: string;
  readonly signal?: AbortSignal;
  /** Told of all that stdout has, each time that there is more. */
  readonly onOutput?: (out: string) => void;
  /** A terminal of this many columns. Default: a pipe. */
  readonly columns?: number;
}

export interface CliResult {
  readonly code: number;
  readonly out: string;
  readonly err: string;
  /** stdout as one JSON document. */
  json<T = Record<string, unknown>>(): T;
  /** stdout as JSON lines. */
  lines<T = Record<string, unknown>>(): T[];
}

/** Runs a command line in this process, as `main.ts` does in its own. */
export async function runCli(
  argv: readonly string[],
  options: CliOptions = {},
): Promise<CliResult> {
  let out = "";
  let err = "";
  const terminal = options.columns === undefined ? {} : { isTTY: true, columns: options.columns };
  const stdin = Readable.from(options.input === undefined ? [] : [Buffer.from(options.input)]);
  const code = await run(argv, {
    stdout: {
      ...terminal,
      write: (text) => {
        out += text;
        options.onOutput?.(out);
      },
    },
    stderr: {
      ...terminal,
      write: (text) => {
        err += text;
      },
    },
    stdin,
    env: environment(options),
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  });
  return result(code, out, err);
}

function result(code: number, out: string, err: string): CliResult {
  return {
    code,
    out,
    err,
    json: <T>() => JSON.parse(out) as T,
    lines: <T>() =>
      out
        .split("\n")
        .filter((line) => line !== "")
        .map((line) => JSON.parse(line) as T),
  };
}

/** This machine's own settings must not reach what is tested. */
function environment(options: CliOptions): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(
    ([name]) => !/^(OUTBOX_|AGENT_|AZURE_|DATABASE_URL$|NO_COLOR$|FORCE_COLOR$|DEBUG$)/.test(name),
  );
  return {
    ...Object.fromEntries(kept),
    ...(options.database === undefined ? {} : { DATABASE_URL: options.database }),
    ...options.env,
  };
}

export interface CliProcess {
  readonly child: ChildProcessByStdio<null, Readable, Readable>;
  out(): string;
  err(): string;
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

/** The real command in a process of its own. Killed when the test ends, if it still runs. */
export function spawnCli(argv: readonly string[], options: CliOptions = {}): CliProcess {
  const child = spawn(process.execPath, [compiled("lib/cli/main.ts"), ...argv], {
    env: environment(options),
    stdio: ["ignore", "pipe", "pipe"],
  });
  let out = "";
  let err = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    out += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    err += text;
  });
  const exited = once(child, "close").then(([code, signal]) => ({
    code: code as number | null,
    signal: signal as NodeJS.Signals | null,
  }));
  onTestFinished(async () => {
    child.kill("SIGKILL");
    await exited;
  });
  return { child, out: () => out, err: () => err, exited };
}
