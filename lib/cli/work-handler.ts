import type { ClaimedMessage, WorkContext } from "../index.ts";
import { type ProgramEnd, runProgram } from "./program.ts";

/** Exit codes of sysexits.h that say more than "failed". */
const EX_DATAERR = 65;
const EX_TEMPFAIL = 75;

export interface HandlerOptions {
  readonly command: string;
  readonly env: NodeJS.ProcessEnv;
  readonly timeoutMs: number | undefined;
  readonly deferMs: number;
  readonly reply: boolean;
  readonly onStderr: (chunk: string) => void;
}

export interface Handled {
  readonly outcome: "done" | "deferred" | "dead_lettered";
  readonly replyId?: string;
  readonly error?: string;
}

/** How a program failed: the last of its stderr, and its exit code as the error's code. */
class ProgramFailed extends Error {
  override readonly name = "ProgramFailed";
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.code = code;
    // Where this file threw it helps nobody who reads the dead letters.
    delete this.stack;
  }
}

/** Runs the program for one message, and settles the message by its exit code where returning does not. */
export async function handleMessage(
  message: ClaimedMessage,
  context: WorkContext,
  options: HandlerOptions,
): Promise<Handled> {
  const since = performance.now();
  const end = await runProgram({
    command: options.command,
    input: `${JSON.stringify(message)}\n`,
    env: { ...options.env, ...variables(message) },
    signal: context.signal,
    timeoutMs: options.timeoutMs,
    onStderr: options.onStderr,
  });
  // Someone else may have the message, or the worker stops: what the program did counts for nothing.
  context.signal.throwIfAborted();
  if (end.timedOut) {
    throw new ProgramFailed("TIMEOUT", `ended after ${options.timeoutMs} ms: ${tail(end)}`);
  }
  if (end.code === EX_TEMPFAIL) {
    await message.defer(options.deferMs);
    return { outcome: "deferred" };
  }
  if (end.code === EX_DATAERR) {
    const error = failure(end);
    await message.deadLetter("rejected", { error });
    return { outcome: "dead_lettered", error: error.message };
  }
  if (end.code !== 0) throw failure(end);
  const content = options.reply ? replyOf(message, end, performance.now() - since) : undefined;
  if (content === undefined) return { outcome: "done" };
  const { messageId } = await context.tx((tx) => message.reply(content, { tx }));
  return { outcome: "done", replyId: messageId };
}

function failure(end: ProgramEnd): ProgramFailed {
  const code = end.code === null ? (end.endedBy ?? "SIGNAL") : `EXIT_${end.code}`;
  const how = end.code === null ? `ended by ${end.endedBy}` : `exit code ${end.code}`;
  const text = tail(end);
  return new ProgramFailed(code, text === "" ? how : text);
}

const tail = ({ stderr }: ProgramEnd): string => stderr.trim();

function variables(message: ClaimedMessage): Record<string, string> {
  const optional = {
    OUTBOX_CORRELATION_ID: message.correlationId,
    OUTBOX_TASK_ID: message.taskId,
    OUTBOX_REPLY_TO: message.replyTo,
  };
  return {
    OUTBOX_MESSAGE_ID: message.messageId,
    OUTBOX_MESSAGE_TYPE: message.messageType,
    OUTBOX_FROM_AGENT: message.fromAgent,
    OUTBOX_TO_AGENT: message.toAgent,
    OUTBOX_ATTEMPT: String(message.attempt),
    OUTBOX_MAX_ATTEMPTS: String(message.maxAttempts),
    OUTBOX_RECEIPT: String(message.receipt),
    ...Object.fromEntries(
      Object.entries(optional).filter((entry): entry is [string, string] => entry[1] !== null),
    ),
  };
}

/** What the program wrote, as the content of a reply; undefined when nobody gets one. */
function replyOf(message: ClaimedMessage, end: ProgramEnd, tookMs: number): object | undefined {
  const text = end.stdout.trim();
  const task = message.messageType === "TASK_ASSIGNMENT" && message.taskId !== null;
  // A reply to a reply would be replied to in turn, without end.
  if (message.kind === "response") return undefined;
  // "system" stands for a sender that is no agent.
  if (message.replyTo === null && message.fromAgent === "system") return undefined;
  if (end.tooMuch) {
    throw new ProgramFailed("OUTPUT_TOO_LARGE", "wrote more to stdout than a reply can hold");
  }
  // A supervisor waits for the end of its task, also of one that has nothing to tell.
  if (text === "" && !task) return undefined;
  const output = parsed(text);
  return task ? taskResult(message, output, tookMs) : wrapped(output);
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

const wrapped = (output: unknown): object =>
  output !== null && typeof output === "object" ? output : { output };

const OUTCOMES = ["completed", "failed", "rejected"];

/** A program that knows the protocol says how the task ended; any other's output is the result. */
function taskResult(message: ClaimedMessage, output: unknown, tookMs: number): object {
  const { assignment } = message.content as { assignment?: unknown };
  const common = {
    task_id: message.taskId,
    ...(typeof assignment === "number" ? { assignment } : {}),
    execution_time_ms: Math.round(tookMs),
  };
  const own = output as { status?: unknown } | null;
  if (own !== null && typeof own === "object" && OUTCOMES.includes(own.status as string)) {
    return { ...common, ...own };
  }
  return { ...common, status: "completed", result: output === "" ? {} : wrapped(output) };
}
