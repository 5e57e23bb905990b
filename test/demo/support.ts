import { execFileSync, spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { onTestFinished } from "vitest";
import type { Report } from "../../demo/report.ts";
import { compiled } from "../support/programs.ts";

export interface Finished {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Running {
  readonly pid: number;
  readonly finished: Promise<Finished>;
  /** Resolves when it has written this to stderr. */
  said(text: string): Promise<void>;
  kill(signal: NodeJS.Signals): void;
}

/** As `npm run demo` starts it. */
export const SOURCE = resolve("demo/main.ts");

/** As one file, and one for its workers: some seconds less of two cores. */
function bundled(): string {
  compiled("demo/worker.ts");
  return compiled(SOURCE);
}

/** The demo in a process of its own, in a folder of its own. */
export function startDemo(args: readonly string[], cwd: string, program = bundled()): Running {
  const loader = program.endsWith(".ts") ? ["--import", import.meta.resolve("tsx")] : [];
  const child = spawn(process.execPath, [...loader, program, ...args], {
    cwd,
    env: { ...process.env, NO_COLOR: undefined, FORCE_COLOR: undefined },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let stdout = "";
  let stderr = "";
  const listeners = new Set<() => void>();
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
    for (const listener of listeners) listener();
  });
  const finished = new Promise<Finished>((settle) => {
    child.on("close", (code) => settle({ code, stdout, stderr }));
  });
  onTestFinished(async () => {
    child.kill("SIGKILL");
    await finished;
  });
  return {
    pid: child.pid ?? -1,
    finished,
    kill: (signal) => void child.kill(signal),
    said: (text) =>
      Promise.race([
        new Promise<void>((settle) => {
          const look = () => {
            if (stderr.includes(text)) settle();
          };
          listeners.add(look);
          look();
        }),
        finished.then((end) => {
          throw new Error(`it ended (${end.code}) before it said "${text}":\n${end.stderr}`);
        }),
      ]),
  };
}

export async function runDemo(args: readonly string[], cwd: string, program?: string) {
  return startDemo(args, cwd, program).finished;
}

export function reportIn({ stdout, stderr }: Finished): Report {
  try {
    return JSON.parse(stdout) as Report;
  } catch {
    throw new Error(`no report:\n${stdout}\n${stderr}`);
  }
}

/** The processes that a process has started and that still run. */
export function childrenOf(pid: number): number[] {
  return processes()
    .filter(([, parent]) => parent === pid)
    .map(([child]) => child);
}

/** Every process with its parent: from /proc, because small Linux images have no ps. */
function processes(): (readonly [number, number])[] {
  if (existsSync("/proc/self/stat")) {
    return readdirSync("/proc").flatMap((name) => {
      if (!/^\d+$/.test(name)) return [];
      try {
        // The name of the program stands in parentheses, and may hold anything.
        const [, parent] =
          readFileSync(`/proc/${name}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];
        return [[Number(name), Number(parent)] as const];
      } catch {
        return [];
      }
    });
  }
  const all = execFileSync("ps", ["-A", "-o", "pid=,ppid="], { encoding: "utf8" });
  return all
    .trim()
    .split("\n")
    .map((line) => line.trim().split(/\s+/).map(Number) as [number, number]);
}

export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    // In a container nobody may collect the dead; they are dead all the same.
    const status = `/proc/${pid}/stat`;
    if (existsSync(status)) return !readFileSync(status, "utf8").includes(") Z ");
    return true;
  } catch {
    return false;
  }
}

/** A folder that goes away with the test. */
export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "outbox-demo-"));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** A small project with something to find in it. */
export async function fixture(): Promise<string> {
  const root = await temporaryFolder();
  const files: Record<string, string> = {
    "README.md": "# Title\n\n[ok](docs/guide.md#setup) [no](docs/gone.md)\n\n```sh\nls\n```\n",
    "docs/guide.md": "# Guide\n\n## Setup\n\n[no](#nowhere) [web](https://example.org)\n",
    "data/good.json": '{"a": [1, 2], "b": null}\n',
    "data/bad.json": '{\n  "a": 1,\n}\n',
    "data/lines.jsonl": '{"a":1}\n{"a":2}\n',
    "same/one.txt": "the same\n",
    "same/two.txt": "the same\n",
    "schema.sql": "-- tables\nSELECT 1;\n",
    "run.sh": "#!/bin/sh\necho",
    "image.bin": "\0\0\0",
    "src/\u001b[31mred.ts": "export const red = 1; // escape sequence in the name\n",
  };
  for (let n = 1; n <= 12; n++) {
    const body = `  // step\n${"  x();\n".repeat(n)}`;
    files[`src/file${n}.ts`] = `export function f${n}() {\n${body}}\n`;
  }
  for (const [path, text] of Object.entries(files)) {
    await mkdir(join(root, dirname(path)), { recursive: true });
    await writeFile(join(root, path), text);
  }
  return root;
}
