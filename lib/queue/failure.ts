import { createHash } from "node:crypto";
import type { ErrorRecord } from "../errors.ts";

/** Equal for failures of one cause: digits and quoted parts of the text do not count. */
export function fingerprint(messageType: string, code: string, message: string): string {
  const shape = message.replace(/(["'`]).*?\1/g, "?").replace(/[0-9a-f]{8,}|\d+/gi, "#");
  return createHash("sha256")
    .update(`${messageType}\n${code}\n${shape.slice(0, 200)}`)
    .digest("hex")
    .slice(0, 16);
}

/** Text that any database takes: an error may quote anything. */
export function storedError(record: ErrorRecord): string {
  const clean = (text: string) => text.replaceAll("\0", "␀").toWellFormed();
  return JSON.stringify({
    code: clean(record.code),
    message: clean(record.message),
    ...(record.stack === undefined ? {} : { stack: clean(record.stack) }),
  });
}
