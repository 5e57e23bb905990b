import { createInterface } from "node:readline/promises";
import type { Readable } from "node:stream";
import type { Terminal } from "./terminal.ts";

/** Asks a person before something is lost. A script has said what it wants by calling the command. */
export async function confirmed(
  terminal: Terminal,
  stdin: Readable & { readonly isTTY?: boolean },
  question: string,
): Promise<boolean> {
  if (stdin.isTTY !== true || !terminal.interactive || terminal.json) return true;
  terminal.raw(`${question} [y/N] `);
  const lines = createInterface({ input: stdin });
  try {
    for await (const line of lines) return /^y(es)?$/i.test(line.trim());
    return false;
  } finally {
    lines.close();
  }
}
