import { readFile } from "node:fs/promises";
import type { Readable } from "node:stream";
import { UsageError } from "./exit-codes.ts";
import type { Terminal } from "./terminal.ts";

interface Source {
  readonly terminal: Terminal;
  readonly stdin: Readable & { readonly isTTY?: boolean };
}

/** The text behind an option's value: itself, a file (`@file`), or the standard input (`-`). */
async function textOf(option: string, given: string, { terminal, stdin }: Source): Promise<string> {
  if (given === "-") {
    if (stdin.isTTY === true) terminal.error(`Type the JSON for --${option}, then Ctrl-D.`);
    const chunks: Buffer[] = [];
    for await (const chunk of stdin) chunks.push(Buffer.from(chunk as Uint8Array));
    return Buffer.concat(chunks).toString("utf8");
  }
  if (!given.startsWith("@")) return given;
  try {
    return await readFile(given.slice(1), "utf8");
  } catch (cause) {
    throw new UsageError(`--${option}: ${(cause as Error).message}`);
  }
}

/** @throws UsageError saying where the text stops being JSON */
export async function readJson(option: string, given: string, source: Source): Promise<unknown> {
  const text = await textOf(option, given, source);
  if (text.trim() === "") throw new UsageError(`--${option}: there is nothing to read`);
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new UsageError(
      `--${option} is not JSON: ${(cause as Error).message}`,
      `Write it in single quotes, as in --${option} '{"key":"value"}', or give it as @file or - (standard input).`,
    );
  }
}

/** @throws UsageError unless it is a JSON object */
export async function readObject(
  option: string,
  given: string,
  source: Source,
): Promise<Record<string, unknown>> {
  const value = await readJson(option, given, source);
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw new UsageError(`--${option}: expected a JSON object, as in '{"key":"value"}'`);
  }
  return value as Record<string, unknown>;
}

/** `name=value` pairs. */
export function pairs(option: string, given: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    given.map((text) => {
      const at = text.indexOf("=");
      if (at < 1) throw new UsageError(`--${option}: expected NAME=VALUE, got "${text}"`);
      return [text.slice(0, at), text.slice(at + 1)];
    }),
  );
}
