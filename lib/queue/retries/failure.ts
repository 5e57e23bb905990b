import { createHash } from "node:crypto";
import type { ErrorRecord } from "../../errors.ts";
import type { FailedRun } from "../../protocol/dead-letters.ts";

/** Equal for failures of one cause: digits and quoted parts of the text do not count. */
export function fingerprint(messageType: string, code: string, message: string): string {
  const shape = message.replace(/(["'`]).*?\1/g, "?").replace(/[0-9a-f]{8,}|\d+/gi, "#");
  return createHash("sha256")
    .update(`${messageType}\n${code}\n${shape.slice(0, 200)}`)
    .digest("hex")
    .slice(0, 16);
}

/** Text that any database takes: an error may quote anything. */
const clean = (text: string) => text.replaceAll("\0", "␀").toWellFormed();

export function storedError(record: ErrorRecord): string {
  return JSON.stringify({
    code: clean(record.code),
    message: clean(record.message),
    ...(record.stack === undefined ? {} : { stack: clean(record.stack) }),
  });
}

/** Ten of these are kept with a message that every claim reads: together about 16 KB at most. */
const MOST_TEXT = { code: 128, message: 400, stack: 800 } as const;

/** A failed run as it is kept with the message, as JSON; the database adds which run it was, whose and when. */
export function failedRun(
  { code, message, stack }: ErrorRecord,
  durationMs: number | null,
): string {
  const cut = (text: string, most: number) => clean(text.slice(0, most));
  return JSON.stringify({
    durationMs: durationMs === null ? null : Math.round(durationMs),
    error: {
      code: cut(code, MOST_TEXT.code),
      message: cut(message, MOST_TEXT.message),
      ...(stack === undefined ? {} : { stack: cut(stack, MOST_TEXT.stack) }),
    },
  });
}

/** Whether the error is the one that the run ended with, whose text may be cut. */
export function isErrorOf(run: FailedRun, { code, message }: ErrorRecord): boolean {
  return (
    clean(code.slice(0, MOST_TEXT.code)) === run.error.code &&
    clean(message.slice(0, MOST_TEXT.message)) === run.error.message
  );
}
