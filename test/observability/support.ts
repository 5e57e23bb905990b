import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import type { MessageEvent } from "../../lib/protocol/events.ts";
import { compiled } from "../support/programs.ts";
import type { WriterJob } from "./log-writer.ts";

/** A directory of its own for the running test, gone when it ends. */
export function tempDir(): string {
  const dir = mkdtempSync(join(tmpdir(), "outbox-logs-"));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

export const NOON = Date.parse("2024-01-15T12:00:00.000Z");
export const DAY_MS = 86_400_000;

export function messageEvent(over: Partial<MessageEvent> = {}): MessageEvent {
  return {
    type: "message",
    event: "sent",
    messageId: "msg_123",
    fromAgent: "agent_001",
    toAgent: "agent_002",
    messageType: "TASK_ASSIGNMENT",
    at: NOON,
    ...over,
  };
}

/** The lines of a file as they stand there, without the newlines; fails when the last one has none. */
export function rawLines(path: string): string[] {
  const text = readFileSync(path, "utf8");
  if (!text.endsWith("\n")) throw new Error(`${path} does not end with a newline`);
  return text.slice(0, -1).split("\n");
}

export function parsedLines(path: string): Record<string, unknown>[] {
  return rawLines(path).map((line) => JSON.parse(line) as Record<string, unknown>);
}

/** A real process that logs; see log-writer.ts. With `fileLimit` no file of it can grow beyond that many blocks. */
export function startWriter(job: WriterJob, fileLimit?: number): ChildProcess {
  const command = [
    process.execPath,
    compiled("test/observability/log-writer.ts"),
    JSON.stringify(job),
  ];
  // Ignored, SIGXFSZ turns into the error EFBIG, which is what a full disk looks like to the writer.
  const limited = ["-c", `trap '' XFSZ; ulimit -f ${fileLimit}; exec "$@"`, "sh", ...command];
  const [program = "", ...args] = fileLimit === undefined ? command : ["sh", ...limited];
  const child = spawn(program, args, {
    stdio: ["ignore", "ignore", "inherit", "ipc"],
    env: { ...process.env, NODE_OPTIONS: "" },
  });
  onTestFinished(() => {
    child.kill("SIGKILL");
  });
  return child;
}

/** What the writer says next. */
export async function heard(child: ChildProcess): Promise<unknown> {
  const [said] = (await once(child, "message")) as [unknown];
  return said;
}

export async function ended(child: ChildProcess): Promise<number | null> {
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
  return child.exitCode;
}
