import { type ChildProcess, spawn } from "node:child_process";

export interface ProgramRun {
  /** For the shell. */
  readonly command: string;
  /** Goes to its standard input. */
  readonly input: string;
  readonly env: NodeJS.ProcessEnv;
  /** Ends it when it aborts. */
  readonly signal: AbortSignal;
  /** Ends it after this long, in milliseconds. */
  readonly timeoutMs: number | undefined;
  readonly onStderr: (chunk: string) => void;
}

export interface ProgramEnd {
  /** Null when a signal ended it. */
  readonly code: number | null;
  readonly endedBy: NodeJS.Signals | null;
  readonly timedOut: boolean;
  /** It wrote more than is kept; what is kept is no answer. */
  readonly tooMuch: boolean;
  readonly stdout: string;
  /** The last of it. */
  readonly stderr: string;
}

const MOST_STDOUT = 16_000_000;
const STDERR_TAIL = 4_000;
/** Between asking a program to end and ending it. */
const GRACE_MS = 5_000;
/** A program that left something running behind keeps its output open; it is not waited for any longer. */
const LINGER_MS = 500;

const running = new Set<ChildProcess>();

/** Signals the program and all that it started: it leads a process group of its own. */
function signalGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined) return;
  try {
    if (process.platform === "win32") child.kill(signal);
    else process.kill(-child.pid, signal);
  } catch {
    // Gone already.
  }
}

// In a group of their own they do not get the terminal's second Ctrl-C, which ends this process at once.
process.once("exit", () => {
  for (const child of running) signalGroup(child, "SIGKILL");
});

/** Runs a program through the shell; resolves however it ends, and rejects only when it cannot be started. */
export function runProgram(run: ProgramRun): Promise<ProgramEnd> {
  return new Promise((resolve, reject) => {
    const child = spawn(run.command, {
      shell: true,
      // Ctrl-C reaches this process alone, which lets programs finish what they have begun.
      detached: process.platform !== "win32",
      env: run.env,
      stdio: ["pipe", "pipe", "pipe"],
    });
    running.add(child);
    let stdout = "";
    let stderr = "";
    let tooMuch = false;
    let timedOut = false;
    let killer: NodeJS.Timeout | undefined;

    const end = () => {
      if (killer !== undefined) return;
      signalGroup(child, "SIGTERM");
      killer = setTimeout(() => signalGroup(child, "SIGKILL"), GRACE_MS);
    };
    const timer =
      run.timeoutMs === undefined
        ? undefined
        : setTimeout(() => {
            timedOut = true;
            end();
          }, run.timeoutMs);
    const forget = () => {
      running.delete(child);
      clearTimeout(timer);
      clearTimeout(killer);
      run.signal.removeEventListener("abort", end);
    };
    const settle = (code: number | null, endedBy: NodeJS.Signals | null) => {
      forget();
      child.stdout.destroy();
      child.stderr.destroy();
      resolve({ code, endedBy, timedOut, tooMuch, stdout, stderr });
    };

    child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      if (stdout.length + chunk.length <= MOST_STDOUT) stdout += chunk;
      else tooMuch = true;
    });
    child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
      stderr = (stderr + chunk).slice(-STDERR_TAIL);
      run.onStderr(chunk);
    });
    child.on("error", (error) => {
      forget();
      reject(error);
    });
    child.on("close", settle);
    child.on("exit", (code, endedBy) => {
      setTimeout(() => settle(code, endedBy), LINGER_MS).unref();
    });
    // A program need not read what it is about.
    child.stdin.on("error", () => {});
    child.stdin.end(run.input);
    if (run.signal.aborted) end();
    else run.signal.addEventListener("abort", end, { once: true });
  });
}
